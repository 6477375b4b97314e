"""What training, evaluation and export ask of a target.

rows -> truth (what answers are held against) -> taught (as the loss takes it) -> loss, tallies, figures of a validation
outputs of the network on the validation part -> calibrated -> what the graph computes from them: (rows, columns)
columns -> read -> answers -> metrics, gains, costs, worst answers, whether confidence can be believed
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.answers import Labels, Numbers
from regraft.sections import Training, Value
from regraft.versions import Metric
from training import slices
from training.baselines import Heuristic
from training.data import Row
from training.losses import Loss
from training.outputs import Outputs

Columns = NDArray[np.float32]  # (rows, columns of the graph's first output)
Reals = NDArray[np.float64]
Read = NDArray[Any]  # (rows,), places of labels or numbers


class Worst(NamedTuple):
    """A row that was answered badly."""

    row: int
    truth: str
    answer: str
    confidence: float


class Calibrated(Protocol):
    """How outputs of the network become answers that say how sure they are."""

    @property
    def temperature(self) -> float: ...

    def module(self) -> nn.Module:
        """The network's `Output` -> columns, part of the graph."""

    def as_json(self) -> dict[str, Any]: ...


class Asked(NamedTuple):
    """What baselines are trained on and asked: inputs as they are read, and pooled vectors of the frozen backbone."""

    train: Sequence[Any]
    truth: Read
    test: Sequence[Any]
    pooled: tuple[NDArray[np.float32], NDArray[np.float32]]
    seed: int


class Target(Protocol):
    @property
    def answers(self) -> Labels | Numbers: ...

    @property
    def width(self) -> int:
        """Outputs of the network's head."""

    @property
    def unit(self) -> float:
        """What differences and losses of quality are counted in: 1, or the deviation of the numbers."""

    @property
    def loses(self) -> str:
        """What is lost where quality is, in words."""

    def truth(self, rows: Sequence[Row]) -> Read: ...

    def read_labels(self, labels: Sequence[str]) -> Read:
        """Of labels as files and events hold them."""

    def taught(self, truth: Read) -> Tensor: ...

    def loss(self, settings: Training, taught: Tensor) -> Loss: ...

    def tally(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """What figures are made of; tallies of several batches or processes add up."""

    def figures(self, tally: Tensor) -> dict[str, float]: ...

    def reached(self, figures: Mapping[str, float]) -> float:
        """What a point is judged by; more is better."""

    def calibrate(self, train: Outputs, taught: Tensor, validation: Outputs, known: Tensor) -> Calibrated: ...

    def read(self, columns: Columns) -> Read: ...

    def read_outputs(self, outputs: Tensor) -> Read:
        """The same from the network's outputs, which know nothing of how sure they are."""

    def same(self, one: Read, other: Read) -> NDArray[np.bool_]:
        """Which of the answers are the same for whoever acts on them."""

    def quality(self, truth: Read, read: Read) -> dict[str, float]:
        """The first of the figures, by its name, without its interval."""

    def lost(self, truth: Read, small: Columns, plain: Columns) -> float:
        """How much worse the answers `small` are than `plain` in that figure, in `unit`, as far as so few rows tell."""

    def evaluate(self, truth: Read, read: Read, *, resamples: int, seed: int) -> dict[str, Metric]: ...

    def compare(self, truth: Read, ours: Read, theirs: Read, *, resamples: int, seed: int) -> dict[str, Metric]:
        """How much better ours are in each averaged figure, on the same rows and resamples; above 0 is better."""

    def baselines(self, asked: Asked, heuristic: Heuristic) -> dict[str, Read]: ...

    def believed(
        self, columns: Columns, truth: Read, calibrated: Calibrated, *, resamples: int, seed: int
    ) -> dict[str, Any]:
        """What the test part says of the confidence, and of the answers on the whole: fields of the proof."""

    def look(self, truth: Read, read: Read) -> slices.Look: ...

    def worst(self, truth: Read, columns: Columns) -> list[Worst]:
        """Wrong answers, the worst first."""

    def costs(self, value: Value, truth: Read, read: Read) -> Reals: ...

    def linear(self, strength: float) -> Any:
        """A linear model for this target, not fitted yet; `strength` is the inverse of its regularisation."""
