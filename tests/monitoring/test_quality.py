import math
from typing import NamedTuple

import numpy as np
import pytest

from monitoring.quality import Audits, Estimate, audited_accuracy, clopper_pearson, estimated_accuracy, flag_rate

NOT_FLAGGED, FLAGGED = 0, 1


class Users(NamedTuple):
    """How often a wrong answer is flagged (a right one ten times less), and what reviewers get to of the audits."""

    flag_wrong: float
    review_flagged: float
    review_others: float


EAGER = Users(flag_wrong=0.8, review_flagged=1.0, review_others=0.2)
QUIET = Users(flag_wrong=0.3, review_flagged=0.9, review_others=0.3)


def window(
    rng: np.random.Generator, *, accuracy: float, audits: int, users: Users, favour: str | None = None
) -> Audits:
    """A window of five times the audits; unsure predictions, or the sure ones, may all be audited."""
    rows = 5 * audits
    correct = rng.random(rows) < accuracy
    flagged = rng.random(rows) < np.where(correct, users.flag_wrong / 10, users.flag_wrong)
    unsure = rng.random(rows) < np.where(correct, 0.15, 0.7)
    often = {None: np.zeros(rows, dtype=bool), "unsure": unsure, "sure": ~unsure}[favour]
    probability = np.where(often, 1.0, 0.2)
    audited = rng.random(rows) < probability
    reviewed = rng.random(rows) < np.where(flagged, users.review_flagged, users.review_others)
    stratum = np.where(flagged, FLAGGED, NOT_FLAGGED)
    return Audits(probability[audited], stratum[audited], reviewed[audited], correct[audited])


def naive_accuracy(audits: Audits) -> Estimate:
    """What a dashboard shows that takes everything reviewed for a sample."""
    n = int(audits.reviewed.sum())
    value = audits.outcome[audits.reviewed].mean() if n else math.nan
    low, high = clopper_pearson(np.array([value]), np.array([float(n)]))
    return Estimate(float(value), float(low[0]), float(high[0]))


def covered(estimates: list[Estimate], truth: float) -> float:
    return sum(e.low <= truth <= e.high for e in estimates) / len(estimates)


@pytest.mark.parametrize("users", [EAGER, QUIET], ids=["eager", "quiet"])
@pytest.mark.parametrize("audits", [50, 400])
@pytest.mark.parametrize("accuracy", [0.75, 0.9, 0.97, 0.99])
def test_the_interval_covers_the_truth_although_users_flag_selectively(
    accuracy: float, audits: int, users: Users
) -> None:
    rng = np.random.default_rng([audits, round(100 * accuracy)])
    windows = [window(rng, accuracy=accuracy, audits=audits, users=users) for _ in range(1000)]
    estimates = [audited_accuracy(w) for w in windows]
    share = covered(estimates, accuracy)
    width = np.mean([e.high - e.low for e in estimates])
    print(f"accuracy {accuracy}, {audits} audits: covered {share:.3f}, width {width:.3f}")
    assert share >= 0.94


@pytest.mark.parametrize("favour", ["unsure", "sure"])
@pytest.mark.parametrize("accuracy", [0.75, 0.97])
def test_the_interval_covers_the_truth_when_some_predictions_are_audited_more_often(
    accuracy: float, favour: str
) -> None:
    rng = np.random.default_rng(5)
    windows = [window(rng, accuracy=accuracy, audits=100, users=EAGER, favour=favour) for _ in range(1000)]
    share = covered([audited_accuracy(w) for w in windows], accuracy)
    print(f"accuracy {accuracy}, {favour} audited more: covered {share:.3f}")
    assert share >= 0.94


@pytest.mark.parametrize("accuracy", [0.75, 0.9, 0.97])
def test_the_share_correct_among_everything_reviewed_misses_the_truth_most_of_the_time(accuracy: float) -> None:
    rng = np.random.default_rng(6)
    windows = [window(rng, accuracy=accuracy, audits=1000, users=EAGER) for _ in range(1000)]
    share = covered([naive_accuracy(w) for w in windows], accuracy)
    print(f"accuracy {accuracy}: naive interval covers in {share:.3f}")
    assert share < 0.1


def test_the_value_is_unbiased_although_users_flag_selectively() -> None:
    rng = np.random.default_rng(7)
    windows = [window(rng, accuracy=0.9, audits=200, users=EAGER, favour="unsure") for _ in range(1000)]
    values = [audited_accuracy(w).value for w in windows]
    assert np.mean(values) == pytest.approx(0.9, abs=float(4 * np.std(values) / math.sqrt(len(values))))


def audits_of(*rows: tuple[float, int, bool, bool]) -> Audits:
    probability, stratum, reviewed, correct = zip(*rows, strict=True)
    return Audits(np.array(probability), np.array(stratum), np.array(reviewed), np.array(correct))


def test_a_simple_sample_gets_the_clopper_pearson_interval() -> None:
    estimate = audited_accuracy(audits_of(*[(0.1, 0, True, True)] * 9, (0.1, 0, True, False)))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.9, 0.55498, 0.99747), abs=1e-5)
    assert (estimate.audited, estimate.reviewed, estimate.collapsed) == (10, 10, ())


def test_each_review_stands_for_the_predictions_it_was_drawn_from() -> None:
    rows = [(0.5, 0, True, True), (0.125, 0, True, False)]  # stand for 2 right and 8 wrong predictions
    assert audited_accuracy(audits_of(*rows)).value == pytest.approx(0.2)


def test_what_waits_for_review_counts_through_its_stratum() -> None:
    rows = [(1.0, NOT_FLAGGED, True, True)] + [(1.0, NOT_FLAGGED, False, False)] * 8 + [(1.0, FLAGGED, True, False)]
    assert audited_accuracy(audits_of(*rows)).value == pytest.approx(0.9)


def test_correct_is_not_read_before_the_review() -> None:
    rows = [(0.1, 0, True, True)] * 5
    waiting_right, waiting_wrong = (0.1, 0, False, True), (0.1, 0, False, False)
    assert audited_accuracy(audits_of(*rows, waiting_right)) == audited_accuracy(audits_of(*rows, waiting_wrong))


def test_an_unreviewed_stratum_is_named_and_leaves_open_whether_it_was_right() -> None:
    rows = [(0.1, FLAGGED, True, False)] * 10 + [(0.1, FLAGGED, True, True)] * 10
    estimate = audited_accuracy(audits_of(*rows, *[(0.1, NOT_FLAGGED, False, False)] * 80))
    assert estimate.collapsed == (NOT_FLAGGED,)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.low <= 0.1
    assert estimate.high >= 0.9


def test_all_right_is_no_certainty() -> None:
    estimate = audited_accuracy(audits_of(*[(0.1, 0, True, True)] * 20))
    assert estimate.value == estimate.high == 1.0
    assert estimate.low == pytest.approx(0.8316, abs=1e-4)


def test_without_reviews_the_accuracy_is_undefined() -> None:
    for audits in (
        audits_of((0.1, 3, False, False)),
        Audits(*(np.zeros(0, dtype=t) for t in (float, int, bool, bool))),
    ):
        estimate = audited_accuracy(audits)
        assert math.isnan(estimate.value)
        assert (estimate.low, estimate.high, estimate.reviewed) == (0.0, 1.0, 0)


def test_a_higher_level_gives_a_wider_interval() -> None:
    audits = window(np.random.default_rng(8), accuracy=0.9, audits=200, users=QUIET)
    wide, narrow = audited_accuracy(audits, level=0.99), audited_accuracy(audits, level=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, math.nan])
def test_an_impossible_audit_probability_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="audit probabilities"):
        audits_of((probability, 0, True, True))


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        Audits(np.full(2, 0.1), np.zeros(2, dtype=int), np.ones(1, dtype=bool), np.ones(2, dtype=bool))


@pytest.mark.parametrize("rows", [20, 50, 1000])
def test_calibrated_confidence_foretells_the_accuracy_of_the_window(rows: int) -> None:
    rng = np.random.default_rng(9)
    confidence = rng.beta(9, 1, size=(1000, rows))
    right = (rng.random((1000, rows)) < confidence).mean(axis=1)
    estimates = [estimated_accuracy(c) for c in confidence]
    assert np.mean([e.low <= r <= e.high for e, r in zip(estimates, right, strict=True)]) >= 0.94
    assert covered(estimates, 0.9) >= 0.94


def test_without_rows_the_estimated_accuracy_is_undefined() -> None:
    estimate = estimated_accuracy(np.zeros(0))
    assert math.isnan(estimate.value)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, math.nan])
def test_a_confidence_that_is_no_probability_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidences"):
        estimated_accuracy(np.array([0.5, confidence]))


def test_the_flag_rate_has_the_wilson_interval() -> None:
    estimate = flag_rate(10, 100)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.1, 0.05523, 0.17437), abs=1e-5)


def test_no_flags_at_all_still_leave_room_for_some() -> None:
    estimate = flag_rate(0, 100)
    assert estimate.value == estimate.low == 0.0
    assert 0.03 < estimate.high < 0.04


def test_without_predictions_the_flag_rate_is_undefined() -> None:
    assert math.isnan(flag_rate(0, 0).value)


@pytest.mark.parametrize(("flags", "predictions"), [(-1, 10), (11, 10)])
def test_impossible_counts_of_flags_are_refused(flags: int, predictions: int) -> None:
    with pytest.raises(ValueError, match="flags"):
        flag_rate(flags, predictions)
