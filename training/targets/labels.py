"""One of the task's labels: probabilities, calibrated by a temperature."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from regraft.answers import Labels
from regraft.sections import Training, Value
from regraft.versions import Metric
from training import baselines, calibrate, evaluate, losses, slices, value
from training.baselines import Heuristic
from training.data import Row
from training.losses import Loss
from training.network import Output
from training.outputs import Outputs
from training.targets.base import Asked, Columns, Reals, Worst

Ints = NDArray[np.int64]
CHANCE = 1.96  # standard errors
FIGURES = {"accuracy": "accuracy", "precision": "macro_precision", "recall": "macro_recall", "macro_f1": "macro_f1"}


@dataclass(frozen=True)
class LabelTarget:
    answers: Labels

    @property
    def width(self) -> int:
        return len(self.answers.names)

    @property
    def unit(self) -> float:
        return 1.0

    @property
    def loses(self) -> str:
        return "accuracy"

    def truth(self, rows: Sequence[Row]) -> Ints:
        return self.read_labels([row.label for row in rows])

    def read_labels(self, labels: Sequence[str]) -> Ints:
        places = {label: index for index, label in enumerate(self.answers.names)}
        return np.array([places[label] for label in labels], dtype=np.int64)

    def taught(self, truth: Ints) -> Tensor:
        return torch.from_numpy(truth)

    def loss(self, settings: Training, taught: Tensor) -> Loss:
        return losses.choose(settings, taught, self.width)

    def tally(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """The confusion matrix; rows are the truth."""
        confusion = torch.zeros(self.width, self.width)
        places = (taught, outputs.argmax(dim=1))
        return confusion.index_put_(places, torch.ones(len(taught)), accumulate=True)

    def figures(self, tally: Tensor) -> dict[str, float]:
        """Accuracy, and macro averages of precision, recall and F1."""
        metrics = evaluate.metrics_of(evaluate.Tallies.of(tally.double().numpy()[None]), self.answers.names)
        return {name: float(metrics[metric][0]) for name, metric in FIGURES.items()}

    def reached(self, figures: Mapping[str, float]) -> float:
        return figures["macro_f1"]

    def calibrate(self, train: Outputs, taught: Tensor, validation: Outputs, known: Tensor) -> "Tempered":
        del train, taught
        return Tempered(calibrate.fit_temperature(validation.logits, known.numpy()))

    def read(self, columns: Columns) -> Ints:
        return np.asarray(columns.argmax(axis=1))

    def read_outputs(self, outputs: Tensor) -> Ints:
        return outputs.argmax(dim=1).numpy()

    def same(self, one: Ints, other: Ints) -> NDArray[np.bool_]:
        return np.asarray(one == other)

    def quality(self, truth: Ints, read: Ints) -> dict[str, float]:
        return {"accuracy": float(np.mean(read == truth))}

    def lost(self, truth: Ints, small: Columns, plain: Columns) -> float:
        """Accuracy, as `plain` expects it: where the two answer otherwise, its probability of its own answer less that
        of the other. Few rows are, most of them nearly ties, so that which of the two is right is mostly chance. What
        is measured counts by as much as it is beyond chance."""
        ours, theirs = self.read(small), self.read(plain)
        every = np.arange(len(truth))
        expected = np.mean(plain[every, theirs] - plain[every, ours])
        measured = np.mean(theirs == truth) - np.mean(ours == truth)
        return float(np.maximum(expected, measured - CHANCE * np.sqrt(np.sum(ours != theirs)) / len(truth)))

    def evaluate(self, truth: Ints, read: Ints, *, resamples: int, seed: int) -> dict[str, Metric]:
        return evaluate.evaluate(truth, read, self.answers.names, resamples=resamples, seed=seed)

    def compare(self, truth: Ints, ours: Ints, theirs: Ints, *, resamples: int, seed: int) -> dict[str, Metric]:
        return evaluate.compare(truth, ours, theirs, self.answers.names, resamples=resamples, seed=seed)

    def baselines(self, asked: Asked, heuristic: Heuristic) -> dict[str, Ints]:
        rows = len(asked.test)
        return {
            "at random": baselines.at_random(asked.truth, rows, seed=asked.seed),
            "majority label": baselines.majority(asked.truth, rows),
            heuristic.name: heuristic.answers(self.linear, asked.train, asked.truth, asked.test),
            "frozen backbone, linear": baselines.frozen_backbone(
                self.linear, asked.pooled[0], asked.truth, asked.pooled[1]
            ),
        }

    def linear(self, strength: float) -> Any:
        return LogisticRegression(C=strength, max_iter=baselines.ITERATIONS)

    def believed(self, columns: Columns, truth: Ints, calibrated: Any, *, resamples: int, seed: int) -> dict[str, Any]:
        temperature = calibrated.temperature
        return {
            "confusion": evaluate.confusion_of(truth, self.read(columns), self.width).tolist(),
            "calibration": calibrate.measure(columns, truth, temperature, resamples=resamples, seed=seed),
        }

    def look(self, truth: Ints, read: Ints) -> slices.Look:
        return slices.by_rate(read == truth)

    def worst(self, truth: Ints, columns: Columns) -> list[Worst]:
        """Those that were given with the most confidence."""
        read, confidence, names = self.read(columns), columns.max(axis=1), self.answers.names
        wrong = np.flatnonzero(read != truth)
        return [
            Worst(int(index), names[truth[index]], names[read[index]], float(confidence[index]))
            for index in wrong[np.argsort(-confidence[wrong], kind="stable")]
        ]

    def costs(self, given: Value, truth: Ints, read: Ints) -> Reals:
        return value.costs_of(given, truth, read, self.answers.names)


@dataclass(frozen=True)
class Tempered:
    calibration: calibrate.Calibration

    @property
    def temperature(self) -> float:
        return self.calibration.temperature

    def module(self) -> nn.Module:
        return Probabilities(self.temperature)

    def as_json(self) -> dict[str, Any]:
        return asdict(self.calibration)


class Probabilities(nn.Module):
    """The network's output -> (batch, labels), calibrated."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, output: Output) -> Tensor:
        return (output.logits / self.temperature).softmax(dim=-1)
