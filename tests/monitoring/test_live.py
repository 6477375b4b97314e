import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from monitoring.judge import Judge, Standing
from monitoring.live import VersionQuality
from monitoring.review import ReviewDesk
from regraft.history import Disagreements
from tests.monitoring.stage import Stage, flag, now, prediction, review


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, retraining={"minimum_audits": 2}) as stage:
        yield stage


def look(stage: Stage) -> Standing:
    stage.record()
    desk = ReviewDesk(stage.log, stage.history, stage.task)
    return Judge(stage.log, stage.history, stage.store, desk, stage.task).look(now())


def quality(stage: Stage, version: str = "v1") -> VersionQuality:
    return next(one for one in look(stage).quality if one.version == version)


def test_without_a_release_there_is_nothing_to_measure(stage: Stage) -> None:
    standing = look(stage)
    assert standing.quality == ()
    assert standing.decision.waiting_for == "a version in production"


def test_before_the_first_prediction_everything_is_undefined(stage: Stage) -> None:
    stage.version("v1", accuracy=0.8)
    stage.released("v1")
    found = quality(stage)
    assert (found.predictions, found.validation, found.live.reviewed) == (0, 0.8, 0)
    assert math.isnan(found.live.value)
    assert math.isnan(found.mean_confidence)


def test_accuracy_weighs_each_audit_with_the_inverse_of_its_chance(stage: Stage) -> None:
    stage.released("v1")
    rare, common = prediction("v1", "positive", audit=0.1), prediction("v1", "positive", audit=0.5)
    stage.append(rare, common, review(rare, "positive"), review(common, "negative"))
    assert quality(stage).live.value == pytest.approx(10 / (10 + 2))


def test_only_audits_tell_the_accuracy_and_never_flags(stage: Stage) -> None:
    stage.released("v1")
    audited = [prediction(audit=0.5) for _ in range(4)]
    flagged = [prediction() for _ in range(6)]
    stage.append(*audited, *flagged, *map(flag, flagged))
    stage.append(*(review(one, "positive") for one in audited), *(review(one, "negative") for one in flagged))
    found = quality(stage)
    assert found.live.value == pytest.approx(1)
    assert found.live.reviewed == 4
    assert found.flag_rate.value == pytest.approx(0.6)


def test_flagged_audits_reviewed_sooner_do_not_pull_the_accuracy_down(stage: Stage) -> None:
    stage.released("v1")
    wrong = [prediction(audit=0.5) for _ in range(2)]
    right = [prediction(audit=0.5) for _ in range(8)]
    stage.append(*wrong, *right, *map(flag, wrong))
    stage.append(*(review(one, "negative") for one in wrong), *(review(one, "positive") for one in right[:2]))
    assert quality(stage).live.value == pytest.approx(0.8)  # 2 of 4 reviews, but 8 of 10 audits


def test_the_newest_review_of_a_prediction_counts(stage: Stage) -> None:
    stage.released("v1")
    audited = prediction("v1", "positive", audit=0.5)
    stage.append(audited, review(audited, "negative").model_copy(update={"id": "1"}))
    stage.append(review(audited, "positive").model_copy(update={"id": "2"}))
    assert quality(stage).live.value == pytest.approx(1)


def test_what_was_answered_before_the_release_or_by_another_version_is_left_out(stage: Stage) -> None:
    early = prediction("v1", "positive", audit=0.5, at=now() - timedelta(minutes=1))
    stage.released("v1")
    other = prediction("v0", "positive", audit=0.5)
    stage.append(early, other, review(early, "negative"), review(other, "negative"))
    found = quality(stage)
    assert (found.predictions, found.live.audited) == (0, 0)


def test_accuracy_looks_back_no_further_than_the_newest_reviews_reach(stage: Stage) -> None:
    stage.released("v1")
    start = now()
    audits = [prediction("v1", "positive", audit=0.5, at=start + timedelta(milliseconds=i)) for i in range(20)]
    stage.append(*audits, *(review(one, "negative") for one in audits[:10]))
    stage.append(*(review(one, "positive") for one in audits[10:18]))
    found = quality(stage)  # minimum_audits 2: the newest 8 reviews, and the 2 audits after them
    assert found.live.value == pytest.approx(1)
    assert (found.live.audited, found.live.reviewed) == (10, 8)


def test_the_estimate_from_confidence_is_the_mean_confidence(stage: Stage) -> None:
    stage.released("v1")
    stage.append(prediction(confidence=0.5), prediction(confidence=0.9))
    found = quality(stage)
    assert found.mean_confidence == pytest.approx(0.7)
    assert found.expected is not None
    assert found.expected.value == pytest.approx(0.7)


def test_a_candidate_is_measured_beside_production_with_its_wins_and_losses(stage: Stage) -> None:
    stage.released("v1", candidate="v2")
    won = prediction("v1", "positive", audit=0.5, shadow=("v2", "negative"))
    lost = prediction("v2", "positive", audit=0.5, shadow=("v1", "negative"))
    stage.append(won, lost, review(won, "negative"), review(lost, "negative"))
    standing = look(stage)
    assert [(one.version, one.arm.value, one.predictions) for one in standing.quality] == [
        ("v1", "production", 1),
        ("v2", "candidate", 1),
    ]
    assert standing.disagreements == Disagreements(wins=1, losses=1, ties=0)


def test_a_version_without_a_manifest_has_no_validation_accuracy(stage: Stage) -> None:
    stage.released("lost")
    assert quality(stage, "lost").validation is None


def test_new_labels_are_predictions_reviewed_and_each_counts_once(stage: Stage) -> None:
    stage.released("v1")
    first, second = prediction(), prediction()
    stage.append(first, second, review(first, "positive"), review(first, "neutral"), review(second, "positive"))
    assert look(stage).new_labels == 2


def test_an_event_recorded_twice_is_measured_once(stage: Stage) -> None:
    stage.released("v1")
    audited = prediction(audit=0.5)
    stage.append(audited, flag(audited), review(audited, "positive"))
    stage.record()
    stage.history.write(list(stage.log.consumer().poll())[1:])
    found = quality(stage)
    assert (found.predictions, found.live.audited, found.flag_rate.value) == (1, 1, 1.0)
