"""What the workers leave behind for Prometheus."""

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regraft.eventlog import SQLiteLog, open_log
from service.metrics import Metrics, forget_dead_workers
from tests.brokers import free_port
from tests.regraft.test_events import prediction


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SQLiteLog]:
    with closing(SQLiteLog(tmp_path / "log.sqlite")) as log:
        yield log


def test_a_dead_workers_gauges_go_and_its_counters_stay(tmp_path: Path) -> None:
    dead = 2**30  # above any process id that Linux gives
    files = [f"gauge_livemin_{dead}.db", f"counter_{dead}.db", f"gauge_livemin_{os.getpid()}.db", "gauge_livemin_1.db"]
    for file in files:
        (tmp_path / file).touch()
    forget_dead_workers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(files[1:])


def test_a_single_process_shows_its_metrics_without_a_shared_folder(log: SQLiteLog) -> None:
    metrics = Metrics(log)
    metrics.errors.labels("not_found").inc(3)
    assert b'regraft_errors_total{code="not_found"} 3.0' in metrics.render()


def test_what_waits_for_kafka_is_shown_and_how_long_it_has(tmp_path: Path) -> None:
    url = f"kafka://127.0.0.1:{free_port()}/regraft.reviews?local={tmp_path}/outbox.sqlite"
    with closing(open_log(url)) as away:
        metrics = Metrics(away)
        assert b"regraft_outbox_events 0.0" in metrics.render()
        away.append([prediction(at=datetime.now(UTC) - timedelta(seconds=70)), prediction()])
        shown = metrics.render().decode()
    assert "regraft_outbox_events 2.0" in shown
    (age,) = (float(line.split()[1]) for line in shown.splitlines() if line.startswith("regraft_outbox_oldest_seconds"))
    assert 70 <= age < 100


def test_a_log_that_cannot_be_read_keeps_nobody_from_the_other_metrics(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite").write_text("no database")
    with closing(open_log(f"kafka://127.0.0.1:1/regraft.reviews?local={tmp_path}/outbox.sqlite")) as damaged:
        shown = Metrics(damaged).render()
    assert b"regraft_outbox_events" not in shown
    assert b"regraft_swaps_total" in shown
