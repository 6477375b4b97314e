"""A stage for the monitor's tests: a real log, history and version store in one folder, and events to put into them."""

import io
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas  # noqa: F401  as pyarrow would at the first table
import pyarrow as pa
import pyarrow.parquet as pq

from monitoring.metrics import Metrics
from monitoring.recorder import Recorder
from regraft import releases
from regraft.eventlog import EventLog, Record, open_log
from regraft.events import Arm, Event, FeedbackGiven, PredictionMade, QueueReason, ReviewGiven, Shadow
from regraft.history import History
from regraft.releases import Release
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import VersionStore
from tests.fakes import LABELS, tiny_task, tiny_version

WORDS = ("good", "bad", "fine", "awful", "nice", "book", "the", "a", "was", "it", "plot", "slow")


def now() -> datetime:
    return datetime.now(UTC)


def prediction(
    version: str = "v1",
    label: str = "positive",
    *,
    at: datetime | None = None,
    audit: float | None = None,
    shadow: tuple[str, str] | None = None,
    confidence: float = 0.9,
    text: str | None = "a text",
    features: Sequence[float] = (0.0, 0.0),
) -> PredictionMade:
    return PredictionMade(
        at=at or now(),
        version=version,
        arm=Arm.PRODUCTION,
        generation=1,
        input=text,
        label=label,
        confidence=confidence,
        probabilities=(confidence, 1 - confidence, 0.0),
        features=tuple(features),
        audit_probability=audit,
        shadow=Shadow(version=shadow[0], label=shadow[1], probabilities=(0.3, 0.3, 0.4)) if shadow else None,
        latency_ms=1.0,
    )


def review(of: PredictionMade, label: str, *, at: datetime | None = None, reviewer: str = "ann") -> ReviewGiven:
    return ReviewGiven(at=at or now(), prediction_id=of.id, label=label, reviewer=reviewer, reason=QueueReason.AUDIT)


def flag(of: PredictionMade) -> FeedbackGiven:
    return FeedbackGiven(prediction_id=of.id, correct=False)


def like_the_reference(count: int, seed: int, *, version: str = "v1", shift: float = 0.0) -> list[PredictionMade]:
    """Predictions drawn as `reference` draws its rows, or `shift` standard deviations beside them."""
    rng = np.random.default_rng(seed)
    start = now() - timedelta(seconds=1)
    return [
        prediction(
            version,
            at=start + timedelta(microseconds=i),
            label=str(rng.choice(LABELS)),
            confidence=float(rng.uniform(0.4, 1.0)),
            text=_text(rng),
            features=tuple(float(x) for x in rng.normal(shift, 1.0, size=2)),
        )
        for i in range(count)
    ]


def reference(count: int = 600, seed: int = 0) -> bytes:
    """reference.parquet of a version whose validation data look like `like_the_reference`."""
    rows = like_the_reference(count, seed)
    table = pa.table(
        {
            "input": [row.input for row in rows],
            "label": [row.label for row in rows],
            "confidence": [row.confidence for row in rows],
            "true_label": [row.label for row in rows],
            "features": [list(row.features) for row in rows],
            "probabilities": [list(row.probabilities) for row in rows],
        }
    )
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue()


class Stage:
    def __init__(self, folder: Path, **sections: Any) -> None:
        self.settings = Settings(
            task=tiny_task(folder, **sections),
            home=folder / "home",
            record_seconds=0.05,
            poll_seconds=0.02,
            judge_seconds=0.1,
        )
        self.task = Task.load(self.settings.task)
        self.log: EventLog = open_log(self.settings.log)
        self.history = History(self.settings.history)
        self.store = VersionStore(self.settings.versions)

    def version(self, name: str = "v1", *, accuracy: float = 0.9, files: Mapping[str, bytes] | None = None) -> str:
        tiny_version(self.settings.versions, name, features=2, accuracy=accuracy, files=files)
        return name

    def released(self, production: str = "v1", candidate: str | None = None) -> Release:
        before = releases.current(self.log)
        after = before if before.production == production else releases.promote(before, production)
        if after is not before:
            after = before = releases.change(self.log, before, after, who="test", why="test")
        if candidate:
            after = releases.start_experiment(before, candidate, 0.5)
            after = releases.change(self.log, before, after, who="test", why="test")
        return after

    def append(self, *events: Event) -> None:
        self.log.append(events)

    def record(self) -> None:
        """Everything in the log into the history, as the recorder does."""
        consumer = self.log.consumer(start=self.history.positions())
        records: list[Record] = []
        while news := consumer.poll():
            records += news
        self.history.write(records)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.close()


def record_forever(log_url: str, history_url: str, says_ready: Connection) -> None:
    """A recorder in a process of its own, until it is killed."""
    recorder = Recorder(
        open_log(log_url),
        History(history_url),
        seconds=0.02,
        pause=0.005,
        retain=timedelta(days=1),
        metrics=Metrics(),
    )
    says_ready.send(None)
    while True:
        recorder.record(threading.Event())
        recorder.tidy()


def _text(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, size=rng.integers(3, 12)))
