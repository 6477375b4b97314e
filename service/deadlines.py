"""Ends what takes too long. One timer looks after all that is under way: a timer for each request, made and cancelled,
cost several times as much."""

import asyncio
import time
from types import TracebackType
from typing import Self

LOOK_SECONDS = 0.02  # between two looks; a deadline is kept so exactly


class Deadlines:
    """For one event loop."""

    def __init__(self) -> None:
        self._under_way: set[Deadline] = set()
        self._looking = False

    def within(self, seconds: float) -> "Deadline":
        """`with` it, what the current task does takes at most `seconds`, or ends with a TimeoutError."""
        return Deadline(self, seconds)

    def add(self, deadline: "Deadline") -> None:
        self._under_way.add(deadline)
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def remove(self, deadline: "Deadline") -> None:
        self._under_way.discard(deadline)

    def _look(self) -> None:
        now = time.monotonic()
        for one in [one for one in self._under_way if one.due <= now]:
            self._under_way.discard(one)
            one.expire()
        self._looking = bool(self._under_way)
        if self._looking:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)


class Deadline:
    """As `asyncio.timeout` has it: the task is cancelled, and what it was cancelled by is a TimeoutError outside."""

    __slots__ = ("_all", "_cancelling", "_expired", "_task", "due")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._all = deadlines
        self._expired = False
        self.extend(seconds)

    def extend(self, seconds: float) -> None:
        """From now on it is `seconds`; may be said in any thread."""
        self.due = time.monotonic() + seconds

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only what a task does can be ended")
        self._task, self._cancelling = task, task.cancelling()
        self._all.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._all.remove(self)
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        self._expired = True
        self._task.cancel()
