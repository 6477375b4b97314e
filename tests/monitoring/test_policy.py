from datetime import UTC, datetime, timedelta

import pytest

from monitoring.loop import LoopState
from monitoring.policy import PolicyState, ReasonCode, due
from monitoring.quality import Estimate
from regraft.events import (
    CandidateRefused,
    CandidateRegistered,
    ColumnDrift,
    DriftMeasured,
    Event,
    ReleaseChanged,
    RetrainingRequested,
)
from regraft.sections import Retraining

RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
NOW = RELEASED + timedelta(days=5)
RULES = Retraining()


def released(production: str = "v1", *, replaces: int = 0, candidate: str | None = None) -> ReleaseChanged:
    share = 0.1 if candidate else 0.0
    return ReleaseChanged(
        at=RELEASED, replaces=replaces, production=production, candidate=candidate, share=share, who="ann", why="test"
    )


def requested(days: float) -> RetrainingRequested:
    return RetrainingRequested(at=RELEASED + timedelta(days=days), reasons=("a reason",), new_labels=500)


def checked(*, drifted: bool, days: float = 4, version: str = "v1") -> DriftMeasured:
    at = RELEASED + timedelta(days=days)
    return DriftMeasured(
        at=at,
        version=version,
        window_start=at,
        window_end=at,
        rows=1000,
        reference_rows=500,
        alpha=0.01,
        p_value=0.0005 if drifted else 0.4,
        drifted=drifted,
        columns={"words": ColumnDrift(statistic=0.3, threshold=0.1, drifted=drifted)},
    )


def state(
    *events: Event,
    accuracy: Estimate | None = None,
    validation: float | None = 0.8,
    labels: int = 500,
    figure: str = "accuracy",
) -> PolicyState:
    loop = LoopState()
    for event in (released(), *events):
        loop = loop.after(event)
    return PolicyState(loop=loop, live=accuracy, validation=validation, new_labels=labels, figure=figure)


def audited(value: float, half: float = 0.03, reviewed: int = 400) -> Estimate:
    return Estimate(value, value - half, value + half, audited=reviewed, reviewed=reviewed)


@pytest.mark.parametrize(
    ("accuracy", "code"),
    [
        (audited(0.79), None),
        (audited(0.765), None),  # a fall of 4.4%
        (audited(0.76, half=0.035), ReasonCode.DROP),
        (audited(0.76, half=0.05), None),  # it could still be 0.81
        (audited(0.73), ReasonCode.DROP),
        (audited(0.71), ReasonCode.FLOOR),
        (audited(0.5, half=0.1, reviewed=99), None),
        (audited(0.5, half=0.1, reviewed=100), ReasonCode.FLOOR),
        (None, None),
    ],
)
def test_accuracy_counts_as_fallen_when_the_evidence_is_there(
    accuracy: Estimate | None, code: ReasonCode | None
) -> None:
    decision = due(state(accuracy=accuracy), RULES, NOW)
    assert [reason.code for reason in decision.reasons] == ([code] if code else [])
    assert decision.request is (code is not None)


def test_a_reason_is_a_sentence_with_its_figures() -> None:
    decision = due(state(accuracy=audited(0.7)), RULES, NOW)
    assert decision.reasons[0].sentence == (
        "audited accuracy 70.0% (67.0% to 73.0%, 400 reviews) against 80.0% in validation: under 90% of it"
    )


@pytest.mark.parametrize(
    ("drop", "error", "code", "said"),
    [
        (0.5, 1.9, None, "no rise of 100.0% that is sure to be one"),
        (0.5, 2.1, ReasonCode.DROP, "a rise of 110.0%"),
        (0.05, 1.04, None, "no rise of 5.3% that is sure to be one"),
        (1.0, 50.0, None, "no rise without end that is sure to be one"),
    ],
)
def test_a_drop_is_a_share_of_the_live_error(drop: float, error: float, code: ReasonCode | None, said: str) -> None:
    rules = Retraining(drop=drop, floor=0.0)
    decision = due(state(accuracy=audited(error), validation=1.0, figure="mae"), rules, NOW)
    assert [reason.code for reason in decision.reasons] == ([code] if code else [])
    assert any(one.endswith(said) for one in (*(reason.sentence for reason in decision.reasons), *decision.quiet))


def test_a_version_without_error_in_validation_may_get_worse() -> None:
    decision = due(state(accuracy=audited(0.2), validation=0.0, figure="mae"), Retraining(floor=0.0), NOW)
    assert decision.reasons[0].sentence.endswith("a rise from none")


@pytest.mark.parametrize(
    ("events", "fires"),
    [
        ([], False),
        ([checked(drifted=True)], True),
        ([checked(drifted=False)], False),
        ([checked(drifted=True, days=3), checked(drifted=False)], False),
        ([checked(drifted=True, version="v0")], False),
        ([checked(drifted=True, days=-1)], False),  # of an earlier time in production
        ([checked(drifted=True, days=1), requested(2)], False),  # what it set off is asked for already
    ],
)
def test_drift_counts_when_the_newest_check_of_production_says_so(events: list[Event], fires: bool) -> None:
    requests = [event for event in events if isinstance(event, RetrainingRequested)]
    refusals = [CandidateRefused(request_id=request.id, reason="no better") for request in requests]
    decision = due(state(*events, *refusals), RULES, NOW)
    assert [reason.code for reason in decision.reasons] == ([ReasonCode.DRIFT] if fires else [])


def test_drift_can_be_switched_off() -> None:
    assert not due(state(checked(drifted=True)), Retraining(on_drift=False), NOW).reasons


@pytest.mark.parametrize(("days", "fires"), [(29.9, False), (30, True)])
def test_the_schedule_counts_from_the_release_or_the_last_request(days: float, fires: bool) -> None:
    assert due(state(), RULES, RELEASED + timedelta(days=days)).request is fires
    request = requested(3)
    refusal = CandidateRefused(request_id=request.id, reason="no better")
    assert due(state(request, refusal), RULES, RELEASED + timedelta(days=3 + days)).request is fires


def test_without_a_schedule_nothing_is_ever_due_for_its_age() -> None:
    assert not due(state(), Retraining(every=None), RELEASED + timedelta(days=1000)).reasons


@pytest.mark.parametrize(
    ("events", "labels", "waiting_for"),
    [
        ([], 499, "1 more new labels (499 of 500)"),
        ([requested(1)], 500, "the candidate asked for at 2026-03-02 00:00 UTC"),
        ([released(replaces=1, candidate="v2")], 500, "the end of the experiment with v2"),
    ],
)
def test_it_waits_and_says_what_for(events: list[Event], labels: int, waiting_for: str) -> None:
    decision = due(state(*events, accuracy=audited(0.5), labels=labels), RULES, NOW)
    assert decision.reasons
    assert not decision.request
    assert decision.waiting_for == waiting_for


def test_it_cools_down_after_a_request() -> None:
    request = requested(4.5)
    refusal = CandidateRefused(request_id=request.id, reason="no better")
    decision = due(state(request, refusal, accuracy=audited(0.5)), RULES, NOW)
    assert decision.waiting_for == "the end of the cool-down in 12 hours"
    assert due(state(request, refusal, accuracy=audited(0.5)), RULES, NOW + timedelta(hours=13)).request


def test_however_many_reasons_there_are_it_is_one_request() -> None:
    decision = due(state(checked(drifted=True, days=40), accuracy=audited(0.5)), RULES, NOW + timedelta(days=60))
    assert [reason.code for reason in decision.reasons] == [ReasonCode.FLOOR, ReasonCode.DRIFT, ReasonCode.SCHEDULE]
    assert decision.request


def test_without_a_reason_it_says_why_each_is_none() -> None:
    decision = due(state(checked(drifted=False), accuracy=audited(0.5, reviewed=40)), RULES, NOW)
    assert decision.waiting_for == "a reason to train again"
    assert decision.quiet == (
        "40 of the 100 reviewed audits that make the accuracy known",
        "no drift in the 1000 newest predictions checked (p = 0.4)",
        "the schedule is due in 25 days",
    )


def test_before_the_first_release_it_waits() -> None:
    nothing = PolicyState(loop=LoopState(), live=None, validation=None, new_labels=0)
    assert due(nothing, RULES, NOW).waiting_for == "a version in production"
    with pytest.raises(LookupError):
        nothing.loop.next_request_id()


def test_a_request_is_under_way_until_its_own_outcome() -> None:
    request = requested(1)
    loop = state(request).loop
    assert loop.under_way
    assert loop.after(CandidateRefused(request_id="another", reason="late")).under_way
    assert not loop.after(CandidateRefused(request_id=request.id, reason="no better")).under_way
    assert not loop.after(CandidateRegistered(request_id=request.id, version="v2", evidence={})).under_way


def test_the_same_state_gives_the_same_request_and_the_next_state_another() -> None:
    first = state().loop
    assert first.next_request_id() == first.after(released(replaces=1, candidate="v2")).next_request_id()
    second = first.after(requested(1).model_copy(update={"id": first.next_request_id()}))
    assert second.next_request_id() == second.next_request_id() != first.next_request_id()


def test_time_in_production_begins_anew_with_another_version_only() -> None:
    loop = state().loop
    later = loop.after(released(replaces=1, candidate="v2").model_copy(update={"at": NOW}))
    assert later.production_since == RELEASED
    assert later.after(released("v2", replaces=2).model_copy(update={"at": NOW})).production_since == NOW
