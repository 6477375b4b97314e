"""The event log, as the event loop sees it: those who wait at the same time are committed together.

append, hand_in -> waiting -> (nobody writes: all that waits) -> one transaction in a thread -> everybody knows.

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
from service.deadlines import Deadlines

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0  # that an answer waits for its commit
LARGEST_COMMIT = 1_000  # events in one transaction, so that the first of many need not wait for the last
QUIET_SECONDS = 10.0  # between two lines in the log that say the same


class Entry(NamedTuple):
    """Events, and the future of whether they are logged."""

    events: Sequence[Event]
    logged: "asyncio.Future[bool] | asyncio.Future[bool | None]"


class Journal:
    """For one event loop."""

    def __init__(
        self,
        log: EventLog,
        *,
        deadlines: Deadlines | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        max_waiting: int = 10_000,
    ) -> None:
        """`patience_seconds`: how long an answer waits for its commit; `max_waiting`: entries that may wait."""
        self._log = log
        self._patience = patience_seconds
        self._deadlines = deadlines or Deadlines()
        self._max_waiting = max_waiting
        self._lock = threading.Condition(threading.Lock())  # over the next two; notified when nobody writes any more
        self._waiting: list[Entry] = []
        self._writing = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._complained = -QUIET_SECONDS

    async def append(self, events: Sequence[Event]) -> bool:
        """Whether `events` are known to be durable. False: they are lost, or the log was too slow to say."""
        logged = self.submit(events)
        try:
            with self._deadlines.within(self._patience):
                return await logged
        except TimeoutError:
            return False

    def submit(self, events: Sequence[Event]) -> asyncio.Future[bool]:
        """For who need not wait: whether they are durable is known once the future is done. Cancel it at will."""
        loop = asyncio.get_running_loop()
        logged: asyncio.Future[bool] = loop.create_future()
        self.hand_in([Entry(events, logged)], loop)
        return logged

    def hand_in(self, entries: Sequence[Entry], loop: asyncio.AbstractEventLoop, *, here: bool = False) -> None:
        """From any thread; their futures are `loop`'s. `here`: this thread writes, unless one does already, which then
        goes on with these."""
        with self._lock:
            room = self._max_waiting - len(self._waiting)
            self._waiting += entries[:room]
            starting, self._writing = not self._writing, True
        if room < len(entries):
            loop.call_soon_threadsafe(_settle_all, entries[room:], False)
        if starting and here:
            self._write(loop)
        elif starting:
            self._writer.submit(self._write, loop)

    async def close(self) -> None:
        """Whatever waits is written first."""
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        with self._lock:
            self._lock.wait_for(lambda: not self._writing)
        self._writer.shutdown()

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """In one thread at a time, until nothing waits any more."""
        while entries := self._next_commit():
            loop.call_soon_threadsafe(_settle_all, entries, self._commit(entries))

    def _next_commit(self) -> list[Entry]:
        with self._lock:
            size = count = 0
            while count < len(self._waiting) and (
                count == 0 or size + len(self._waiting[count].events) <= LARGEST_COMMIT
            ):
                size += len(self._waiting[count].events)
                count += 1
            entries, self._waiting = self._waiting[:count], self._waiting[count:]
            if not entries:
                self._writing = False
                self._lock.notify_all()
            return entries

    def _commit(self, entries: Sequence[Entry]) -> bool:
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


def _settle_all(entries: Sequence[Entry], logged: bool) -> None:
    for entry in entries:
        if not entry.logged.done():  # by patience, or because the caller is gone
            entry.logged.set_result(logged)
