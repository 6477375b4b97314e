"""What every backend of the event log promises. A new backend joins by one line in `LOGS`."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regraft.errors import ConfigError, LogUnavailable
from regraft.eventlog import EventLog, SQLiteLog, open_log
from regraft.events import FeedbackGiven, PredictionMade, ReleaseChanged
from regraft.ids import new_id
from tests.regraft.test_events import prediction

LOGS: dict[str, Callable[[Path], str]] = {"sqlite": lambda folder: f"sqlite:///{folder}/log.sqlite"}


@pytest.fixture(params=sorted(LOGS))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return LOGS[request.param](tmp_path)


@pytest.fixture
def log(url: str) -> Iterator[EventLog]:
    log = open_log(url)
    yield log
    log.close()


def ids(log: EventLog, **given: object) -> list[str]:
    consumer, found = log.consumer(**given), []  # type: ignore[arg-type]
    while records := consumer.poll(limit=7):
        found += [record.event.id for record in records]
    return found


def test_events_come_back_as_they_were_and_in_order(log: EventLog) -> None:
    events = [prediction(input=str(number)) for number in range(20)]
    log.append(events)
    assert [record.event for record in log.consumer().poll()] == events


def test_offsets_rise_within_a_stream(log: EventLog) -> None:
    log.append([prediction() for _ in range(20)])
    records = log.consumer().poll()
    assert all(a.offset < b.offset for a, b in itertools.pairwise(records) if a.stream == b.stream)


def test_an_event_is_in_the_log_once_however_often_it_is_appended(log: EventLog) -> None:
    event = prediction()
    log.append([event, event])
    log.append([event])
    assert ids(log) == [event.id]


def test_a_consumer_gets_only_its_kinds(log: EventLog) -> None:
    change = ReleaseChanged(replaces=0, production="v1", who="me", why="test")
    log.append([prediction(), change, prediction()])
    assert ids(log, kinds=[ReleaseChanged]) == [change.id]
    assert len(ids(log, kinds=[ReleaseChanged, PredictionMade])) == 3


def test_a_named_consumer_goes_on_after_its_commit(log: EventLog) -> None:
    events = [prediction() for _ in range(5)]
    log.append(events)
    consumer = log.consumer("reader")
    consumer.poll(limit=2)
    consumer.commit()
    consumer.poll(limit=2)  # polled, not committed: to be seen again
    assert ids(log, name="reader") == [event.id for event in events[2:]]


def test_consumers_do_not_share_their_place(log: EventLog) -> None:
    log.append([prediction()])
    first = log.consumer("first")
    first.poll()
    first.commit()
    assert len(ids(log, name="second")) == 1


def test_a_consumer_starts_where_it_is_told(log: EventLog) -> None:
    log.append([prediction() for _ in range(5)])
    third = log.consumer().poll()[2]
    assert len(ids(log, start={third.stream: third.offset})) == 2


def test_a_consumer_waits_at_the_end_for_what_comes(log: EventLog) -> None:
    consumer = log.consumer()
    assert consumer.poll() == []
    log.append([prediction()])
    assert len(consumer.poll()) == 1
    assert consumer.poll() == []


def test_lag_counts_what_is_left(log: EventLog) -> None:
    log.append([prediction() for _ in range(5)])
    consumer = log.consumer(kinds=[PredictionMade])
    assert consumer.lag() == 5
    consumer.poll(limit=3)
    assert consumer.lag() == 2


def test_another_opening_of_the_log_sees_the_same(log: EventLog, url: str) -> None:
    log.append([prediction()])
    other = open_log(url)
    assert ids(other) == ids(log)
    other.close()


def test_threads_may_write_and_read_at_once(log: EventLog) -> None:
    def write(_: int) -> None:
        for _ in range(25):
            log.append([prediction()])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(ids(log))) == len(ids(log)) == 200


def test_a_reader_beside_writers_misses_nothing(log: EventLog) -> None:
    """Offsets become visible in order: a reader never passes over one that is committed later."""
    done = threading.Event()

    def write() -> None:
        for _ in range(100):
            log.append([prediction()])

    def read() -> list[str]:
        consumer, found = log.consumer(), []
        while True:
            last = done.is_set()
            records = consumer.poll()
            found += [record.event.id for record in records]
            if last and not records:
                return found

    with ThreadPoolExecutor(4) as pool:
        reader = pool.submit(read)
        for writer in [pool.submit(write) for _ in range(3)]:
            writer.result()
        done.set()
        assert sorted(reader.result()) == sorted(ids(log))
        assert len(ids(log)) == 300


def test_trimming_waits_for_every_named_consumer(log: EventLog) -> None:
    log.append([prediction() for _ in range(4)])
    fast, slow = log.consumer("fast"), log.consumer("slow")
    fast.poll()
    fast.commit()
    slow.poll(limit=1)
    slow.commit()
    assert log.trim(datetime.now(UTC)) == 1
    assert len(ids(log)) == 3


def test_trimming_without_any_consumer_forgets_nothing(log: EventLog) -> None:
    log.append([prediction()])
    assert log.trim(datetime.now(UTC)) == 0


def test_trimming_does_not_wait_for_one_who_reads_only_what_stays(log: EventLog) -> None:
    log.append([ReleaseChanged(replaces=0, production="v1", who="me", why="test"), prediction(), prediction()])
    for name, kinds in (("recorder", None), ("worker", [ReleaseChanged])):
        consumer = log.consumer(name, kinds=kinds)
        consumer.poll()
        consumer.commit()
    assert log.trim(datetime.now(UTC)) == 2


def test_trimming_keeps_the_young_and_what_state_is_folded_from(log: EventLog) -> None:
    old = datetime.now(UTC) - timedelta(days=9)
    change = ReleaseChanged(at=old, replaces=0, production="v1", who="me", why="test")
    young = prediction()
    log.append([prediction(at=old), change, young])
    consumer = log.consumer("recorder")
    consumer.poll()
    consumer.commit()
    assert log.trim(datetime.now(UTC) - timedelta(days=7)) == 1
    assert ids(log) == [change.id, young.id]


def test_offsets_are_not_given_twice_after_trimming(log: EventLog) -> None:
    log.append([prediction()])
    consumer = log.consumer("recorder")
    (before,) = consumer.poll()
    consumer.commit()
    log.trim(datetime.now(UTC))
    log.append([prediction()])
    (after,) = consumer.poll()
    assert after.offset > before.offset


def test_closing_twice_is_safe(url: str) -> None:
    log = open_log(url)
    log.close()
    log.close()


WRITER = """
import sys
from regraft.eventlog import open_log
from regraft.events import FeedbackGiven
log = open_log(sys.argv[1])
while True:
    events = [FeedbackGiven(prediction_id="0" * 32, correct=True) for _ in range(3)]
    log.append(events)
    print(*(event.id for event in events), flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged_and_leaves_no_half_batch(log: EventLog, url: str) -> None:
    acknowledged: list[str] = []
    for batches in (1, 5, 20):
        with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged += [i for _ in range(batches) for i in writer.stdout.readline().split()]
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged += writer.stdout.read().split()[: -1 or None]
    found = ids(log, kinds=[FeedbackGiven])
    lost, doubled = set(acknowledged) - set(found), len(found) - len(set(found))
    print(f"acknowledged {len(acknowledged)}, found {len(found)}, lost {len(lost)}, doubled {doubled}")
    assert not lost
    assert not doubled
    assert len(found) % 3 == 0


def test_many_processes_may_open_a_new_log_at_once(url: str) -> None:
    script = "import sys; from regraft.eventlog import open_log; open_log(sys.argv[1]).append([])"
    processes = [subprocess.Popen([sys.executable, "-c", script, url]) for _ in range(6)]
    assert [process.wait() for process in processes] == [0] * 6


def test_a_full_disk_is_said_and_a_later_append_succeeds(tmp_path: Path) -> None:
    log = SQLiteLog(tmp_path / "log.sqlite")
    connection = log._connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(LogUnavailable, match="full"):
        log.append([prediction(input="x" * 100_000)])
    connection.execute("PRAGMA max_page_count = 100000")
    log.append([prediction()])
    assert len(ids(log)) == 1


def test_a_locked_log_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.eventlog.sqlite.BUSY_SECONDS", 0.05)
    log = SQLiteLog(tmp_path / "log.sqlite")
    with sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable, match="locked"):
            log.append([prediction()])
    other.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_file_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.sqlite").write_bytes(content)
    with pytest.raises(LogUnavailable):
        SQLiteLog(tmp_path / "log.sqlite")


@pytest.mark.parametrize("address", ["redis://here", "sqlite:", "sqlite:///", "/plain/path"])
def test_an_unknown_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="no event log backend"):
        open_log(address)


def test_following_rare_kinds_does_not_read_the_predictions(tmp_path: Path) -> None:
    log = SQLiteLog(tmp_path / "log.sqlite")
    log.append([ReleaseChanged(id=new_id(), replaces=0, production="v1", who="me", why="test")])
    plan = log._query(
        "EXPLAIN QUERY PLAN SELECT offset, body FROM events WHERE kind <> 'prediction_made' AND kind IN (?)"
        " AND offset > ? ORDER BY offset LIMIT ?",
        ("release_changed", 0, 10),
    )
    assert any("sparse" in str(row) for row in plan)
