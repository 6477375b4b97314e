"""Which stages a training goes through: the head and the last layers, then perhaps more layers at a lower rate.

A stage takes over the best of the one before. What comes of it is kept only if it is better; see training/loop.py.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from regraft.errors import ConfigError
from regraft.sections import Training
from training.network import boundary_of

FEW = 500  # training rows; with fewer, more layers learn the rows by heart
FEW_SHOT = 100  # training rows; with fewer, contrasting labels was better wherever it was compared: docs/decisions.md
FROZEN, FROZEN_FEW = 0.35, 0.75
EPOCHS, EPOCHS_FEW = 2, 4
REVISIT, REVISIT_FEW = 0.5, 1.0
SETTLE, SETTLE_FEW = 0.75, 0.0
# Where no layer learns, vectors stay as they are: a head on them bears far more, and so do adapters (decisions.md).
EPOCHS_STILL, RATE_HEAD, RATE_ADAPTER = 40, 1e-2, 1e-3
RATE, RATE_BATCH_NORMS = 5e-4, 3e-3  # of the head; normalised by batch, networks bear more (Ioffe and Szegedy 2015)
FALL, FALL_FEW = 0.8, 0.5
FEWEST_BATCHES = 30  # of the first stage
MOST_EPOCHS = 50  # without early stopping


class Rates(NamedTuple):
    """The head's learning rate, and what each layer group's is times that of the one above it."""

    head: float
    fall: float

    @classmethod
    def of(cls, settings: Training, rows: int, *, pictures: bool = False, batch_norms: bool = False) -> "Rates":
        """As the task says, else as it suits so many training rows, their kind, and what the last layers hold."""
        head = RATE_BATCH_NORMS if batch_norms else RATE
        fall = FALL_FEW if rows < FEW or (pictures and not batch_norms) else FALL
        return cls(settings.learning_rate or head, settings.layer_decay or fall)


@dataclass(frozen=True)
class Stage:
    """The layers from `boundary` upwards learn; `learning_rate` is the head's, and falls by `layer_decay` a group.

    Epochs after the first go over the share of `revisit` of the rows, those with the largest losses, and leave the
    share of `settle` of the layers that learn, the lowest ones, as the first epoch made them.
    To contrast is to draw the vectors of one label together; the head is fitted to them before each validation.
    """

    boundary: int
    epochs: int
    learning_rate: float
    revisit: float = 1.0
    settle: float = 0.0
    objective: Literal["classify", "contrast"] = "classify"
    layer_decay: float = FALL


def plan(settings: Training, layers: int, rows: int, rates: Rates, *, pictures: bool = False) -> list[Stage]:
    """The stages for a backbone of so many layers and so many training rows.

    Raises ConfigError for what seldom ends well, unless `training.force` is set: all layers at once, more and more
    layers on few rows, many epochs that nothing stops.
    """
    few, rate = rows < FEW, rates.head
    frozen = settings.frozen
    if frozen is None:
        frozen = FROZEN_FEW if few or pictures else FROZEN
    epochs = settings.epochs or (EPOCHS_FEW if few or pictures else EPOCHS)
    revisit = settings.revisit or (REVISIT_FEW if few else REVISIT)
    settle = (SETTLE_FEW if few else SETTLE) if settings.settle is None else settings.settle
    later = revisit, settle
    first = boundary_of(frozen, layers)
    objective = _objective(settings, rows, movable=first < layers or settings.adapter > 0)
    if objective == "contrast":
        revisit, settle = 1.0, 0.0
    elif first == layers:
        rate = settings.learning_rate or (RATE_ADAPTER if settings.adapter else RATE_HEAD)
        epochs, revisit, settle = settings.epochs or EPOCHS_STILL, settings.revisit or 1.0, settings.settle or 0.0
    epochs = max(epochs, math.ceil(FEWEST_BATCHES / math.ceil(rows / settings.batch_size)))
    stages = [Stage(first, epochs, rate, revisit, settle, objective, rates.fall)]
    for number in range(1, settings.stages):
        boundary = min(boundary_of(max(frozen - number * settings.thaw, 0), layers), stages[-1].boundary - 1)
        if boundary >= 0:
            lower = rates.head * settings.stage_decay**number
            stages.append(Stage(boundary, settings.stage_epochs, lower, *later, layer_decay=rates.fall))
    if not settings.force:
        _refuse(settings, stages, layers, rows)
    return stages


def _objective(settings: Training, rows: int, *, movable: bool) -> Literal["classify", "contrast"]:
    """To contrast labels moves vectors, and is one stage of its own: the head comes after it."""
    if settings.few_shot == "on" and settings.stages > 1:
        raise ConfigError("training.few_shot is one stage of its own: set training.stages: 1")
    few_shot = settings.few_shot == "on" or (settings.few_shot == "auto" and rows < FEW_SHOT and settings.stages == 1)
    return "contrast" if few_shot and movable else "classify"


def _refuse(settings: Training, stages: list[Stage], layers: int, rows: int) -> None:
    if layers > 0 and stages[0].boundary == 0:
        raise ConfigError(
            f"training.frozen leaves none of {layers} layers as it is: all layers learn at once, which destroys what"
            " the backbone knows while the head is still random; raise it, or set training.force: true"
        )
    if len(stages) > 1 and rows < FEW:
        raise ConfigError(
            f"training.stages = {settings.stages} thaws more layers on {rows} training rows, fewer than {FEW}: they"
            " would be learnt by heart; label more, set training.stages: 1, or set training.force: true"
        )
    if settings.patience is None and (epochs := sum(stage.epochs for stage in stages)) > MOST_EPOCHS:
        raise ConfigError(
            f"{epochs} epochs without early stopping, more than {MOST_EPOCHS}: set training.patience, or"
            " training.force: true"
        )
