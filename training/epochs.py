"""Which rows an epoch goes over, in which batches, and after which of them to validate.

The first epoch of a stage goes over all rows, those after it over a share: the rows whose losses were the largest in
the first. What the network is sure of already teaches it next to nothing (Jiang et al. 2019, "Accelerating Deep
Learning by Focusing on the Biggest Losers", choose in each batch, for which every row has to be run).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from regraft.sections import Training
from training.cache import batches_by_length
from training.stages import Stage

CLOSEST = 10  # batches between two validations
BUCKET = 100  # so many batches are sorted by length together; beyond, their order is random


class Calendar(NamedTuple):
    """How many batches the epochs of a stage have."""

    first: int
    later: int  # in each of the others
    epochs: int

    @classmethod
    def of(cls, stage: Stage, rows: int, batch_size: int) -> Self:
        first, later = (math.ceil(count / batch_size) for count in (rows, revisited(rows, stage.revisit)))
        return cls(first, later, stage.epochs)

    @property
    def ends(self) -> list[int]:
        """The batches done when each epoch ends."""
        return [self.first + epoch * self.later for epoch in range(self.epochs)]

    def place(self, done: int) -> tuple[int, int]:
        """The epoch after so many batches, from 0, and how many of them were its own."""
        if done < self.first:
            return 0, done
        epoch, position = divmod(done - self.first, self.later)
        return epoch + 1, position


def revisited(rows: int, share: float) -> int:
    return math.ceil(rows * share)


def hardest(losses: Tensor, share: float) -> Tensor:
    """Which `share` of the rows has the largest `losses`, in their order; of equal ones the first."""
    order = torch.argsort(losses, descending=True, stable=True)
    return order[: revisited(len(losses), share)].sort().values


def epoch_batches(
    lengths: Tensor, settings: Training, place: tuple[int, int], rows: Tensor | None = None
) -> list[list[int]]:
    """An epoch's batches of like lengths in random order; the same for the same seed, stage and epoch (`place`).

    `rows` are those that it goes over; None: all.
    """
    generator = np.random.default_rng((settings.seed, *place))
    chosen = np.arange(len(lengths)) if rows is None else rows.numpy()
    order = chosen[generator.permutation(len(chosen))]
    chunk = BUCKET * settings.batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), chunk):
        indices = order[start : start + chunk]
        by_length = batches_by_length(lengths[indices].tolist(), settings.batch_size)
        batches += [indices[places].tolist() for places in by_length]
    return [batches[index] for index in generator.permutation(len(batches))]


def validations(ends: Sequence[int], every: int) -> set[int]:
    """The batches after which to validate: the `ends` of epochs, evenly within long ones, and the very last.

    Within an epoch there are at least `every` batches from one to the next. The end of a short one is passed over where
    fewer than ten batches have gone by.
    """
    due = [0]
    for start, end in pairwise([0, *ends]):
        parts = max(1, (end - start) // every)
        for part in range(1, parts + 1):
            step = start + round(part * (end - start) / parts)
            if step - due[-1] >= min(every, CLOSEST):
                due.append(step)
    return {*due[1:], ends[-1]}
