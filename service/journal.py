"""The event log, as the event loop sees it: those who wait at the same time are committed together.

append -> waiting -> (the writer is free: all that waits) -> one transaction in the writer's thread -> everybody knows.

When the log takes no events, a prediction is answered all the same and says so (`logged: false`): its event is dropped,
not kept in memory, since whatever is only in memory is lost with the process anyway. The next event is tried afresh.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from regraft.errors import LogUnavailable
from regraft.eventlog import EventLog
from regraft.events import Event

logger = logging.getLogger(__name__)

LARGEST_COMMIT = 1_000  # events in one transaction, so that the first of many need not wait for the last
QUIET_SECONDS = 10.0  # between two lines in the log that say the same


class _Entry(NamedTuple):
    events: Sequence[Event]
    logged: asyncio.Future[bool]


class Journal:
    """For one event loop."""

    def __init__(self, log: EventLog, *, patience_seconds: float = 2.0, max_waiting: int = 10_000) -> None:
        """`patience_seconds`: how long an answer waits for its commit; `max_waiting`: entries that may wait."""
        self._log = log
        self._patience = patience_seconds
        self._max_waiting = max_waiting
        self._lock = threading.Lock()  # over the next two
        self._waiting: list[_Entry] = []
        self._writing = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._complained = -QUIET_SECONDS

    async def append(self, events: Sequence[Event]) -> bool:
        """Whether `events` are known to be durable. False: they are lost, or the log was too slow to say."""
        logged = self.submit(events)
        out_of_patience = asyncio.get_running_loop().call_later(self._patience, _settle, logged, False)
        try:
            return await logged
        finally:
            out_of_patience.cancel()

    def submit(self, events: Sequence[Event]) -> asyncio.Future[bool]:
        """For who need not wait: whether they are durable is known once the future is done. Cancel it at will."""
        loop = asyncio.get_running_loop()
        logged: asyncio.Future[bool] = loop.create_future()
        with self._lock:
            if len(self._waiting) >= self._max_waiting:
                logged.set_result(False)
                return logged
            self._waiting.append(_Entry(events, logged))
            starting, self._writing = not self._writing, True
        if starting:
            self._writer.submit(self._write, loop)
        return logged

    async def close(self) -> None:
        """Whatever waits is written first."""
        await asyncio.to_thread(self._writer.shutdown)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the writer's thread, until nothing waits any more."""
        while entries := self._next_commit():
            loop.call_soon_threadsafe(_settle_all, entries, self._commit(entries))

    def _next_commit(self) -> list[_Entry]:
        with self._lock:
            size = count = 0
            while count < len(self._waiting) and (
                count == 0 or size + len(self._waiting[count].events) <= LARGEST_COMMIT
            ):
                size += len(self._waiting[count].events)
                count += 1
            entries, self._waiting = self._waiting[:count], self._waiting[count:]
            self._writing = bool(entries)
            return entries

    def _commit(self, entries: Sequence[_Entry]) -> bool:
        try:
            self._log.append([event for entry in entries for event in entry.events])
        except LogUnavailable as error:
            if time.monotonic() - self._complained > QUIET_SECONDS:
                logger.error("%s; predictions are answered without being logged", error.message)  # noqa: TRY400
                self._complained = time.monotonic()
            return False
        except Exception:
            logger.exception("a defect keeps events from being logged")
            return False
        return True


def _settle_all(entries: Sequence[_Entry], logged: bool) -> None:
    for entry in entries:
        _settle(entry.logged, logged)


def _settle(waiting: asyncio.Future[bool], logged: bool) -> None:
    if not waiting.done():  # by patience, or because the caller is gone
        waiting.set_result(logged)
