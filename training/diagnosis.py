"""What the curve of a training says of it, and what to do about it: pure functions over the points so far."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple, Protocol

RECENT = 4  # validations that a judgement is made of
RISE = 0.05  # of the validation loss above its lowest that is more than chance
BOUNCE = 0.05  # between one validation and the next
STILL = 0.01  # change that is none


class Losses(Protocol):
    """A validation, as far as it matters here."""

    @property
    def step(self) -> int: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def validation_loss(self) -> float: ...


class Finding(NamedTuple):
    kind: str
    step: int
    advice: str


def diagnose(curve: Sequence[Losses]) -> Finding | None:
    """What is wrong at the last point of `curve`, the points of one stage; None while there is nothing to say."""
    if bouncing(curve):
        return Finding(
            "bouncing",
            curve[-1].step,
            "the validation loss goes up and down: the learning rate is too high; lower training.learning_rate, or"
            " raise training.batch_size",
        )
    if overfitting(curve):
        return Finding(
            "overfitting",
            curve[-1].step,
            "the validation loss rises while the training loss falls: the network learns the rows by heart; fewer"
            " epochs, more frozen layers, more labelled rows help, and training.token_dropout (of texts) or"
            " training.augment.views (of pictures)",
        )
    if plateau(curve):
        return Finding(
            "plateau",
            curve[-1].step,
            "neither loss moves any more: more epochs will not help; label more rows, look for wrong labels, or let"
            " more layers learn",
        )
    return None


def overfitting(curve: Sequence[Losses]) -> bool:
    """The validation loss is above its lowest and did not fall of late, and the training loss is lower than then."""
    lowest = min(curve, key=lambda point: point.validation_loss)
    last = curve[-1]
    risen = last.validation_loss > (1 + RISE) * lowest.validation_loss
    rising = len(curve) > 1 and last.validation_loss >= curve[-2].validation_loss * (1 - STILL)
    return risen and rising and last.train_loss < lowest.train_loss


def bouncing(curve: Sequence[Losses]) -> bool:
    """Up, down, up, or the other way round, each time by more than chance explains."""
    losses = [point.validation_loss for point in curve[-RECENT:]]
    changes = [(after - before) / before for before, after in pairwise(losses)]
    turns = all(one * other < 0 for one, other in pairwise(changes))
    return len(losses) == RECENT and turns and min(map(abs, changes)) > BOUNCE


def plateau(curve: Sequence[Losses]) -> bool:
    """Over the last points the validation loss was hardly ever lower than before, nor did the training loss fall."""
    earlier, recent = curve[:-RECENT], curve[-RECENT:]
    if not earlier:
        return False
    lowest = min(point.validation_loss for point in earlier)
    trained = [fmean(point.train_loss for point in points) for points in (earlier[-RECENT:], recent)]
    unmoved = trained[1] > (1 - BOUNCE) * trained[0]
    return unmoved and all(point.validation_loss > (1 - STILL) * lowest for point in recent)
