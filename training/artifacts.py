"""Which precision serves on the CPU: int8 is tried, measured against float32, and kept only if it earns its place.

It has to be as accurate, to be faster, and to give each text the same answer alone and among others.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.preprocessing import Encoding, TextPreprocessor
from regraft.task import Export
from regraft.versions import Artifact
from training.cache import batches_by_length
from training.export import FP32, Parity
from training.quantize import quantize
from training.runtime import SERVING_BATCH, Scorer

INT8 = "model.int8.onnx"
SAMPLE = 160  # texts that speed and neighbours are measured on
CALIBRATION = 64  # texts
SEED = 0


class Neighbours(NamedTuple):
    """What a text's company changes: in probability at most, and in how many labels."""

    largest_difference: float
    labels_changed: int


def choose(
    folder: Path,
    preprocessor: TextPreprocessor,
    encodings: Sequence[Encoding],
    truth: NDArray[np.int64],
    settings: Export,
    parity: Parity,
    seen: Sequence[Encoding],
) -> tuple[dict[str, Artifact], str]:
    """Every artifact with what was measured on the validation rows, and the one to serve. A dropped file is removed.

    `seen` are training rows, which the sizes of activations are taken from.
    """
    plain = measure(folder / FP32, preprocessor, encodings, truth)
    artifacts = {
        "fp32": plain.model_copy(
            update={"kept": True, "reason": "the reference", "largest_difference": parity.largest_difference}
        )
    }
    if not settings.int8:
        return artifacts, "fp32"
    batches = batches_by_length([encoding.length for encoding in seen[:CALIBRATION]], SERVING_BATCH)
    quantize(folder / FP32, folder / INT8, (preprocessor.collate([seen[index] for index in one]) for one in batches))
    small = measure(folder / INT8, preprocessor, encodings, truth, against=folder / FP32)
    failing = objections(small, plain, settings)
    artifacts["int8"] = small.model_copy(
        update={"kept": not failing, "reason": "; ".join(failing) or "as good, faster, and its answers stand alone"}
    )
    if failing:
        (folder / INT8).unlink()
    return artifacts, "fp32" if failing else "int8"


def objections(small: Artifact, plain: Artifact, settings: Export) -> list[str]:
    """Why the int8 artifact is not to be kept; empty when it is."""
    found = []
    lost = (plain.accuracy or 0.0) - (small.accuracy or 0.0)
    if lost > settings.int8_loss:
        found.append(f"loses {lost:.4f} of accuracy, {settings.int8_loss} is allowed")
    difference, changed = small.measured["neighbour_difference"], small.measured["neighbour_labels_changed"]
    if difference > settings.tolerance or changed:
        found.append(f"answers depend on the batch: by up to {difference:.2g}, {changed} labels change")
    if small.measured["batched_per_second"] <= plain.measured["batched_per_second"]:
        found.append("is not faster")
    return found


def measure(
    file: Path,
    preprocessor: TextPreprocessor,
    encodings: Sequence[Encoding],
    truth: NDArray[np.int64],
    against: Path | None = None,
) -> Artifact:
    """Accuracy on all rows; speed in texts per second on one thread and the effect of neighbours on a sample."""
    scorer = Scorer(file, preprocessor)
    answers = scorer.score(encodings).probabilities
    sample = [encodings[index] for index in _sample(len(encodings))]
    neighbours = company(scorer, sample)
    lengths = [encoding.length for encoding in sample]
    alone = [[index] for index in range(len(sample))]
    sorted_batches = list(batches_by_length(lengths, SERVING_BATCH))
    measured = {
        "single_per_second": round(_speed(scorer, sample, alone), 1),
        "batched_per_second": round(_speed(scorer, sample, sorted_batches), 1),
        "neighbour_difference": neighbours.largest_difference,
        "neighbour_labels_changed": neighbours.labels_changed,
        "bytes": file.stat().st_size,
    }
    difference = None
    if against is not None:
        expected = Scorer(against, preprocessor).score(sample).probabilities
        difference = float(np.abs(expected - scorer.score(sample).probabilities).max())
    return Artifact(
        file=file.name,
        kept=False,
        reason="",
        accuracy=float(np.mean(answers.argmax(axis=1) == truth)),
        largest_difference=difference,
        measured=measured,
    )


def company(scorer: Scorer, encodings: Sequence[Encoding]) -> Neighbours:
    """Each text alone and among others of any length, padding and all."""
    alone = scorer.run_in(encodings, [[index] for index in range(len(encodings))]).probabilities
    order = np.random.default_rng(SEED).permutation(len(encodings)).tolist()
    mixed = [order[start : start + SERVING_BATCH] for start in range(0, len(order), SERVING_BATCH)]
    among = scorer.run_in(encodings, mixed).probabilities
    changed = int(np.sum(alone.argmax(axis=1) != among.argmax(axis=1)))
    return Neighbours(float(np.abs(alone - among).max()), changed)


def _speed(scorer: Scorer, encodings: Sequence[Encoding], batches: Sequence[Sequence[int]]) -> float:
    """Texts per second of this thread's own time: what else the machine is doing does not count."""
    started = time.thread_time()
    scorer.run_in(encodings, batches)
    return len(encodings) / (time.thread_time() - started)


def _sample(rows: int) -> NDArray[np.int64]:
    return np.random.default_rng(SEED).permutation(rows)[:SAMPLE]
