import numpy as np
import pytest

from regraft.answers import Labels
from regraft.sections import Value
from training.targets import target_for
from training.value import costs_of, worth

VALUE = Value(errors={"bad": {"good": 5.0}, "good": {"bad": 1.0}}, volume=1000, currency="EUR")
LABELS = ("bad", "good", "none")
OPTIONS = {"resamples": 500, "seed": 0}


def test_each_error_costs_what_the_task_says_and_what_is_not_named_costs_nothing() -> None:
    truth, answers = np.array([0, 0, 1, 2, 0]), np.array([0, 1, 0, 1, 2])
    assert costs_of(VALUE, truth, answers, LABELS).tolist() == [0, 5, 1, 0, 0]


def test_the_saving_is_the_paired_difference_for_a_month() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    theirs = np.where(rng.random(400) < 0.7, truth, 1 - truth)
    ours = np.where(rng.random(400) < 0.5, truth, theirs)
    found = worth(VALUE, truth, ours, {"theirs": theirs, "ours": ours}, target_for(Labels(LABELS)), **OPTIONS)
    cost = costs_of(VALUE, truth, ours, LABELS).mean()
    assert found.cost.value == pytest.approx(1000 * cost)
    saving = found.savings["theirs"]
    assert saving.value == pytest.approx(1000 * (costs_of(VALUE, truth, theirs, LABELS).mean() - cost))
    assert 0 < saving.low < saving.value < saving.high
    assert (found.savings["ours"].low, found.savings["ours"].high) == (0.0, 0.0)
    assert (found.currency, found.volume) == ("EUR", 1000)
