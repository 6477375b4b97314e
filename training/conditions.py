"""Whether the training data was gathered under the conditions that production has: its sources, months, lighting ...

values of a condition in training and in production -> an exact test for each -> Holm -> those whose shares differ
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import fisher_exact

from regraft.history import History
from training.data import Row
from training.slices import holm

ALPHA = 0.01  # chance that a value is named though all shares are equal
VALUES = 50  # of a condition; rarer ones are one "other"
OTHER = "any other"

# Callers say under what condition a prediction is asked for in the metadata of their requests.
_COUNTS = """
SELECT metadata[$name] AS value, count(*) FROM predictions WHERE metadata[$name] IS NOT NULL GROUP BY value
"""


class Shift(NamedTuple):
    condition: str
    value: str
    training: float  # share
    production: float
    p_value: float  # corrected for how many there are

    def __str__(self) -> str:
        return (
            f"{self.condition} {self.value!r}: {self.training:.1%} of the training data, {self.production:.1%} of"
            f" production (p = {self.p_value:.1g})"
        )


def in_training(rows: Sequence[Row], conditions: Sequence[str]) -> dict[str, Counter[str]]:
    """Rows that were reviewed say what their requests' metadata did, which may be nothing."""
    return {name: Counter(value for row in rows if (value := row.conditions.get(name))) for name in conditions}


def in_production(history: History, conditions: Sequence[str]) -> dict[str, Counter[str]]:
    """Of all predictions that the history holds, as their metadata says."""
    connection = history.connect()
    try:
        return {
            name: Counter(dict(connection.execute(_COUNTS, {"name": name}).fetchall())) for name in conditions
        }  # fmt: skip
    finally:
        connection.close()


def shifts(training: Mapping[str, Counter[str]], production: Mapping[str, Counter[str]]) -> list[Shift]:
    """Values whose share differs more than chance explains; the largest difference first.

    Fisher's exact test of each value against all others, corrected over all values (Holm 1979). A condition that one
    side does not know at all is left out: there is nothing to compare.
    """
    tested = [shift for name in training for shift in _tested(name, training[name], production[name])]
    adjusted = holm([shift.p_value for shift in tested])
    found = [shift._replace(p_value=p) for shift, p in zip(tested, adjusted, strict=True) if p < ALPHA]
    return sorted(found, key=lambda shift: -abs(shift.training - shift.production))


def _tested(name: str, training: Counter[str], production: Counter[str]) -> Iterator[Shift]:
    common = {value for value, _ in (training + production).most_common(VALUES)}
    ours, theirs = _others_together(training, common), _others_together(production, common)
    rows, predictions = ours.total(), theirs.total()
    if not rows or not predictions:
        return
    for value in sorted(ours.keys() | theirs.keys()):
        table = np.array([[ours[value], rows - ours[value]], [theirs[value], predictions - theirs[value]]])
        p_value = float(fisher_exact(table).pvalue)
        yield Shift(name, value, ours[value] / rows, theirs[value] / predictions, p_value)


def _others_together(counts: Counter[str], common: set[str]) -> Counter[str]:
    together: Counter[str] = Counter()
    for value, n in counts.items():
        together[value if value in common else OTHER] += n
    return together
