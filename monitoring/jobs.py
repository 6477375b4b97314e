"""What the monitor does again and again, each in a thread of its own; no failure of one ends it or another."""

import logging
import threading
import time
from collections.abc import Callable

from monitoring.metrics import Metrics

LOGGER = logging.getLogger(__name__)


class Job(threading.Thread):
    """Does `work` every `seconds` until `stop` is set. A failure is counted, logged and followed by the next try.

    A job that takes long rests at least `rest` times as long, so that it leaves the machine to others.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        *,
        seconds: float,
        rest: float,
        stop: threading.Event,
        metrics: Metrics,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._seconds = seconds
        self._rest = rest
        self._stopping = stop
        self._failures = metrics.job_failures.labels(name)

    def run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self._try()
            self._stopping.wait(max(self._seconds, self._rest * (time.monotonic() - began)))

    def _try(self) -> None:
        try:
            self._work()
        except Exception:
            self._failures.inc()
            LOGGER.exception("%s failed; it will be tried again", self.name)
