"""Which backbone to start from: each is tried on a few labelled rows, and what it costs to serve is measured.

training part -> some hundred rows -> each backbone, frozen -> linear head, cross-validated -> quality with intervals
each backbone -> exported -> a process of its own -> size, memory, latency -> the cheapest that is as good as the best

A frozen backbone under a linear head is the quick way: seconds for each, and the order is mostly that of fine-tuning.
"""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from regraft.answers import LESS_IS_BETTER, SHORT, written
from regraft.errors import ConfigError, DataError
from regraft.sections import Backbone
from regraft.task import Task
from regraft.versions import Metric
from training.backbone import open_backbone
from training.baselines import FROZEN
from training.cache import batches_by_length
from training.data import Row, spread
from training.export import FP32, Exported, principal_components, spread_by_length, write_golden, write_onnx
from training.footprint import measure
from training.kinds import encoder_of, preprocessor_of
from training.network import Network, Output
from training.runtime import Scorer
from training.targets import Target, target_of

FOLDS = 5
BATCH = 32


class Quality(NamedTuple):
    figures: dict[str, Metric]
    predicted: NDArray[Any]  # (rows,)


class Tried(BaseModel):
    """One backbone: how good it is, what it costs. Sizes in bytes, latencies of one input on one thread."""

    source: str
    licence: str
    figures: dict[str, Metric]
    behind: Metric  # how much better the best one is in the figure that they are judged by, on the same rows
    parameters: int
    artifact_bytes: int
    peak_bytes: int
    p50_ms: float
    p99_ms: float


class Comparison(BaseModel):
    """`tried` with the best first, by the figure `judged`; `refused` says why a backbone could not be tried."""

    rows: int
    judged: str
    tried: list[Tried]
    refused: dict[str, str]

    @property
    def best(self) -> Tried:
        return self.tried[0]

    @property
    def cheapest(self) -> Tried:
        """The fastest of those whose figure is within the confidence interval of the best one's."""
        edge = self.best.figures[self.judged]
        if self.judged in LESS_IS_BETTER:
            good = [one for one in self.tried if one.figures[self.judged].value <= edge.high]
        else:
            good = [one for one in self.tried if one.figures[self.judged].value >= edge.low]
        return min(good, key=lambda one: one.p50_ms)


def try_backbones(task: Task, rows: Sequence[Row], backbones: Sequence[Backbone]) -> Comparison:
    """Raises DataError when there are too few rows, ConfigError when no backbone at all can be used."""
    counts = Counter(row.label for row in rows)
    told_apart = [label for label, count in counts.items() if count > 1] if task.labels else list(counts)
    if len(rows) < 2 * FOLDS or len(told_apart) < 2:
        raise DataError(
            f"{len(rows)} rows are too few to compare on; {2 * FOLDS} of two labels are needed, and two rows of each"
        )
    target, judged = target_of(task, rows), task.answers.judged
    truth, refused = target.truth(rows), {}
    found: list[tuple[Quality, Tried]] = []
    for backbone in backbones:
        try:
            found.append(_tried(task, rows, target, truth, backbone))
        except ConfigError as error:
            refused[backbone.source] = str(error)
    if not found:
        raise ConfigError("no backbone can be used:\n" + "\n".join(refused.values()))
    found.sort(key=lambda one: one[0].figures[judged].value, reverse=judged not in LESS_IS_BETTER)
    best, options = found[0][0], {"resamples": task.training.bootstrap, "seed": task.data.seed}
    tried = []
    for quality, one in found:
        differences = target.compare(truth, best.predicted, quality.predicted, **options)
        tried.append(one.model_copy(update={"behind": differences[judged]}))
    return Comparison(rows=len(rows), judged=judged, tried=tried, refused=refused)


def sample(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """As many of `rows` at random, or all; each label has its share."""
    shuffled = random.Random(seed).sample(list(rows), len(rows))
    return spread(sorted(shuffled, key=lambda row: row.label), count)


def folds_of(truth: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """(rows,): dealt out in the order of labels, or of numbers, so that each fold has its share of all of them, and no
    two rows of a label while another has none."""
    order = np.lexsort((np.random.default_rng(seed).random(len(truth)), truth))
    folds = np.empty(len(truth), dtype=np.int64)
    folds[order] = np.arange(len(truth)) % FOLDS
    return folds


def table(comparison: Comparison) -> list[str]:
    """For people: a line for each, then which to take."""
    judged = comparison.judged
    other = next(name for name in comparison.best.figures if name != judged)
    head = (
        f"{'backbone':36}{SHORT[judged] + ' (95% interval)':>26}{SHORT[other]:>10}{'parameters':>12}{'artifact':>10}"
        f"{'memory':>9}"
    )
    lines = [head + f"{'p50 ms':>9}{'p99 ms':>9}  licence"]
    for one in comparison.tried:
        quality, beside = one.figures[judged].written(judged), written(one.figures[other].value, other)
        sizes = f"{one.parameters / 1e6:>10.1f} M{one.artifact_bytes / 1e6:>7.0f} MB{one.peak_bytes / 1e6:>6.0f} MB"
        times = f"{one.p50_ms:>9.1f}{one.p99_ms:>9.1f}"
        name = one.source if len(one.source) < 36 else "..." + one.source[-32:]
        lines.append(f"{name:36}{quality:>26}{beside:>10}{sizes}{times}  {one.licence}")
    lines += [f"not tried: {reason}" for reason in comparison.refused.values()]
    cheapest, best = comparison.cheapest, comparison.best
    lines.append(f"frozen, under a linear head, cross-validated on {comparison.rows} training rows; one thread, fp32")
    if cheapest is best:
        lines.append(f"take {best.source}: none that is cheaper comes within the interval of its {SHORT[judged]}")
    else:
        lines.append(
            f"take {cheapest.source}: within the interval of {best.source}, the best, at"
            f" {cheapest.p50_ms / best.p50_ms:.0%} of its time, {cheapest.behind.written(judged)} behind in"
            f" {SHORT[judged]}"
        )
    return lines


def save(comparison: Comparison, file: Path) -> None:
    body = comparison.model_dump() | {"best": comparison.best.source, "cheapest": comparison.cheapest.source}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(body, indent=2))


def _tried(
    task: Task, rows: Sequence[Row], target: Target, truth: NDArray[Any], backbone: Backbone
) -> tuple[Quality, Tried]:
    card = open_backbone(backbone)
    preprocessor = preprocessor_of(task, card)
    network = Network(encoder_of(card, preprocessor), labels=target.width, frozen=1.0, seed=task.training.seed)
    encodings = preprocessor.encode([row.input for row in rows])
    pooled = np.empty((len(rows), network.width), dtype=np.float32)
    network.learning_mode(on=False)
    with torch.inference_mode():
        for indices in batches_by_length([one.length for one in encodings], BATCH):
            tensors = preprocessor.collate([encodings[index] for index in indices])
            pooled[indices] = network(*map(torch.from_numpy, tensors.values())).pooled.numpy()
    quality = _quality(task, pooled, target, truth)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = Exported(network, _Logits(), principal_components(pooled, task.export.features))
        write_onnx(exported, folder / FP32)
        preprocessor.save(folder)
        scorers = {FP32: Scorer(folder / FP32, preprocessor)}
        golden = spread_by_length([row.input for row in rows], task.export.golden)
        write_golden(folder / "golden.json", golden, preprocessor, scorers)
        cost, size = measure(folder, FP32), (folder / FP32).stat().st_size
    return quality, Tried(
        source=backbone.source,
        licence=card.licence,
        figures=quality.figures,
        behind=Metric(value=0, low=0, high=0),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        artifact_bytes=size,
        peak_bytes=cost.peak_bytes,
        p50_ms=cost.p50_ms,
        p99_ms=cost.p99_ms,
    )


def _quality(task: Task, pooled: NDArray[np.float32], target: Target, truth: NDArray[Any]) -> Quality:
    """Each row is judged by a head that was fitted without it."""
    folds = PredefinedSplit(folds_of(truth, task.data.seed))
    model = make_pipeline(StandardScaler(), target.linear(FROZEN))
    predicted: NDArray[Any] = cross_val_predict(model, pooled, truth, cv=folds).astype(truth.dtype)
    metrics = target.evaluate(truth, predicted, resamples=task.training.bootstrap, seed=task.data.seed)
    return Quality({name: metrics[name] for name in task.answers.figures}, predicted)


class _Logits(nn.Module):
    def forward(self, output: Output) -> Tensor:
        return output.logits
