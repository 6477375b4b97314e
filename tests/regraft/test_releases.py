"""Releases are folded from events: of two changes at once exactly one wins, and every reader agrees which."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regraft import releases
from regraft.errors import Conflict, InvalidInput, NotReady
from regraft.eventlog import EventLog, open_log
from regraft.releases import Release, ReleaseFollower


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return open_log(f"sqlite:///{tmp_path}/log.sqlite")


def released(log: EventLog, *versions: str) -> Release:
    now = releases.current(log)
    for version in versions:
        now = releases.change(log, now, releases.promote(now, version), who="test", why="test")
    return now


def test_nothing_is_released_at_first(log: EventLog) -> None:
    assert releases.current(log) == Release()
    assert releases.history(log) == []


def test_each_change_is_a_generation(log: EventLog) -> None:
    now = released(log, "v1", "v2")
    assert (now.generation, now.production, now.previous) == (2, "v2", "v1")


def test_a_candidate_gets_its_share_and_loses_it_on_promotion(log: EventLog) -> None:
    now = released(log, "v1")
    now = releases.change(log, now, releases.start_experiment(now, "v2", 0.2), who="a", why="b")
    assert (now.production, now.candidate, now.share, now.versions) == ("v1", "v2", 0.2, ("v1", "v2"))
    now = releases.change(log, now, releases.promote(now, "v2"), who="a", why="b")
    assert (now.production, now.candidate, now.share, now.experiment_since) == ("v2", None, 0.0, None)


def test_raising_the_share_goes_on_with_the_same_experiment(log: EventLog) -> None:
    now = released(log, "v1")
    now = releases.change(log, now, releases.start_experiment(now, "v2", 0.1), who="a", why="b")
    later = releases.change(log, now, releases.start_experiment(now, "v2", 0.5), who="a", why="b")
    assert later.experiment_since == now.experiment_since
    assert later.since != now.since


def test_rolling_back_withdraws_the_candidate_first_and_then_production(log: EventLog) -> None:
    now = released(log, "v1", "v2")
    now = releases.change(log, now, releases.start_experiment(now, "v3", 0.1), who="a", why="b")
    now = releases.change(log, now, releases.roll_back(now), who="a", why="b")
    assert (now.production, now.candidate) == ("v2", None)
    now = releases.change(log, now, releases.roll_back(now), who="a", why="b")
    assert now.production == "v1"


def test_the_second_of_two_changes_at_once_is_told(log: EventLog) -> None:
    before = released(log, "v1")
    releases.change(log, before, releases.promote(before, "v2"), who="first", why="")
    with pytest.raises(Conflict, match="generation 2"):
        releases.change(log, before, releases.promote(before, "v3"), who="second", why="")
    assert releases.current(log).production == "v2"


def test_of_many_changes_at_once_exactly_one_wins(log: EventLog) -> None:
    before = released(log, "v0")

    def attempt(number: int) -> bool:
        try:
            releases.change(log, before, releases.promote(before, f"v{number}"), who=str(number), why="")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(1, 17)))
    assert won.count(True) == 1
    assert releases.current(log).production == f"v{won.index(True) + 1}"


def test_a_follower_reads_only_what_is_new(log: EventLog) -> None:
    follower = ReleaseFollower(log)
    released(log, "v1")
    assert follower.refresh().production == "v1"
    released(log, "v2")
    assert follower.refresh() == releases.current(log)


def test_the_past_can_be_asked_for(log: EventLog) -> None:
    released(log, "v1", "v2", "v3")
    assert [release.production for release in releases.history(log)] == ["v1", "v2", "v3"]
    assert [release.why for release in releases.history(log)] == ["test"] * 3


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InvalidInput, match="share"):
        releases.start_experiment(Release(production="v1"), "v2", share)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidInput, match="already"):
        releases.promote(Release(production="v1"), "v1")
    with pytest.raises(InvalidInput, match="already"):
        releases.start_experiment(Release(production="v1"), "v1", 0.1)
    with pytest.raises(InvalidInput, match="no candidate"):
        releases.end_experiment(Release(production="v1"))
    with pytest.raises(InvalidInput, match="no earlier"):
        releases.roll_back(Release(production="v1"))
    with pytest.raises(NotReady):
        releases.start_experiment(Release(), "v1", 0.1)
