"""Runs an exported graph as the service does: ONNX Runtime on the CPU, one thread, texts of like length together."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from regraft.preprocessing import Encoding, Preprocessor
from training.cache import batches_by_length

SERVING_BATCH = 8


class Scores(NamedTuple):
    answers: NDArray[np.float32]  # (rows, columns): probabilities by label; or a number, its interval, its confidence
    features: NDArray[np.float32]  # (rows, features)


class Scorer:
    """One artifact with its preprocessor."""

    def __init__(self, file: Path, preprocessor: Preprocessor, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._preprocessor = preprocessor

    def run(self, encodings: Sequence[Any]) -> Scores:
        """These texts as one padded batch."""
        return Scores(*self._session.run(None, self._preprocessor.collate(encodings)))

    def run_in(self, encodings: Sequence[Any], batches: Sequence[Sequence[int]]) -> Scores:
        """All of them, in these batches of indices."""
        results = [self.run([encodings[index] for index in indices]) for indices in batches]
        order = np.argsort(np.concatenate([np.asarray(indices) for indices in batches]))
        return Scores(*(np.concatenate(arrays)[order] for arrays in zip(*results, strict=True)))

    def answers(self, inputs: Iterable[Any]) -> NDArray[np.float32]:
        """(rows, columns). Inputs are encoded one by one; texts that come out the same are asked once."""
        encodings = [encoding for one in inputs for encoding in self._preprocessor.encode([one])]
        keys = [tuple(one.ids) if isinstance(one, Encoding) else place for place, one in enumerate(encodings)]
        different = dict(zip(keys, encodings, strict=True))
        places = {key: place for place, key in enumerate(different)}
        answers = self.score(list(different.values())).answers
        return np.asarray(answers[[places[key] for key in keys]])

    def score(self, encodings: Sequence[Any]) -> Scores:
        lengths = [encoding.length for encoding in encodings]
        return self.run_in(encodings, list(batches_by_length(lengths, SERVING_BATCH)))
