"""What a worker process is made of, put together once from the settings, for every transport to use."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from regraft import keys_file
from regraft.eventlog import EventLog, open_log
from regraft.inputs import InputStore
from regraft.keys import Guard
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import VersionStore
from service.batching import BatchRun
from service.deadlines import Deadlines
from service.feedback import FeedbackBox
from service.following import Following
from service.gate import Gate
from service.inputs import Keeper
from service.journal import Journal
from service.memory import Memory
from service.metrics import Metrics
from service.models import load
from service.predictor import Predictor
from service.trace import open_spans

if TYPE_CHECKING:
    from service.spans import Spans


@dataclass(frozen=True)
class Parts:
    task: Task
    guard: Guard
    gate: Gate
    deadlines: Deadlines
    log: EventLog
    metrics: Metrics
    following: Following
    journal: Journal
    keeper: Keeper | None
    predictor: Predictor
    feedback: FeedbackBox
    spans: "Spans | None"

    @classmethod
    def assemble(cls, settings: Settings) -> "Parts":
        """Raises ConfigError. A log that is away is no reason not to start: see Following."""
        task = Task.load(settings.task)
        guard = keys_file.guard(settings.keys_file)
        log = open_log(settings.log)
        metrics = Metrics(log)
        store = VersionStore(settings.versions, settings.home.resolve() / "cache")
        deadlines = Deadlines()
        journal = Journal(log, deadlines=deadlines)
        loading = partial(load, store, task=task, provider=settings.provider, on_batch=partial(_observe, metrics))
        memory = Memory(settings.home.resolve() / "release.json")
        following = Following(log, loading, metrics, memory, poll_seconds=settings.poll_seconds)
        keeper = Keeper(InputStore(settings.inputs)) if task.input == "image" else None
        spans = open_spans()
        return cls(
            task=task,
            guard=guard,
            gate=Gate(task.serving.max_requests),
            deadlines=deadlines,
            log=log,
            metrics=metrics,
            following=following,
            journal=journal,
            keeper=keeper,
            predictor=Predictor(
                task,
                following,
                journal if settings.durability != "off" else None,
                metrics,
                deadlines,
                keeper=keeper,
                wait_for_log=settings.durability != "relaxed",
                spans=spans,
            ),
            feedback=FeedbackBox(task, journal, metrics),
            spans=spans,
        )

    async def start(self) -> None:
        await self.following.start()

    async def close(self) -> None:
        """For when no request is left: what waits for the log is written, then the log is closed."""
        await self.following.close()
        if self.keeper:
            self.keeper.close()
        await self.journal.close()
        self.log.close()
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close)


def _observe(metrics: Metrics, version: str, run: BatchRun) -> None:
    metrics.inference_seconds.labels(version).observe(run.seconds)
    metrics.batch_size.labels(version).observe(run.size)
