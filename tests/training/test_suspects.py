import random

import numpy as np
import pytest

from tests.training.conftest import LABELS, examples
from training.data import Row
from training.suspects import off_diagonal, suspects

ROWS = [Row(id_, text, label, f"data.csv:{n}") for n, (id_, text, label) in enumerate(examples(400), start=2)]


def test_planted_errors_are_found_and_little_else() -> None:
    generator = random.Random(1)
    planted = {row.id: generator.choice([name for name in LABELS if name != row.label]) for row in ROWS[::20]}
    found = suspects([row._replace(label=planted.get(row.id, row.label)) for row in ROWS], seed=0)
    right = [one for one in found if one.row.id in planted]
    assert len(right) >= 0.9 * len(planted)
    assert len(right) >= 0.9 * len(found)
    truth = {row.id: row.label for row in ROWS}
    assert all(one.likelier == truth[one.row.id] for one in right)
    assert f"{right[0].row.place}: '" in str(right[0])


def test_where_there_is_little_to_go_by_nothing_is_said() -> None:
    assert suspects([], seed=0) == []
    assert suspects(ROWS[:9], seed=0) == []
    few = [Row("x", "something else", "rare", "data.csv:1")]
    assert all(one.row.label != "rare" and one.likelier != "rare" for one in suspects([*ROWS, *few], seed=0))


def test_a_row_is_a_suspect_only_beyond_the_other_labels_own_average() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.45, 0.55], [0.1, 0.9], [0.05, 0.95], [0.8, 0.2]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert (probabilities[labels == 1, 1].mean(), probabilities[labels == 0, 0].mean()) == pytest.approx((0.683, 0.517), abs=1e-3)  # fmt: skip  # noqa: E501
    assert off_diagonal(probabilities, labels) == [(1, 1), (5, 0)]
