"""What the workers leave behind for Prometheus."""

import asyncio
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


async def test_answers_are_counted_together_and_each_in_its_bucket(log: SQLiteLog) -> None:
    metrics = Metrics(log)
    answers = metrics.of_answers("v1", "production")
    answers.add(["good", "bad"], [0.5, 0.5625], [0.0, 0.002], 0.02)
    answers.add(["good"], [0.9375], [20.0], 0.03)
    await asyncio.sleep(0)
    shown = metrics.render().decode()
    for label, count in (("good", 2), ("bad", 1)):
        assert f'regraft_predictions_total{{arm="production",label="{label}",version="v1"}} {count}.0' in shown
    for le, count in (("0.4", 0), ("0.5", 1), ("0.6", 2), ("0.9", 2), ("0.95", 3)):
        assert f'regraft_prediction_confidence_bucket{{arm="production",le="{le}",version="v1"}} {count}.0' in shown
    assert 'regraft_prediction_confidence_sum{arm="production",version="v1"} 2.0' in shown
    assert 'regraft_request_seconds_count{arm="production",version="v1"} 2.0' in shown
    assert 'regraft_queue_seconds_bucket{arm="production",le="+Inf",version="v1"} 3.0' in shown
    assert 'regraft_queue_seconds_bucket{arm="production",le="10.0",version="v1"} 2.0' in shown


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
