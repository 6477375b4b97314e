"""What every server that Regraft is compared with calls: tokenizer and ONNX Runtime, as anyone would write it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer
from typing_extensions import TypedDict


class Answer(TypedDict):
    label: str
    probabilities: list[float]


class Classifier:
    """Serves the version whose folder MODEL_FOLDER names, on one thread: the processors are shared between runs."""

    def __init__(self) -> None:
        folder = Path(os.environ["MODEL_FOLDER"])
        manifest = json.loads((folder / "manifest.json").read_text())
        self._labels: list[str] = manifest["labels"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = folder / manifest["artifacts"][manifest["serve_cpu"]]["file"]
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(json.loads((folder / "preprocessing.json").read_text())["max_tokens"])
        self._tokenizer.enable_padding()

    def __call__(self, texts: Sequence[str]) -> list[Answer]:
        encodings = self._tokenizer.encode_batch(list(texts))
        tensors = {
            "input_ids": np.array([one.ids for one in encodings], dtype=np.int64),
            "attention_mask": np.array([one.attention_mask for one in encodings], dtype=np.int64),
        }
        (probabilities,) = self._session.run(["probabilities"], tensors)
        return [{"label": self._labels[int(row.argmax())], "probabilities": row.tolist()} for row in probabilities]
