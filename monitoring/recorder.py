"""Carries events from the log into the history.

The order, and what a kill between two steps does:

1. read the log on from where the names of the history's files end; gather for a while
2. write what was gathered as one file a stream, which is there whole or not at all
3. commit in the log, for retention and lag alone: step 1 does not ask for it
4. now and then forget old events in the log, and merge small files

Killed before 2, the same events are read again. Killed after 2, their file says that they are recorded. So every event
is recorded exactly once, whenever the recorder is killed.
"""

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter

from monitoring.metrics import Metrics
from regraft.eventlog import Consumer, EventLog, Record
from regraft.events import kind_of
from regraft.history import History

NAME = "recorder"
MOST_ROWS = 20_000
TIDY_SECONDS = 60.0


class Recorder:
    """Belongs to one thread. It gathers for `seconds`, looks every `pause`, and leaves `retain` in the log."""

    def __init__(
        self, log: EventLog, history: History, *, seconds: float, pause: float, retain: timedelta, metrics: Metrics
    ) -> None:
        self._log = log
        self._history = history
        self._seconds = seconds
        self._pause = pause
        self._retain = retain
        self._metrics = metrics
        self.lag = 0  # events that were left in the log after the last step 3
        self._consumer: Consumer | None = None
        self._tidied = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Record until `stop`, and then what the log still has."""
        while not stop.is_set():
            self.record(stop)
            if time.monotonic() - self._tidied > TIDY_SECONDS:
                self.tidy()
        while self.record(stop):
            pass

    def record(self, stop: threading.Event) -> int:
        """Steps 1 to 3 once; says how many events it was."""
        try:
            consumer = self._opened()
            records = self._gather(consumer, stop)  # 1
            self._write(records)  # 2
            consumer.commit()  # 3
        except BaseException:
            self._consumer = None  # what was polled and not written is read again
            raise
        self.lag = consumer.lag()
        self._metrics.log_lag.labels(NAME).set(self.lag)
        return len(records)

    def tidy(self) -> None:
        self._log.trim(datetime.now(UTC) - self._retain)  # 4
        self._history.merge()
        self._tidied = time.monotonic()

    def _opened(self) -> Consumer:
        if self._consumer is None:
            self._consumer = self._log.consumer(NAME, start=self._history.positions())
        return self._consumer

    def _gather(self, consumer: Consumer, stop: threading.Event) -> list[Record]:
        records: list[Record] = []
        deadline = time.monotonic() + self._seconds
        while len(records) < MOST_ROWS:
            news = consumer.poll()
            records += news
            left = deadline - time.monotonic()
            if not news and (left <= 0 or stop.wait(min(self._pause, left))):
                break
            if left <= 0:
                break
        return records

    def _write(self, records: list[Record]) -> None:
        by_stream = attrgetter("stream")
        for _, group in groupby(sorted(records, key=by_stream), key=by_stream):
            with self._metrics.history_write.time():
                self._history.write(list(group))
        for kind, count in Counter(kind_of(record.event) for record in records).items():
            self._metrics.recorded.labels(kind).inc(count)
