"""How far a training is and how it went: everything that is not a tensor, saved with the checkpoint by the same names.

batches -> what they gave since the last validation -> Point -> Progress, TensorBoard, and in the end the report
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from training.diagnosis import Finding


@dataclass
class Point:
    """One validation: figures of the batches since the last one (`train`), and of the whole `validation` part.

    Which figures there are, the target says; precision, recall and F1 are averages over the labels. `reached` is what
    points are judged by, more is better. `gradient_norms` are means over the batches in which a group moved.
    """

    stage: int  # from 0
    step: int
    train_loss: float
    validation_loss: float
    train: dict[str, float]
    validation: dict[str, float]
    reached: float
    learning_rate: float
    gradient_norms: dict[str, float] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)  # of training until here

    def flat(self) -> dict[str, Any]:
        """`train_accuracy`, `validation_accuracy` and so on beside the rest."""
        values = asdict(self)
        parts = {part: values.pop(part) for part in ("train", "validation")}
        return values | {f"{part}_{name}": one for part, figures in parts.items() for name, one in figures.items()}


@dataclass
class StageEnd:
    """What came of a stage; `best_step` None where nothing in it was better than what was there before."""

    boundary: int  # how many layers were frozen
    learning_rate: float
    objective: str
    revisit: float  # share of the rows that epochs after the first went over
    settle: float  # share of the layers that learned in the first epoch alone
    steps: int
    best_step: int | None
    stopped_early: bool

    @property
    def kept(self) -> bool:
        return self.best_step is not None


@dataclass
class Progress:
    stage: int = 0  # index of the stage under way
    step: int = 0  # batches done, in all stages
    stage_start: int = 0  # step at which the stage began
    best_step: int = 0  # 0: none validated yet
    best: float = -math.inf  # what the best point reached
    best_loss: float = math.inf
    without_improvement: int = 0
    damping: float = 1.0  # halved each time that the validation loss bounces
    damped_at: int = 0  # points of the curve when that was last done
    stopped_early: bool = False
    interrupted: bool = False
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    stages: list[StageEnd] = field(default_factory=list)  # those that are over

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """From what `dataclasses.asdict` made of it, by way of JSON."""
        progress = cls(**values)
        progress.curve = [Point(**point) for point in values["curve"]]
        progress.findings = [Finding(*finding) for finding in values["findings"]]
        progress.stages = [StageEnd(**stage) for stage in values["stages"]]
        return progress

    @property
    def of_stage(self) -> list[Point]:
        """The curve of the stage under way."""
        return [point for point in self.curve if point.stage == self.stage]


class Board:
    """TensorBoard's event files. Its custom scalars have a chart for each metric, with training and validation on the
    same axes."""

    def __init__(self, folder: Path, *, after: int) -> None:
        """What was written of steps later than `after` does not count."""
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)
        self._has_charts = False

    def write(self, point: Point) -> None:
        values = {
            f"{metric}/{part}": value
            for name, value in point.flat().items()
            for part, _, metric in [name.partition("_")]
            if part in {"train", "validation"}
        }
        if not self._has_charts:
            metrics = dict.fromkeys(tag.partition("/")[0] for tag in values)
            charts = {metric: ["Multiline", [f"^{metric}/(train|validation)$"]] for metric in metrics}
            self._writer.add_custom_scalars({"training and validation": charts})
            self._has_charts = True
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, point.step)
        for group, norm in point.gradient_norms.items():
            self._writer.add_scalar(f"gradient_norm/{group}", norm, point.step)
        self._writer.add_scalar("learning_rate", point.learning_rate, point.step)

    def close(self) -> None:
        self._writer.close()
