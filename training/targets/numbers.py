"""A number: learned in deviations from the mean of the training part, answered in the caller's unit, in an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge
from torch import Tensor

from regraft.answers import Numbers, in_words
from regraft.sections import Training, Value
from regraft.versions import Metric
from training import baselines, intervals, losses, residuals, slices
from training.baselines import Heuristic
from training.data import Row
from training.losses import Loss
from training.outputs import Outputs
from training.targets.base import Asked, Columns, Reals, Worst

OTHERWISE = 0.1  # deviations between two answers, above which they are not the same to whoever acts on them
PAIRS = 2000  # of truth and answer that are kept to be drawn


@dataclass(frozen=True)
class NumberTarget:
    """`center` and `unit` are the mean and the deviation of the training part; `level` is that of intervals."""

    answers: Numbers
    center: float
    unit: float
    level: float

    @classmethod
    def over(cls, answers: Numbers, train: Sequence[Row], level: float) -> Self:
        values = np.array([float(row.label) for row in train])
        return cls(answers, float(values.mean()), float(values.std()) or 1.0, level)

    @property
    def width(self) -> int:
        return 1

    @property
    def loses(self) -> str:
        return "a deviation, in mean absolute error"

    def truth(self, rows: Sequence[Row]) -> Reals:
        return self.read_labels([row.label for row in rows])

    def read_labels(self, labels: Sequence[str]) -> Reals:
        return np.array([float(label) for label in labels], dtype=np.float64)

    def taught(self, truth: Reals) -> Tensor:
        return torch.from_numpy(((truth - self.center) / self.unit).astype(np.float32))

    def loss(self, settings: Training, taught: Tensor) -> Loss:
        return losses.choose_for_numbers(settings, taught)

    def tally(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """Sums over rows of what the metrics are made of."""
        return torch.from_numpy(residuals.sums_of(taught.double().numpy(), outputs[:, 0].double().numpy()).sum(axis=0))

    def figures(self, tally: Tensor) -> dict[str, float]:
        found = {name: float(one) for name, one in residuals.metrics_of(tally.double().numpy()).items()}
        return found | {name: found[name] * self.unit for name in ("mae", "rmse")}

    def reached(self, figures: Mapping[str, float]) -> float:
        return -figures["mae"]

    def calibrate(self, train: Outputs, taught: Tensor, validation: Outputs, known: Tensor) -> intervals.Intervals:
        seen, held = (
            intervals.Part(outputs.adapted, outputs.logits[:, 0], truth.double().numpy())
            for outputs, truth in ((train, taught), (validation, known))
        )
        return intervals.fit(seen, held, level=self.level, center=self.center, unit=self.unit, allowed=self.answers)

    def read(self, columns: Columns) -> Reals:
        return columns[:, 0].astype(np.float64)

    def read_outputs(self, outputs: Tensor) -> Reals:
        return self.answers.clip(outputs[:, 0].double().numpy() * self.unit + self.center)

    def same(self, one: Reals, other: Reals) -> NDArray[np.bool_]:
        return np.asarray(np.abs(one - other) <= OTHERWISE * self.unit)

    def quality(self, truth: Reals, read: Reals) -> dict[str, float]:
        return {"mae": float(np.mean(np.abs(read - truth)))}

    def lost(self, truth: Reals, small: Columns, plain: Columns) -> float:
        worse, better = (self.quality(truth, self.read(one))["mae"] for one in (small, plain))
        return (worse - better) / self.unit

    def evaluate(self, truth: Reals, read: Reals, *, resamples: int, seed: int) -> dict[str, Metric]:
        return residuals.evaluate(truth, read, resamples=resamples, seed=seed)

    def compare(self, truth: Reals, ours: Reals, theirs: Reals, *, resamples: int, seed: int) -> dict[str, Metric]:
        return residuals.compare(truth, ours, theirs, resamples=resamples, seed=seed)

    def baselines(self, asked: Asked, heuristic: Heuristic) -> dict[str, Reals]:
        rows = len(asked.test)
        return {
            "at random": baselines.at_random(asked.truth, rows, seed=asked.seed),
            "the mean": np.full(rows, self.center),
            "the median": np.full(rows, np.median(asked.truth)),
            heuristic.name: heuristic.answers(self.linear, asked.train, asked.truth, asked.test),
            "frozen backbone, linear": baselines.frozen_backbone(
                self.linear, asked.pooled[0], asked.truth, asked.pooled[1]
            ),
        }

    def linear(self, strength: float) -> Any:
        """It answers within the range, as the network does."""
        clip = self.answers.clip  # changes no truth
        return TransformedTargetRegressor(Ridge(alpha=1 / strength), func=clip, inverse_func=clip, check_inverse=False)

    def believed(self, columns: Columns, truth: Reals, calibrated: Any, *, resamples: int, seed: int) -> dict[str, Any]:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(truth))[:PAIRS])
        return {
            "intervals": intervals.measure(columns, truth, calibrated, resamples=resamples, seed=seed),
            "pairs": np.stack([truth, self.read(columns)], axis=1)[chosen].tolist(),
        }

    def look(self, truth: Reals, read: Reals) -> slices.Look:
        return slices.by_size_of(np.abs(read - truth))

    def worst(self, truth: Reals, columns: Columns) -> list[Worst]:
        read = self.read(columns)
        return [
            Worst(int(index), in_words(truth[index]), in_words(float(f"{read[index]:.7g}")), float(columns[index, 3]))
            for index in np.argsort(-np.abs(read - truth), kind="stable")
        ]

    def costs(self, given: Value, truth: Reals, read: Reals) -> Reals:
        return np.asarray(np.abs(read - truth) * (given.per_unit or 0.0))
