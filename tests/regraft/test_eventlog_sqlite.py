"""What is true of the log in one SQLite file beyond what every log promises: retention, and the disk's faults."""

import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regraft.errors import LogUnavailable
from regraft.eventlog import EventLog, SQLiteLog
from regraft.events import ReleaseChanged
from regraft.ids import new_id
from tests.regraft.test_events import prediction


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = SQLiteLog(tmp_path / "log.sqlite")
    yield log
    log.close()


def ids(log: EventLog) -> list[str]:
    return [record.event.id for record in log.consumer().poll()]


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


def test_a_named_consumer_is_shown_only_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SQLiteLog(tmp_path / "log.sqlite")
    synced: list[Path] = []
    log.append([prediction()])
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    log.consumer().poll()
    assert synced == []
    log.consumer("recorder").poll()
    assert synced == [tmp_path / "log.sqlite-wal"]


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
    log = SQLiteLog(tmp_path / "log.sqlite")
    with pytest.raises(LogUnavailable, match=r"log\.sqlite cannot be opened"):
        log.append([prediction()])
    (tmp_path / "log.sqlite").unlink()
    log.append([prediction()])
    assert len(ids(log)) == 1


def test_a_log_whose_folder_cannot_be_made_is_said_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file in the way")
    log = SQLiteLog(tmp_path / "home" / "log.sqlite")
    with pytest.raises(LogUnavailable, match="cannot be opened"):
        log.consumer("recorder")
    (tmp_path / "home").unlink()
    assert log.consumer("recorder").poll() == []


def test_following_rare_kinds_does_not_read_the_predictions(tmp_path: Path) -> None:
    log = SQLiteLog(tmp_path / "log.sqlite")
    log.append([ReleaseChanged(id=new_id(), replaces=0, production="v1", who="me", why="test")])
    plan = log._query(
        "EXPLAIN QUERY PLAN SELECT offset, body FROM events WHERE kind <> 'prediction_made' AND kind IN (?)"
        " AND offset > ? ORDER BY offset LIMIT ?",
        ("release_changed", 0, 10),
    )
    assert any("sparse" in str(row) for row in plan)


def test_offsets_are_not_given_twice_after_trimming(log: EventLog) -> None:
    log.append([prediction()])
    consumer = log.consumer("recorder")
    (before,) = consumer.poll()
    consumer.commit()
    log.trim(datetime.now(UTC))
    log.append([prediction()])
    (after,) = consumer.poll()
    assert after.offset > before.offset
