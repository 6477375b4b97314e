import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from monitoring.jobs import Job
from monitoring.metrics import Metrics
from regraft.history import History
from tests.monitoring.stage import Stage, flag, like_the_reference, now, prediction, reference

PATIENCE = 60.0


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


class Address:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def text(self, path: str, body: object = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text

    def json(self, path: str, body: object = None) -> Any:
        return json.loads(self.text(path, body))

    def is_up(self) -> bool:
        try:
            return bool(self.json("/healthz"))
        except OSError:
            return False


@contextmanager
def running(stage: Stage) -> Iterator[Address]:
    """`regraft monitor` as a process; it must end well when it is told to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | stage.settings.as_environment() | {"REGRAFT_MONITOR_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "regraft", "monitor"], env=environment)
    try:
        address = Address(port)
        wait_for(address.is_up)
        yield address
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def test_the_monitor_records_judges_checks_drift_and_takes_labels(tmp_path: Path) -> None:
    drift = {"window": 300, "minimum": 100, "every_seconds": 1}
    with Stage(tmp_path, drift=drift, retraining={"new_labels": 1}) as stage:
        stage.version("v1", accuracy=0.8, files={"reference.parquet": reference()})
        stage.released("v1")
        later = (one.model_copy(update={"at": now()}) for one in like_the_reference(200, 1, shift=1.0))
        audited = prediction(audit=0.5, text="what a book")
        stage.append(*later, audited, flag(audited))
        with running(stage) as monitor:
            (item,) = wait_for(lambda: monitor.json("/review/queue?reason=audit")["items"])
            assert item["input"] == "what a book"
            label = {"prediction_id": item["prediction_id"], "label": "positive", "reviewer": "ann"}
            assert monitor.json("/review/labels", label)["added"] == 1
            assert monitor.json("/review/queue?reason=audit")["items"] == []
            production = wait_for(lambda: _reviewed(monitor))
            assert (production["accuracy"]["value"], production["validation_accuracy"]) == (1.0, 0.8)
            (check,) = wait_for(lambda: monitor.json("/drift")["checks"])
            assert check["drifted"]
            assert "feature_0" in monitor.text(check["report"])
            request = wait_for(lambda: monitor.json("/status")["last_request"])
            assert request["reasons"][0].startswith("drift in feature_0, feature_1 over 201 predictions")
            lines = monitor.text("/metrics").splitlines()
            assert 'regraft_drift_detected{version="v1"} 1.0' in lines
            assert 'regraft_retraining_requests_total{reason="drift"} 1.0' in lines
            assert 'regraft_reviewed_audits{version="v1"} 1.0' in lines
            last = prediction()
            stage.append(last)
        assert last.id in _recorded(stage.history)  # it was told to end before it had looked again, or after


def _reviewed(monitor: Address) -> Any:
    production = monitor.json("/status")["quality"][0]
    return production if production["accuracy"]["reviewed"] else None


def _recorded(history: History) -> set[str]:
    with history.connect() as connection:
        return {row[0] for row in connection.execute("SELECT id FROM events").fetchall()}


def test_a_job_that_fails_is_counted_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    metrics, stop, tries = Metrics(), threading.Event(), [0]

    def work() -> None:
        tries[0] += 1
        if tries[0] == 3:
            stop.set()
        else:
            raise RuntimeError("not now")

    with caplog.at_level(logging.ERROR):
        Job("judge", work, seconds=0.001, rest=0.0, stop=stop, metrics=metrics).run()
    assert 'regraft_job_failures_total{work="judge"} 2.0' in metrics.exposition().decode().splitlines()
    assert "judge failed; it will be tried again" in caplog.text
