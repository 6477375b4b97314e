"""Doubles for the tests, named by behaviour: real ONNX versions, but tiny, made in milliseconds and without training.

The network for images is the mean of each colour and a softmax: red, green and blue are the three labels.

A tiny version is an embedding, a masked mean, a linear layer and a softmax over a WordPiece vocabulary of the labels'
own words and single characters. So every text gets an answer of its own, a text that names a label is answered with
that label, and two versions with different names (seeds) answer with different probabilities.
"""

import base64
import json
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from regraft.answers import Labels, Numbers
from regraft.preprocessing import (
    ImagePreprocessor,
    ImageSpec,
    Preprocessor,
    TextPreprocessor,
    TextSpec,
    fingerprint,
)
from regraft.versions import Artifact, Manifest, Metric, VersionStore
from tests.images import plain, png

LABELS = ("negative", "neutral", "positive")
GOLDEN = ("a negative day", "neutral", "it was positive, truly positive", "one two three")
GOLDEN_IMAGES = (plain("red"), png(1), png(2, height=20, width=200))
IMAGE_SPEC = ImageSpec(height=16, width=16, mean=(0.5,) * 3, std=(0.5,) * 3, max_pixels=1_000_000)
WIDTH = 16
SLOW_STEPS = 200

Behaviour = Literal["plain", "contrary", "slow", "failing", "wrong_golden", "corrupted"]


def tiny_version(
    store_url: str | Path,
    version: str,
    *,
    labels: Sequence[str] = LABELS,
    numbers: Numbers | None = None,
    task: str = "reviews",
    input: Literal["text", "image"] = "text",  # noqa: A002 - as the task file says it
    behaviour: Behaviour = "plain",
    bias: Sequence[float] | None = None,
    seed: int | None = None,
    features: int = 8,
    accuracy: float = 0.9,
    files: Mapping[str, bytes] | None = None,
    **manifest: Any,
) -> Manifest:
    """Publish a tiny version and return its manifest; `bias` is added to the logits, `files` to the folder. With
    `numbers` it answers with a number for labels, in an interval of 1 to either side.

    plain: as the module says. contrary: names the label after the right one. slow: SLOW_STEPS milliseconds or so a run.
    failing: a run fails on a text with the word "explode". wrong_golden: does not reproduce its golden examples.
    corrupted: a byte of model.onnx was flipped after publishing.
    """
    generator = np.random.default_rng(zlib.crc32(version.encode()) if seed is None else seed)
    preprocessor: TextPreprocessor | ImagePreprocessor
    answers = Labels(tuple(labels)) if numbers is None else numbers
    labels = () if numbers else labels
    if input == "image":
        preprocessor = ImagePreprocessor(IMAGE_SPEC)
        model = _image_model(labels, generator, features=features)  # labels alone
    else:
        preprocessor = TextPreprocessor(_tokenizer(labels), TextSpec(max_tokens=64, max_characters=2_000, pad_id=0))
        model = _model(preprocessor, labels, generator, behaviour=behaviour, bias=bias, features=features)
    score = Metric(value=accuracy, low=accuracy - 0.02, high=accuracy + 0.02)
    metrics = dict.fromkeys(answers.figures, score)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "model.onnx")
        preprocessor.save(folder)
        (folder / "golden.json").write_text(json.dumps({"examples": _golden(folder, preprocessor, behaviour)}))
        for file, content in (files or {}).items():
            (folder / file).write_bytes(content)
        fields = {
            "version": version,
            "task": task,
            "created_at": datetime.now(UTC),
            **answers.as_task(),
            "input": input,
            "preprocessing_sha256": preprocessor.sha256,
            "features": features,
            "backbone": {"source": "tiny"},
            "artifacts": {"fp32": Artifact(file="model.onnx", kept=True, reason="the only one")},
            "temperature": 1.0,
            "validation": metrics,
            "test": metrics,
        }
        published = VersionStore(str(store_url)).publish(folder, Manifest.model_validate(fields | manifest))
    if behaviour == "corrupted":
        _flip_a_byte(Path(store_url) / version / "model.onnx")
    return published


def tiny_task(folder: Path, *, labels: Sequence[str] = LABELS, **sections: Any) -> Path:
    """A task file in `folder` that tiny versions fit; `sections` are those of the task file."""
    path = folder / "task.yaml"
    task = {
        "name": "reviews",
        "labels": [] if sections.get("kind") == "regression" else list(labels),
        "backbone": {"source": "tiny"},
        "data": {"files": ["none.csv"]},
    }
    path.write_text(yaml.safe_dump(task | sections))
    return path


def _tokenizer(labels: Sequence[str]) -> bytes:
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = sorted({word for label in labels for word in label.lower().replace("-", " ").split()} - set(letters))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *letters, *(f"##{letter}" for letter in letters), "explode"]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return str(tokenizer.to_str()).encode()


def _model(
    preprocessor: TextPreprocessor,
    labels: Sequence[str],
    generator: np.random.Generator,
    *,
    behaviour: Behaviour,
    bias: Sequence[float] | None,
    features: int,
) -> onnx.ModelProto:
    """input_ids, attention_mask (batch, tokens) -> probabilities (batch, labels), features (batch, features)"""
    (explode,) = (one.ids[1] for one in preprocessor.encode(["explode"]))
    embedding = generator.normal(size=(explode + 1, WIDTH))
    weight = generator.normal(size=(WIDTH, len(labels) or 1))
    for index, label in enumerate(labels):
        answered = (index + 1) % len(labels) if behaviour == "contrary" else index
        for token in preprocessor.encode([label])[0].ids[1:-1]:
            embedding[token] = np.linalg.pinv(weight)[answered] * 100
    constants = {
        # To fail, the table ends before the last token of the vocabulary.
        "embedding": embedding[:-1] if behaviour == "failing" else embedding,
        "weight": weight,
        "bias": np.zeros(len(labels) or 1) if bias is None else np.asarray(bias, dtype=float),
        "projection": generator.normal(size=(WIDTH, features)),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["embedded", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["summed"], keepdims=0),
        helper.make_node("ReduceSum", ["mask3", "tokens"], ["counted"], keepdims=0),
        helper.make_node("Div", ["summed", "counted"], ["mean"]),
        *(_delay(constants) if behaviour == "slow" else [helper.make_node("Identity", ["mean"], ["pooled"])]),
        helper.make_node("MatMul", ["pooled", "weight"], ["multiplied"]),
        helper.make_node("Add", ["multiplied", "bias"], ["logits"]),
        *_answering(labels, constants),
        helper.make_node("MatMul", ["pooled", "projection"], ["features"]),
    ]
    answers = ("probabilities", len(labels)) if labels else ("value", 4)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info(answers[0], TensorProto.FLOAT, ["batch", answers[1]]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", features]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
        + [_integers("last", [-1]), _integers("tokens", [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _answering(labels: Sequence[str], constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """logits -> probabilities; or, where there are no labels: number, low, high, confidence."""
    if labels:
        return [helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1)]
    constants |= {"one": np.asarray(1.0), "quarter": np.asarray(0.25), "nought": np.asarray(0.0)}
    return [
        helper.make_node("Sub", ["logits", "one"], ["low"]),
        helper.make_node("Add", ["logits", "one"], ["high"]),
        helper.make_node("Mul", ["logits", "nought"], ["noughts"]),
        helper.make_node("Add", ["noughts", "quarter"], ["sure"]),
        helper.make_node("Concat", ["logits", "low", "high", "sure"], ["value"], axis=1),
    ]


def _image_model(labels: Sequence[str], generator: np.random.Generator, *, features: int) -> onnx.ModelProto:
    """pixels (batch, 3, height, width) -> probabilities (batch, labels), features (batch, features)"""
    constants = {"weight": 4 * np.eye(3, len(labels)), "projection": generator.normal(size=(3, features))}
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        helper.make_node("MatMul", ["mean", "projection"], ["features"]),
    ]
    side = IMAGE_SPEC.width
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, side, side])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(labels)]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", features]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _delay(constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """mean -> pooled, the same but for a loop of matrix products of a millisecond or so each."""
    constants |= {"state": np.eye(256), "tiny": np.asarray(1e-30)}
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state_in", "state_in"], ["product"]),
            helper.make_node("Tanh", ["product"], ["state_out"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [256, 256]),
        ],
    )
    return [
        helper.make_node("Constant", [], ["steps"], value_int=SLOW_STEPS),
        helper.make_node("ReduceMax", ["mean"], ["seen"], keepdims=0),
        helper.make_node("Mul", ["seen", "tiny"], ["almost_zero"]),
        helper.make_node("Add", ["state", "almost_zero"], ["start"]),  # from the input, so that it is not folded away
        helper.make_node("Loop", ["steps", "", "start"], ["state_end"], body=body),
        helper.make_node("ReduceMax", ["state_end"], ["end"], keepdims=0),
        helper.make_node("Mul", ["end", "tiny"], ["nothing"]),
        helper.make_node("Add", ["mean", "nothing"], ["pooled"]),
    ]


def _golden(
    folder: Path, preprocessor: TextPreprocessor | ImagePreprocessor, behaviour: Behaviour
) -> list[dict[str, Any]]:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    examples = []
    given: Preprocessor = preprocessor
    images = isinstance(preprocessor, ImagePreprocessor)
    for one in GOLDEN_IMAGES if images else GOLDEN:
        tensors = given.collate(given.encode([one]))
        answered = session.run(None, tensors)[0][0]
        expected = answered[::-1] if behaviour == "wrong_golden" else answered
        examples.append(
            {
                **({"image": base64.b64encode(one).decode()} if isinstance(one, bytes) else {"input": one}),
                "tensors": {
                    name: fingerprint(tensor[0]) if images else tensor[0].tolist() for name, tensor in tensors.items()
                },
                "probabilities": [float(value) for value in expected],  # as older versions have it
            }
        )
    return examples


def _integers(name: str, values: Sequence[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype=np.int64), name)


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


class Clock:
    """Stands still until a test moves `now`, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
