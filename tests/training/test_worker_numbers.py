"""The circle of a regression, with real training on tiny data: monitor, request, candidate, experiment, verdict."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regraft import releases
from regraft.eventlog import Record, replay
from regraft.events import (
    Arm,
    CandidateRegistered,
    Event,
    PredictionMade,
    QueueReason,
    ReleaseChanged,
    RetrainingRequested,
    ReviewGiven,
    Shadow,
    VerdictReached,
)
from regraft.settings import Settings
from tests.training.conftest import FILLER
from tests.training.test_regression import MIDDLE, SPREAD, rated, write_numbers
from training.dataset import read_dataset
from training.train import fine_tune, version_folder
from training.worker import Worker, open_worker

NEW = ["word1", "word2", "word3"], ["word4", "word5", "word6"]  # worse and better, in words production never saw


def prediction(text: str, value: float, **options: object) -> PredictionMade:
    fields = {
        "version": "first", "arm": Arm.PRODUCTION, "generation": 1, "input": text, "label": f"{value:g}",
        "confidence": 0.3, "probabilities": (), "interval": (value - 20, value + 20), "features": (0.0,) * 8,
        "latency_ms": 1.0,
    }  # fmt: skip
    return PredictionMade.model_validate(fields | options)


def reviewed(count: int) -> list[Event]:
    """Answered with the middle, whatever they are."""
    generator, events = random.Random(3), list[Event]()
    for number in range(count):
        better = generator.randint(0, 1)
        words = generator.choices(NEW[better], k=3) + generator.choices(FILLER, k=generator.randint(2, 8))
        made = prediction(" ".join([*words, f"word{20 + number}"]), MIDDLE)
        truth = MIDDLE + SPREAD * (4 * better - 2 + generator.gauss(0, 0.1))
        said = {"prediction_id": made.id, "reviewer": "ann", "reason": QueueReason.AUDIT}
        events += [made, ReviewGiven(label=f"{truth:.2f}", **said)]
    return events


def remember(worker: Worker, events: list[Event]) -> None:
    start = max(worker.history.positions().values(), default=0) + 1
    worker.history.write([Record("log", start + place, event) for place, event in enumerate(events)])


@pytest.fixture
def worker(tmp_path: Path, backbone: Path) -> Worker:
    options = {"export": {"int8": False}, "retraining": {"forgetting": 1.0}, "experiment": {"minimum": 5, "cap": 40}}
    file = write_numbers(tmp_path, backbone, rated(240), **options)
    worker = open_worker(Settings(task=file, home=tmp_path / "home"))
    manifest = fine_tune(worker.task, read_dataset(worker.task), tmp_path / "run", version="first")
    worker.store.publish(version_folder(tmp_path / "run"), manifest)
    worker.log.append([ReleaseChanged(replaces=0, production="first", who="test", why="the first")])
    return worker


def test_numbers_go_round_the_circle(worker: Worker) -> None:
    remember(worker, reviewed(240))
    worker.log.append([RetrainingRequested(reasons=("test",), new_labels=1)])
    assert worker.work()
    (outcome,) = replay(worker.log, CandidateRegistered)
    newest = outcome.evidence["newest"]
    assert outcome.evidence["figure"] == "mae"
    assert newest["candidate"] < newest["production"]
    assert newest["difference"]["mae"]["low"] > 0
    assert newest["worth"]["savings"]["production"]["low"] > 0
    page = (worker.store.fetch(outcome.version) / "report.html").read_text()
    assert "Against production" in page
    assert "mean absolute error gained" in page

    release = releases.current(worker.log)
    assert release.candidate == outcome.version
    since = (release.experiment_since or datetime.now(UTC)) + timedelta(seconds=1)
    events: list[Event] = []
    for number in range(20):  # the candidate is nearer in all of them but one
        truth = 510 if number else 490
        shadow = Shadow(version=outcome.version, label="505", probabilities=())
        made = prediction(f"text {number}", 492, at=since, audit_probability=0.5, shadow=shadow, generation=2)
        said = {"prediction_id": made.id, "reviewer": "ann", "reason": QueueReason.DISAGREEMENT, "at": since}
        events += [made, ReviewGiven(label=str(truth), **said)]
    remember(worker, events)
    worker.judge()
    (verdict,) = replay(worker.log, VerdictReached)
    assert (verdict.outcome, verdict.evidence["wins"], verdict.evidence["losses"]) == ("promote", 19, 1)
    assert releases.current(worker.log).production == outcome.version
