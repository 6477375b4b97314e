"""Which precision serves: int8 for CPUs and fp16 for GPUs are tried, measured against float32, and kept if worth it.

They have to be as accurate and to give each input the same answer alone and among others; int8 has to be faster, too.
fp16 is measured on the CPU, which rounds as a GPU does, if not in the same places; how fast it is, only a GPU can say.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.preprocessing import Preprocessor
from regraft.sections import Export
from regraft.versions import Artifact
from training.cache import batches_by_length
from training.export import FP32, Parity
from training.half import halve
from training.quantize import quantize
from training.quantize_convolutions import quantize_convolutions
from training.runtime import SERVING_BATCH, Scorer
from training.targets import Target

INT8 = "model.int8.onnx"
FP16 = "model.fp16.onnx"
SAMPLE = 160  # inputs that speed and neighbours are measured on
CALIBRATION = 64  # inputs
# Share of the convolutions that stay in float32. The first see large maps of few channels, where 8 bits lose most and
# gain least: see docs/decisions.md.
SPARED = 1 / 8
SEED = 0
# Times `tolerance` that a GPU's fp16 may be from the CPU's, since both round, each elsewhere. From float32 the CPU's
# was 1.0 times away (MiniLM, 390 rows); an artifact that is more than half of what is allowed away from it is dropped.
ROUNDING = 10

Reals = NDArray[np.float32]


class Choice(NamedTuple):
    """Every artifact by precision, kept or not, and the precisions that serve."""

    artifacts: dict[str, Artifact]
    cpu: str
    gpu: str


def choose(
    folder: Path,
    preprocessor: Preprocessor,
    encodings: Sequence[Any],
    truth: NDArray[Any],
    settings: Export,
    parity: Parity,
    seen: Sequence[Any],
    target: Target,
) -> Choice:
    """What is measured, is measured on the validation rows. A dropped file is removed.

    `seen` are `CALIBRATION` training rows, which the sizes of activations are taken from.
    """
    reference = Measurement.of(folder / FP32, preprocessor, encodings)
    plain = reference.artifact(truth, reference, target)
    artifacts = {
        "fp32": plain.model_copy(
            update={"kept": True, "reason": "the reference", "largest_difference": parity.largest_difference}
        )
    }
    if settings.int8:
        indices = batches_by_length([encoding.length for encoding in seen], SERVING_BATCH)
        batches = [preprocessor.collate([seen[index] for index in one]) for one in indices]
        quantize(folder / FP32, folder / INT8, batches)
        quantize_convolutions(folder / INT8, batches, SPARED)
        small = Measurement.of(folder / INT8, preprocessor, encodings).artifact(truth, reference, target)
        failing = objections(small, settings, target) + slowness(small, plain)
        artifacts["int8"] = _judged(folder, small, failing, "as good, faster, and its answers stand alone")
    if settings.fp16:
        halve(folder / FP32, folder / FP16)
        half = Measurement.of(folder / FP16, preprocessor, encodings).artifact(truth, reference, target)
        half = half.model_copy(update={"tolerance": ROUNDING * settings.tolerance})
        failing = objections(half, settings, target) + strangeness(half)
        artifacts["fp16"] = _judged(folder, half, failing, "as good, and its answers stand alone")
    return Choice(artifacts, _best(artifacts, "int8"), _best(artifacts, "fp16"))


def objections(small: Artifact, settings: Export, target: Target) -> list[str]:
    """Why an artifact is not to be kept, on whatever it serves; empty when it is."""
    found = []
    lost = small.measured["lost"]
    if not lost <= settings.accuracy_loss:
        found.append(f"loses {lost:.4f} of {target.loses}, {settings.accuracy_loss} is allowed")
    difference, changed = small.measured["neighbour_difference"], small.measured["neighbour_labels_changed"]
    if not difference <= settings.tolerance or changed:
        found.append(f"answers depend on the batch: by up to {difference:.2g}, {changed} answers change")
    return found


def slowness(small: Artifact, plain: Artifact) -> list[str]:
    return ["is not faster"] if small.measured["batched_per_second"] <= plain.measured["batched_per_second"] else []


def strangeness(half: Artifact) -> list[str]:
    """What is too far from float32 could not be told from another network where the golden examples are replayed."""
    difference, allowed = half.largest_difference or 0.0, (half.tolerance or 0.0) / 2
    return [] if difference <= allowed else [f"is {difference:.2g} away from float32, {allowed:.2g} is allowed"]


def _judged(folder: Path, artifact: Artifact, failing: list[str], praise: str) -> Artifact:
    if failing:
        (folder / artifact.file).unlink()
    return artifact.model_copy(update={"kept": not failing, "reason": "; ".join(failing) or praise})


def _best(artifacts: dict[str, Artifact], precision: str) -> str:
    return precision if precision in artifacts and artifacts[precision].kept else "fp32"


class Measurement(NamedTuple):
    """What one artifact answered, and how fast: inputs per second of one thread's own time.

    Alone, mixed and sorted are a sample of the rows: one by one, in batches of any lengths, in batches of like length.
    """

    file: Path
    answers: Reals  # (rows, columns), of all rows
    alone: Reals
    mixed: Reals
    single_per_second: float
    batched_per_second: float

    @classmethod
    def of(cls, file: Path, preprocessor: Preprocessor, encodings: Sequence[Any]) -> "Measurement":
        scorer = Scorer(file, preprocessor)
        answers = scorer.score(encodings).answers
        order = np.random.default_rng(SEED).permutation(len(encodings))[:SAMPLE]
        sample = [encodings[index] for index in order]
        alone, single_per_second = timed(scorer, sample, [[index] for index in range(len(sample))])
        _, batched_per_second = timed(
            scorer, sample, list(batches_by_length([e.length for e in sample], SERVING_BATCH))
        )
        in_order = [
            range(start, min(start + SERVING_BATCH, len(sample))) for start in range(0, len(sample), SERVING_BATCH)
        ]
        mixed, _ = timed(scorer, sample, in_order)
        return cls(file, answers, alone, mixed, single_per_second, batched_per_second)

    def artifact(self, truth: NDArray[Any], reference: "Measurement", target: Target) -> Artifact:
        alone, mixed = target.read(self.alone), target.read(self.mixed)
        return Artifact(
            file=self.file.name,
            kept=False,
            reason="",
            **target.quality(truth, target.read(self.answers)),
            largest_difference=target.answers.difference(self.answers, reference.answers, target.unit),
            measured={
                "lost": target.lost(truth, self.answers, reference.answers),
                "single_per_second": round(self.single_per_second, 1),
                "batched_per_second": round(self.batched_per_second, 1),
                "neighbour_difference": target.answers.difference(self.alone, self.mixed, target.unit),
                "neighbour_labels_changed": int(np.sum(~target.same(alone, mixed))),
                "bytes": self.file.stat().st_size,
            },
        )


def timed(scorer: Scorer, encodings: Sequence[Any], batches: Sequence[Sequence[int]]) -> tuple[Reals, float]:
    """Answers, and inputs per second of this thread's time: what else the machine does, does not count."""
    started = time.thread_time()
    answers = scorer.run_in(encodings, batches).answers
    return answers, len(encodings) / (time.thread_time() - started)
