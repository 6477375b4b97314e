"""From the trained network to what a version serves: ONNX graphs proven to answer as PyTorch does, golden examples.

network, what makes answers of its outputs, projection -> model.onnx -> parity with PyTorch on real rows
-> model.int8.onnx if it earns its place -> golden.json
"""

import base64
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.errors import VersionRefused
from regraft.preprocessing import Preprocessor, fingerprint
from training.cache import batches_by_length
from training.data import spread
from training.network import Network
from training.pictures import ImageFiles, read_image
from training.runtime import Scorer, Scores
from training.targets import Target

OPSET = 18
FP32 = "model.onnx"
FEATURE_TOLERANCE = 0.01  # deviations, of what drift is watched on


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime is from PyTorch on `rows` real rows."""

    rows: int
    largest_difference: float
    largest_feature_difference: float
    same_label: float  # share of the rows with the same answer


class Exported(nn.Module):
    """What the graph computes: answers that say how sure they are, and the pooled vector projected for drift."""

    def __init__(self, network: Network, answering: nn.Module, projection: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.network = network
        self.answering = answering
        self.components: Tensor
        self.offset: Tensor
        self.register_buffer("components", projection[0])
        self.register_buffer("offset", projection[1])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(*inputs)
        return self.answering(output), nn.functional.linear(output.pooled, self.components, self.offset)


def principal_components(pooled: NDArray[np.float32], width: int) -> tuple[Tensor, Tensor]:
    """Weights (width, pooled) and offset of the leading directions of `pooled`, each with variance 1 on these rows.

    Directions beyond what so few rows span are 0.
    """
    mean = pooled.mean(axis=0, dtype=np.float64)
    centred = pooled - mean
    # Of the covariance, not of the rows themselves: that would take three times their memory.
    variances, vectors = np.linalg.eigh(centred.T @ centred / max(len(pooled) - 1, 1))
    spread, directions = np.sqrt(variances[::-1].clip(min=0)), vectors.T[::-1]
    real = spread > 1e-6 * spread.max(initial=0)
    directions = directions[real][:width] / spread[real][:width, None]
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])  # a direction has none
    components = np.zeros((width, pooled.shape[1]))
    components[: len(directions)] = directions * signs[:, None]
    return torch.tensor(components, dtype=torch.float32), torch.tensor(-components @ mean, dtype=torch.float32)


def write_onnx(model: Exported, file: Path, output: str = "probabilities") -> None:
    """Dynamic in batch, and of texts in tokens; `output` names the answers."""
    network = model.network
    network.learning_mode(on=False)
    example = network.encoder.example()
    axes = {name: {0: "batch", 1: "tokens"} if one.dim() == 2 else {0: "batch"} for name, one in example.items()}
    with network.encoder.exporting(), warnings.catch_warnings():
        # The newer exporter takes 17 times as long, for a graph that runs slower (docs/decisions.md).
        # It warns of being old, and of shapes that it takes for constants; parity is checked on rows of many lengths.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            tuple(example.values()),
            str(file),
            input_names=list(example),
            output_names=[output, "features"],
            dynamic_axes=axes | {output: {0: "batch"}, "features": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )


def check_parity(
    model: Exported,
    scorer: Scorer,
    preprocessor: Preprocessor,
    encodings: Sequence[Any],
    tolerance: float,
    target: Target,
) -> Parity:
    """Raises VersionRefused when the graph does not answer as PyTorch does."""
    expected = _in_pytorch(model, preprocessor, encodings)
    got = scorer.score(encodings)
    parity = Parity(
        rows=len(encodings),
        largest_difference=target.answers.difference(expected.answers, got.answers, target.unit),
        largest_feature_difference=float(np.abs(expected.features - got.features).max()),
        same_label=float(np.mean(target.same(target.read(expected.answers), target.read(got.answers)))),
    )
    for what, difference, allowed in (
        ("answers", parity.largest_difference, tolerance),
        ("features", parity.largest_feature_difference, FEATURE_TOLERANCE),
    ):
        if not difference <= allowed:
            raise VersionRefused(
                f"the ONNX graph does not answer as PyTorch does: {what} differ by up to {difference:.2g}"
                f" on {parity.rows} rows, {allowed:.2g} is allowed",
                **asdict(parity),
            )
    return parity


def write_golden(
    file: Path,
    texts: Sequence[str],
    preprocessor: Preprocessor,
    scorers: dict[str, Scorer],
) -> None:
    """What a server has to reproduce: `by_precision`, what each artifact answers."""
    examples: list[dict[str, Any]] = []
    for text in texts:
        encodings = preprocessor.encode([text])
        answers = {name: scorer.run(encodings).answers[0].tolist() for name, scorer in scorers.items()}
        tensors = {
            name: values[0].tolist() if values.dtype.kind == "i" else fingerprint(values[0])
            for name, values in preprocessor.collate(encodings).items()
        }
        is_image = isinstance(preprocessor, ImageFiles)
        given = {"image": base64.b64encode(read_image(text)).decode()} if is_image else {"input": text}
        examples.append(given | {"tensors": tensors, "by_precision": answers})
    file.write_text(json.dumps({"examples": examples}, ensure_ascii=False, indent=1))


def spread_by_length(texts: Sequence[str], count: int) -> list[str]:
    """`count` of them, from the shortest to the longest."""
    return spread(sorted(set(texts), key=lambda text: (len(text), text)), count)


def _in_pytorch(model: Exported, preprocessor: Preprocessor, encodings: Sequence[Any]) -> Scores:
    answers, features, order = [], [], []
    with torch.inference_mode():
        for indices in batches_by_length([encoding.length for encoding in encodings], 32):
            tensors = preprocessor.collate([encodings[index] for index in indices])
            outputs = model(*map(torch.from_numpy, tensors.values()))
            answers.append(outputs[0].numpy())
            features.append(outputs[1].numpy())
            order.extend(indices)
    back = np.argsort(order)
    return Scores(np.concatenate(answers)[back], np.concatenate(features)[back])
