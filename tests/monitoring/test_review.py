from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring.review import GivenLabel, ReviewDesk
from regraft import releases
from regraft.errors import InvalidInput, NotFound
from regraft.events import QueueReason, ReviewGiven
from tests.monitoring.stage import Stage, flag, now, prediction, review

R = QueueReason


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, review={"low_confidence": 0.5, "low_confidence_share": 0.5}) as stage:
        stage.released("v1", candidate="v2")
        yield stage


@pytest.fixture
def desk(stage: Stage) -> ReviewDesk:
    return ReviewDesk(stage.log, stage.history, stage.task)


def refresh(stage: Stage, desk: ReviewDesk) -> None:
    stage.record()
    with stage.history.connect() as connection:
        desk.refresh(connection, releases.current(stage.log), now())


def queued(stage: Stage, desk: ReviewDesk) -> dict[str, QueueReason]:
    refresh(stage, desk)
    return {item.prediction_id: item.reason for item in desk.queue(1000)}


@pytest.mark.parametrize(
    ("made", "flagged", "reason"),
    [
        ({"audit": 0.5, "shadow": ("v2", "negative")}, False, R.DISAGREEMENT),
        ({"audit": 0.5, "shadow": ("v2", "negative")}, True, R.DISAGREEMENT),
        ({"audit": 0.5, "shadow": ("v0", "negative")}, True, R.AUDIT),  # of an experiment that is over
        ({"audit": 0.5, "shadow": ("v2", "positive")}, False, R.AUDIT),
        ({"audit": 0.5}, True, R.AUDIT),
        ({"audit": 0.5, "confidence": 0.1}, True, R.AUDIT),
        ({"shadow": ("v2", "negative")}, False, None),  # not drawn by chance
        ({"confidence": 0.1}, True, R.FLAG),
        ({}, True, R.FLAG),
        ({"confidence": 0.1}, False, R.LOW_CONFIDENCE),
        ({"confidence": 0.6}, False, None),
        ({"version": "v0", "audit": 0.5}, True, None),  # nobody asks how good v0 is, and no flag brings it back
        ({"version": "v0"}, True, R.FLAG),
        ({"audit": 0.5, "text": None}, False, None),  # redacted
    ],
)
def test_a_prediction_waits_for_the_first_reason_that_fits(
    stage: Stage, desk: ReviewDesk, made: dict[str, Any], flagged: bool, reason: QueueReason | None
) -> None:
    one = prediction(**made)
    stage.append(one, prediction(), prediction(confidence=0.2), *([flag(one)] if flagged else []))
    assert queued(stage, desk).get(one.id) == reason


def test_reasons_come_in_their_order_and_within_one_the_oldest_first(stage: Stage, desk: ReviewDesk) -> None:
    start = now()
    kinds: list[dict[str, Any]] = [{}, {"audit": 0.5}, {"audit": 0.5, "shadow": ("v2", "negative")}]
    made = [prediction(at=start + timedelta(seconds=age), **kind) for age in (2, 1) for kind in kinds]
    stage.append(*made, flag(made[0]), flag(made[3]))
    refresh(stage, desk)
    expected = [made[5], made[2], made[4], made[1], made[3], made[0]]
    assert [item.prediction_id for item in desk.queue(10)] == [one.id for one in expected]
    assert [item.prediction_id for item in desk.queue(1, R.FLAG)] == [made[3].id]
    assert desk.counts() == {R.DISAGREEMENT: 2, R.AUDIT: 2, R.FLAG: 2, R.LOW_CONFIDENCE: 0}


def test_praise_is_no_reason(stage: Stage, desk: ReviewDesk) -> None:
    made = prediction()
    stage.append(made, flag(made).model_copy(update={"correct": True}))
    assert queued(stage, desk) == {}


def test_low_confidence_queues_no_more_than_its_share(stage: Stage, desk: ReviewDesk) -> None:
    unsure = [prediction(confidence=0.1 + i / 100) for i in range(20)]
    stage.append(*unsure)
    assert set(queued(stage, desk)) == {one.id for one in unsure[:9]}


def test_a_label_leaves_the_queue_before_the_history_has_it(stage: Stage, desk: ReviewDesk) -> None:
    made = prediction(audit=0.5)
    stage.append(made)
    assert queued(stage, desk) == {made.id: R.AUDIT}
    desk.label([GivenLabel(made.id, "neutral", "ann")], now())
    assert desk.queue(10) == []
    assert desk.counts()[R.AUDIT] == 0
    with stage.history.connect() as connection:  # not recorded yet
        desk.refresh(connection, releases.current(stage.log), now())
    assert desk.queue(10) == []
    assert queued(stage, desk) == {}


def test_the_reason_is_the_queue_s_and_direct_when_it_was_not_queued(stage: Stage, desk: ReviewDesk) -> None:
    audited, plain, new = prediction(audit=0.5), prediction(), prediction()
    new_audit = prediction(audit=0.5)
    stage.append(audited, plain)
    refresh(stage, desk)
    stage.append(new, new_audit)
    made = (audited, plain, new, new_audit)
    reviews = desk.label([GivenLabel(one.id, "neutral", "ann") for one in made], now())
    assert [one.reason for one in reviews] == [R.AUDIT, R.DIRECT, R.DIRECT, R.AUDIT]


def test_repeating_a_label_adds_nothing_and_a_second_reviewer_adds_a_review(stage: Stage, desk: ReviewDesk) -> None:
    made = prediction(audit=0.5)
    stage.append(made)
    refresh(stage, desk)

    def label(value: str, reviewer: str) -> int:
        return len(desk.label([GivenLabel(made.id, value, reviewer)], now()))

    assert [label("neutral", "ann"), label("neutral", "ann"), label("neutral", "bob"), label("positive", "bob")] == [
        1,
        0,
        1,
        1,
    ]
    refresh(stage, desk)
    another = ReviewDesk(stage.log, stage.history, stage.task)  # as after a restart
    assert another.label([GivenLabel(made.id, "positive", "bob")], now()) == []
    assert len(another.label([GivenLabel(made.id, "positive", "ann")], now())) == 1


def test_several_labels_are_taken_or_none(stage: Stage, desk: ReviewDesk) -> None:
    made = prediction()
    stage.append(made)
    with pytest.raises(InvalidInput, match="unknown label 'great'") as invalid:
        desk.label([GivenLabel(made.id, "neutral", "ann"), GivenLabel(made.id, "great", "ann")], now())
    assert invalid.value.details["index"] == 1
    with pytest.raises(NotFound) as missing:
        desk.label([GivenLabel(made.id, "neutral", "ann"), GivenLabel("nobody", "neutral", "ann")], now())
    assert missing.value.details == {"prediction_ids": ["nobody"]}
    assert stage.log.consumer(kinds=[ReviewGiven]).poll() == []


def test_a_review_by_someone_else_takes_a_prediction_off_the_queue(stage: Stage, desk: ReviewDesk) -> None:
    made = prediction(audit=0.5)
    stage.append(made)
    assert queued(stage, desk)
    stage.append(review(made, "neutral"))
    assert queued(stage, desk) == {}
