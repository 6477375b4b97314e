"""Carries events from the log on this machine to Kafka: at least once, in order per key.

The order, and what a kill between two steps does:

1. read the local log on from what was committed
2. publish, and wait until every event is acknowledged by all replicas in sync
3. set aside, in a file beside the local log, what Kafka refuses for good; it must not stop the others
4. commit in the local log
5. now and then forget what was forwarded

Killed before 4, the same events are published again: consumers drop what they have seen by event id. Where 4 fails (the
disk is full) they are not: this relay goes on behind them, and the next commit is for all. Every process
that has the log open has a relay, and the one of them with the lease works: so when a process dies another goes on, and
no two publish the same events all the time. `python -m regraft.eventlog.relay` is a process that does nothing else;
started first, it spares the service the work.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from regraft.errors import LogUnavailable, RegraftError
from regraft.eventlog.base import Consumer
from regraft.eventlog.lease import Lease
from regraft.eventlog.publisher import Publisher, Refused
from regraft.eventlog.sqlite import SQLiteLog
from regraft.events import encode

LOGGER = logging.getLogger(__name__)
NAME = "relay"
BATCH = 1_000  # events on their way at once: all that a kill can double
IDLE_SECONDS = 0.1  # until it looks for what other processes appended
STANDBY_SECONDS = 0.5  # until it asks for the lease again
RETRY_SECONDS = 1.0
TIDY_SECONDS = 5.0  # often, so that a tidying is short: writers wait for it
KEEP = timedelta(minutes=10)  # what was forwarded stays as long, to recognise what is appended again


class Relay:
    def __init__(self, local: SQLiteLog, publisher: Publisher, path: Path) -> None:
        """`path` is the local log's file: the lease and what is set aside stand beside it."""
        self._local = local
        self._publisher = publisher
        self._refused = path.with_name(f"{path.name}.refused.jsonl")
        self._lease = Lease(path.with_name(f"{path.name}.relay"))
        self._news = threading.Event()
        self._stop = threading.Event()
        self._consumer: Consumer | None = None
        self._tidied = time.monotonic()
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is something new in the local log."""
        self._news.set()

    def stop(self, seconds: float) -> None:
        """Forward what there is, for at most `seconds`; the rest is forwarded by whoever opens the log next."""
        self._stop.set()
        self._news.set()
        self._thread.join(seconds)
        self._publisher.close()
        self._thread.join()

    def forward(self) -> int:
        """Steps 1 to 4 once; says how many events it was."""
        consumer = self._consumer or self._local.consumer(NAME)
        self._consumer = None  # until it is published: otherwise it is read again
        records = consumer.poll(BATCH)  # 1
        if records:
            refused = self._publisher.publish([record.event for record in records])  # 2
            self._set_aside(refused)  # 3
        self._consumer = consumer
        consumer.commit()  # 4
        return len(records)

    def _run(self) -> None:
        try:
            while not self._leads():
                if self._stop.wait(STANDBY_SECONDS):
                    return
            self._work()
        finally:
            self._lease.release()

    def _leads(self) -> bool:
        try:
            return self._lease.acquire()
        except OSError as error:  # a disk that is full, or not there yet
            self._complain(LogUnavailable(f"the relay's lease: {error}"))
            return False

    def _work(self) -> None:
        """Until it is told to stop, and then until there is nothing left or Kafka is away."""
        while True:
            self._news.clear()
            try:
                forwarded = self.forward()
                self._tidy()
                self._complained = False
            except Exception as error:  # noqa: BLE001  # it is told, and events wait; no relay at all would tell nothing
                self._complain(error)
                if self._stop.wait(RETRY_SECONDS):
                    return
            else:
                if not forwarded and self._stop.is_set():
                    return
                if not forwarded:
                    self._news.wait(IDLE_SECONDS)

    def _set_aside(self, refused: Sequence[Refused]) -> None:
        if not refused:
            return
        with self._refused.open("ab") as file:
            file.writelines(encode(one.event) + b"\n" for one in refused)
        for one in refused:
            LOGGER.error("Kafka refuses event %s, it is kept in %s: %s", one.event.id, self._refused, one.reason)

    def _tidy(self) -> None:
        if time.monotonic() - self._tidied > TIDY_SECONDS:
            self._local.trim(datetime.now(UTC) - KEEP)  # 5
            self._tidied = time.monotonic()

    def _complain(self, error: Exception) -> None:
        """Once an outage, or a defect."""
        if not self._complained and not self._stop.is_set():
            defect = None if isinstance(error, LogUnavailable) else error
            LOGGER.error("events wait on this machine: %s", error, exc_info=defect)
        self._complained = True


def main() -> None:
    """Forward until SIGTERM or Ctrl-C, for the log that REGRAFT_LOG_URL names."""
    from regraft.eventlog import open_log
    from regraft.eventlog.kafka import KafkaLog
    from regraft.settings import Settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        log = open_log(Settings.read().log)
    except RegraftError as error:
        sys.exit(f"relay: {error.message}")
    if not isinstance(log, KafkaLog):
        sys.exit("relay: REGRAFT_LOG_URL names no log on Kafka, and only that has a relay")
    stop.wait()
    log.close()


if __name__ == "__main__":
    main()
