"""What a version is worth: the cost of its errors against that of others, in the currency of the task file.

(truth, answer) -> cost of each row -> paired difference, with its interval -> times the predictions of a month
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from regraft.sections import Value
from regraft.versions import Metric
from training.evaluate import mean

Ints = NDArray[np.int64]
Read = NDArray[Any]  # (rows,), answers as the target reads them
Reals = NDArray[np.float64]


class Worth(BaseModel):
    """All of one month; `savings` by whom it is compared with, above 0 where this version costs less."""

    model_config = ConfigDict(frozen=True)

    currency: str
    volume: int
    cost: Metric
    savings: dict[str, Metric]


class Target(Protocol):
    """As much of training/targets as is needed here."""

    def costs(self, given: Value, truth: Read, read: Read) -> Reals: ...


def worth(
    value: Value, truth: Read, answers: Read, others: Mapping[str, Read], target: Target, *, resamples: int, seed: int
) -> Worth:
    """On rows that stand for the traffic: a share of a label here is taken for its share there."""
    ours = target.costs(value, truth, answers)
    options = {"resamples": resamples, "seed": seed}
    return Worth(
        currency=value.currency,
        volume=value.volume,
        cost=_times(mean(ours, **options), value.volume),
        savings={
            name: _times(mean(target.costs(value, truth, theirs) - ours, **options), value.volume)
            for name, theirs in others.items()
        },
    )


def costs_of(value: Value, truth: Ints, answers: Ints, labels: Sequence[str]) -> Reals:
    """The cost of each row (rows,)."""
    table = np.array([[value.errors.get(true, {}).get(answer, 0.0) for answer in labels] for true in labels])
    return np.asarray(table[truth, answers])


def _times(metric: Metric, factor: int) -> Metric:
    return Metric(value=metric.value * factor, low=metric.low * factor, high=metric.high * factor)
