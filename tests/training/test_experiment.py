"""Verdicts on made-up histories: two versions, audited disagreements, reviews."""

from pathlib import Path
from typing import Any

import pytest

from regraft import releases
from regraft.eventlog import Record, SQLiteLog
from regraft.events import Arm, Event, PredictionMade, QueueReason, ReleaseChanged, ReviewGiven, Shadow, VerdictReached
from regraft.history import History
from regraft.ids import derived_id
from regraft.sections import Experiment
from training import experiment

SETTINGS = Experiment(share=0.5, minimum=10, cap=60)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.log, self.history = SQLiteLog(folder / "log.sqlite"), History(str(folder / "history"))
        self.offset = 0
        self.log.append([ReleaseChanged(replaces=0, production="old", who="t", why="t")])
        self.start("new", 0.5)

    def start(self, candidate: str, share: float) -> None:
        release = releases.current(self.log)
        releases.change(self.log, release, releases.start_experiment(release, candidate, share), who="t", why="t")

    def remember(self, events: list[Event]) -> None:
        self.history.write([Record("log", self.offset + n, event) for n, event in enumerate(events, start=1)])
        self.offset += len(events)

    def disagree(self, count: int, *, truth: str, **values: Any) -> None:
        """`old` says negative and `new` says positive, answered by both arms in turn; reviewed as `truth`."""
        events: list[Event] = []
        for number in range(count):
            arm, version, shadow, label, other = (
                (Arm.PRODUCTION, "old", "new", "negative", "positive")
                if number % 2
                else (Arm.CANDIDATE, "new", "old", "positive", "negative")
            )
            defaults = {
                "version": version, "arm": arm, "generation": releases.current(self.log).generation, "input": "text",
                "label": label, "confidence": 0.6, "probabilities": (0.4, 0.6), "features": (0.0,), "latency_ms": 1.0,
                "audit_probability": 0.5, "subject": f"{truth} {self.offset} {number}",
                "shadow": Shadow(version=shadow, label=other, probabilities=(0.6, 0.4)),
            }  # fmt: skip
            made = PredictionMade.model_validate(defaults | values)
            review = ReviewGiven(prediction_id=made.id, label=truth, reviewer="r", reason=QueueReason.DISAGREEMENT)
            events += [made, review]
        self.remember(events)

    def judge(self, **settings: Any) -> VerdictReached | None:
        chosen = SETTINGS.model_copy(update=settings)
        return experiment.judge(self.log, self.history, releases.current(self.log), chosen)

    def verdicts(self) -> list[Any]:
        return [record.event for record in self.log.consumer(kinds=[VerdictReached]).poll()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_candidate_that_wins_is_promoted(bench: Bench) -> None:
    bench.disagree(20, truth="positive")
    reached = bench.judge()
    assert reached is not None
    assert (reached.outcome, reached.production, reached.candidate) == ("promote", "old", "new")
    assert (reached.evidence["wins"], reached.evidence["losses"]) == (20, 0)
    release = releases.current(bench.log)
    assert (release.production, release.candidate, release.previous) == ("new", None, "old")
    assert (release.who, release.why) == ("worker", "promote: the candidate won 20 of 20")
    assert bench.judge() is None
    assert bench.verdicts() == [reached]


def test_a_candidate_that_loses_is_withdrawn(bench: Bench) -> None:
    bench.disagree(20, truth="negative")
    reached = bench.judge()
    assert reached is not None
    assert reached.outcome == "roll_back"
    assert (releases.current(bench.log).production, releases.current(bench.log).candidate) == ("old", None)


def test_at_the_cap_production_stays(bench: Bench) -> None:
    bench.disagree(30, truth="negative")
    bench.disagree(30, truth="positive")
    reached = bench.judge()
    assert reached is not None
    assert reached.outcome == "keep"
    assert releases.current(bench.log).production == "old"


def test_little_evidence_is_waited_for(bench: Bench) -> None:
    assert bench.judge() is None
    bench.disagree(8, truth="positive")
    assert bench.judge() is None
    assert bench.verdicts() == []
    assert releases.current(bench.log).candidate == "new"


def test_what_was_not_drawn_into_the_audit_does_not_count(bench: Bench) -> None:
    bench.disagree(40, truth="positive", audit_probability=None)
    assert bench.judge() is None


def test_reviews_of_both_wrong_are_ties(bench: Bench) -> None:
    bench.disagree(60, truth="neutral")
    reached = bench.judge()
    assert reached is not None
    assert (reached.outcome, reached.evidence["ties"]) == ("keep", 60)


def test_a_broken_split_blocks_the_verdict(bench: Bench) -> None:
    bench.disagree(200, truth="positive", arm=Arm.PRODUCTION)
    assert bench.judge(cap=400) is None


def test_only_the_present_share_is_held_against_the_split(bench: Bench) -> None:
    bench.disagree(200, truth="positive", arm=Arm.PRODUCTION)
    bench.start("new", 0.4)
    assert bench.judge() is not None  # evidence is from the whole experiment, the split from the new generation


def test_nothing_is_decided_where_a_person_decides(bench: Bench) -> None:
    bench.disagree(20, truth="positive")
    assert bench.judge(automatic=False) is None
    assert bench.verdicts() == []


def test_killed_between_verdict_and_release_it_carries_the_verdict_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.disagree(20, truth="positive")

    class Killed(BaseException):
        pass

    def dies(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(releases, "change", dies)
        with pytest.raises(Killed):
            bench.judge()
    bench.disagree(40, truth="negative")  # what comes in meanwhile changes nothing: the verdict was reached
    reached = bench.judge()
    assert reached is not None
    assert (reached.outcome, releases.current(bench.log).production) == ("promote", "new")
    assert bench.verdicts() == [reached]


def test_a_verdict_too_late_changes_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.disagree(20, truth="positive")
    stale = releases.current(bench.log)
    releases.change(bench.log, stale, releases.end_experiment(stale), who="a person", why="by hand")
    assert experiment.judge(bench.log, bench.history, stale, SETTINGS) is None
    assert "too late" in caplog.text
    assert releases.current(bench.log).who == "a person"


def test_each_release_has_one_verdict(bench: Bench) -> None:
    change = releases.current(bench.log).change_id
    bench.disagree(20, truth="positive")
    reached = bench.judge()
    assert reached is not None
    assert reached.id == derived_id(change, "verdict")
    assert experiment.find(bench.log, derived_id(change, "another")) is None
