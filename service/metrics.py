"""What Prometheus may know of the service, right with several worker processes.

Made inside the service object: the directory that the processes share is set by then, and not yet at import.
"""

import asyncio
import os
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from regraft.errors import LogUnavailable
from regraft.eventlog import EventLog

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FILE_BYTES = 1 << 20  # some 5,000 series of each kind, of one worker
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Tally(Histogram):
    """A histogram that takes many values at once, for little more than one costs."""

    def observe_all(self, values: Sequence[float]) -> None:
        self._sum.inc(sum(values))
        for bucket, count in Counts(bisect_left(self._upper_bounds, value) for value in values).items():
            self._buckets[bucket].inc(count)


class Answers:
    """The metrics of the answers that one version gave on one arm. For one event loop: what is answered in one of its
    turns, a batch as a rule, is counted together."""

    def __init__(
        self, predictions: Callable[[str], Counter], confidence: Tally, queue_seconds: Tally, request_seconds: Tally
    ) -> None:
        """`predictions` by label."""
        self._predictions = cache(predictions)
        self._confidence = confidence
        self._queue_seconds = queue_seconds
        self._request_seconds = request_seconds
        self._begin()

    def add(
        self, labels: Iterable[str], confidences: Iterable[float], queued: Iterable[float], request_seconds: float
    ) -> None:
        """The predictions of one request."""
        if not self._took:
            asyncio.get_running_loop().call_soon(self._count)
        self._labels += labels
        self._confidences += confidences
        self._queued += queued
        self._took.append(request_seconds)

    def _begin(self) -> None:
        self._labels: list[str] = []
        self._confidences: list[float] = []
        self._queued: list[float] = []
        self._took: list[float] = []

    def _count(self) -> None:
        labels, confidences, queued, took = self._labels, self._confidences, self._queued, self._took
        self._begin()  # whatever comes of the rest, the next are counted
        for label, count in Counts(labels).items():
            self._predictions(label).inc(count)
        self._confidence.observe_all(confidences)
        self._queue_seconds.observe_all(queued)
        self._request_seconds.observe_all(took)


class Metrics:
    def __init__(self, log: EventLog) -> None:
        if folder := os.environ.get(SHARED_FOLDER):
            reserve_room(Path(folder))
        self._answers: dict[tuple[str, str], Answers] = {}
        self._registry = CollectorRegistry()
        self._outbox = Outbox(log)
        self._registry.register(self._outbox)
        self.predictions = self._counter(
            "regraft_predictions_total", "Predictions answered.", "version", "arm", "label"
        )
        self.confidence = self._histogram(
            "regraft_prediction_confidence", "How sure the answers are.", _CONFIDENCES, "version", "arm"
        )
        self.request_seconds = self._histogram(
            "regraft_request_seconds", "From request to answer, logging included.", _SECONDS, "version", "arm"
        )
        self.queue_seconds = self._histogram(
            "regraft_queue_seconds", "How long an input waited for a session.", _SECONDS, "version", "arm"
        )
        self.inference_seconds = self._histogram(
            "regraft_inference_seconds", "One run of the network over a batch.", _SECONDS, "version"
        )
        self.batch_size = self._histogram("regraft_batch_size", "Inputs in one run.", _SIZES, "version")
        self.errors = self._counter("regraft_errors_total", "Requests answered with an error, by its code.", "code")
        self.feedback = self._counter("regraft_feedback_total", "Feedback taken.", "correct")
        self.unlogged = self._counter(
            "regraft_unlogged_predictions_total", "Predictions answered though the event log did not take them."
        )
        # The lowest of the live workers: a release has arrived when it has arrived everywhere.
        self.generation = self._gauge("regraft_release_generation", "Generation of the release being served.")
        self.stale = self._gauge(
            "regraft_release_stale", "1 while a worker may not serve the newest release.", mode="livemax"
        )
        self.candidate_share = self._gauge("regraft_candidate_share", "Share of the subjects the candidate answers.")
        self.shadows_dropped = self._counter(
            "regraft_shadows_dropped_total", "Audited predictions without the other arm's answer, by why.", "reason"
        )
        for reason in ("slow", "failed"):  # shown at nought, so that the first one is an increase
            self.shadows_dropped.labels(reason)
        self.swaps = self._counter("regraft_swaps_total", "Releases taken over, or not, by each worker.", "outcome")

    def of_answers(self, version: str, arm: str) -> Answers:
        """What is counted of every answer; looked up once a version and arm, not once a request."""
        found = self._answers.get((version, arm))
        if found is None:
            found = self._answers[version, arm] = Answers(
                lambda label: self.predictions.labels(version, arm, label),
                self.confidence.labels(version, arm),
                self.queue_seconds.labels(version, arm),
                self.request_seconds.labels(version, arm),
            )
        return found

    def render(self) -> bytes:
        """The text that Prometheus reads; of all worker processes where there are several."""
        folder = os.environ.get(SHARED_FOLDER)
        if folder is None:
            return generate_latest(self._registry)
        forget_dead_workers(Path(folder))
        registry = CollectorRegistry()
        registry.register(self._outbox)
        multiprocess.MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(name, about, labels, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Tally:
        return Tally(name, about, labels, buckets=buckets, registry=self._registry)

    def _gauge(self, name: str, about: str, mode: Literal["livemin", "livemax"] = "livemin") -> Gauge:
        return Gauge(name, about, multiprocess_mode=mode, registry=self._registry)


class Outbox(Collector):
    """What waits on this machine for Kafka, asked of the log at each look: so every worker knows it, whoever relays."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def collect(self) -> Iterator[Metric]:
        """Nothing while the log cannot be read: better no figure than an old one."""
        try:
            backlog = self._log.backlog()
        except LogUnavailable:
            return
        yield GaugeMetricFamily(
            "regraft_outbox_events", "Events on this machine that Kafka has not acknowledged.", backlog.events
        )
        yield GaugeMetricFamily("regraft_outbox_oldest_seconds", "Age of the oldest of them.", backlog.oldest_seconds)

    def describe(self) -> list[Metric]:
        """So that registering asks nothing of the log."""
        return []


def reserve_room(folder: Path) -> None:
    """This process' files, full of zeros, before prometheus_client makes them full of holes: it writes to them as to
    memory, and where the disk has no room left for a hole, the kernel kills the process."""
    for kind in ("counter", "histogram", "gauge_livemin", "gauge_livemax"):
        with suppress(FileExistsError), (folder / f"{kind}_{os.getpid()}.db").open("xb") as file:
            file.write(bytes(FILE_BYTES))


def forget_dead_workers(folder: Path) -> None:
    """A killed worker leaves its gauges behind, which would hold the minimum down. Its counters still count."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            pass
