"""Continuous batching: whenever a session is free it takes what waits, up to a maximum; nobody waits for a timer.

score -> waiting -> (a session is free: the oldest, in company of like length) -> one run in a thread -> each caller.
log   -> the same, and what the caller makes of its scores goes from that thread straight to the journal.

A free session takes its batch itself, in its thread. If a run fails, its inputs run again
one by one, so that an error reaches exactly the callers whose input caused it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.errors import Overloaded
from regraft.events import Event
from regraft.preprocessing import Encoding
from service.journal import Entry, Journal

logger = logging.getLogger(__name__)

# What a run costs besides its tokens, in tokens: 0.62 ms where one takes 0.086 (MiniLM int8; docs/performance.md).
RUN_TOKENS = 7
CONSIDERED = 128  # of the oldest that wait; more would take longer to sort than they save
NEIGHBOURS = 12  # shorter than the oldest, and longer, among which its batch is sought: all others changed nothing


class Outputs(NamedTuple):
    """What the network says of a batch: answers (batch, columns) and features (batch, features)."""

    answers: NDArray[np.float32]
    features: NDArray[np.float32]


class BatchRun(NamedTuple):
    """One run that ended well; `started` by time.perf_counter."""

    size: int
    seconds: float
    started: float


class Score(NamedTuple):
    """What the network says of one input, how long the input waited for a session, and the run that it was part of."""

    answers: list[float]
    features: list[float]
    queue_seconds: float
    run: BatchRun


Made = Callable[[list[Score]], Sequence[Event]]


@dataclass(eq=False)
class _Call:
    """One caller's inputs. It ends when the last of them is scored or the first of them fails. The future says whether
    what was `made` is logged; nothing is where that is None."""

    future: asyncio.Future[bool | None]
    made: Made | None
    journal: Journal | None
    items: "Sequence[_Item]" = ()
    scores: dict[int, Score] = field(default_factory=dict)
    error: Exception | None = None

    def take(self, index: int, outcome: Score | Exception) -> bool:
        """Whether this ended the call."""
        if self.error is not None:
            return False
        if isinstance(outcome, Exception):
            self.error = outcome
            return True
        self.scores[index] = outcome
        return len(self.scores) == len(self.items)

    def in_order(self) -> list[Score]:
        return [self.scores[index] for index in range(len(self.items))]

    def entry(self) -> Entry | None:
        """For the journal; None where there is nothing to log, or nobody waits any more."""
        if self.made is None or self.error is not None or self.future.done():
            return None
        try:
            return Entry(self.made(self.in_order()), self.future)
        except Exception as error:  # noqa: BLE001
            self.error = error
            return None

    def settle(self) -> None:
        if self.future.done():  # its caller gave up
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(None)


@dataclass(eq=False, slots=True)
class _Item:
    call: _Call
    index: int
    encoding: Encoding
    since: float


class Batcher:
    """Feeds `sessions` threads with batches. `score` and `log` are for one event loop."""

    def __init__(
        self,
        run: Callable[[Sequence[Encoding]], Outputs],
        *,
        sessions: int,
        max_batch: int,
        max_queue: int,
        on_batch: Callable[[BatchRun], None],
    ) -> None:
        """`run` and `on_batch` are called from several threads, which end with the Batcher."""
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._lock = threading.Lock()  # over the next two, and the calls under way
        self._free = sessions
        self._waiting: dict[_Item, None] = {}
        # One more than there are sessions: see _settle.
        self._threads = ThreadPoolExecutor(sessions + 1, thread_name_prefix="session")

    async def score(self, encodings: Sequence[Encoding]) -> list[Score]:
        """A score for each of `encodings`, in their order. Raises Overloaded at once when too many wait already."""
        call = self._begin(encodings)
        await self._end(call)
        return call.in_order()

    async def log(self, encodings: Sequence[Encoding], made: Made, journal: Journal) -> bool:
        """Whether what `made` makes of the scores, in a session's thread, is logged. Raises as `score`. All calls have
        the same `journal`."""
        return bool(await self._end(self._begin(encodings, made, journal)))

    def _begin(self, encodings: Sequence[Encoding], made: Made | None = None, journal: Journal | None = None) -> _Call:
        if len(self._waiting) + len(encodings) > self._max_queue:
            raise Overloaded(f"{len(self._waiting)} inputs are waiting already; try again in a moment")
        loop = asyncio.get_running_loop()
        call = _Call(loop.create_future(), made, journal)
        now = time.perf_counter()
        call.items = [_Item(call, index, encoding, now) for index, encoding in enumerate(encodings)]
        with self._lock:
            self._waiting.update(dict.fromkeys(call.items))
            starting = min(self._free, len(self._waiting))
            self._free -= starting
        for _ in range(starting):
            self._threads.submit(self._work, loop)
        return call

    async def _end(self, call: _Call) -> bool | None:
        try:
            return await call.future
        except asyncio.CancelledError:
            with self._lock:
                self._spare(call)
            raise

    def _spare(self, call: _Call) -> None:
        """Its caller gave up, or one of its inputs failed: whatever of it still waits need not run."""
        for item in call.items:
            self._waiting.pop(item, None)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """One session, in its thread, for as long as anything waits. It takes its batches itself: were they handed to
        it by the event loop, it would stand idle whenever the loop is busy with the answers of the last one."""
        while items := self._take():
            outcomes, runs = _outcomes(self._run, items)
            self._count(runs)
            if not self._settle(self._ended(items, outcomes), loop):
                return

    def _count(self, runs: Sequence[BatchRun]) -> None:
        try:
            for one in runs:
                self._on_batch(one)
        except Exception:  # a session that died of it would answer nobody any more
            logger.exception("a defect keeps runs from being counted")

    def _take(self) -> Sequence[_Item]:
        """The next batch. Without one, the session is free again."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return []
            items = self._next_batch()
            for item in items:
                del self._waiting[item]
            return items

    def _next_batch(self) -> Sequence[_Item]:
        """The oldest, in the company that costs all who wait the least."""
        oldest = next(iter(self._waiting))
        if len(self._waiting) == 1:
            return [oldest]
        items = sorted(islice(self._waiting, CONSIDERED), key=lambda item: item.encoding.length)
        place = items.index(oldest)
        near = items[max(0, place - NEIGHBOURS) : place + NEIGHBOURS + 1]
        return next(batch for batch in _parted(near, self._max_batch) if oldest in batch)

    def _ended(self, items: Sequence[_Item], outcomes: Sequence[Score | Exception]) -> Sequence[_Call]:
        with self._lock:
            ended = [
                item.call for item, outcome in zip(items, outcomes, strict=True) if item.call.take(item.index, outcome)
            ]
            for call in ended:
                if call.error is not None:
                    self._spare(call)
        return ended

    def _settle(self, calls: Sequence[_Call], loop: asyncio.AbstractEventLoop) -> bool:
        """Lets the callers know, or first the journal. Whether the session goes on: where nothing waits it is free, and
        its thread, which is awake, writes to the log itself. A disk that hangs then holds up that one thread (the
        journal has one writer at a time) and no session."""
        entries, told, journal = [], [], None
        for call in calls:
            entry = call.entry()
            if entry is None:
                told.append(call)
            else:
                entries.append(entry)
                journal = call.journal
        if told:
            loop.call_soon_threadsafe(_settle_all, told)
        with self._lock:
            goes_on = bool(self._waiting)
            self._free += not goes_on
        if journal is not None:
            journal.hand_in(entries, loop, here=not goes_on)
        return goes_on


def _settle_all(calls: Sequence[_Call]) -> None:
    for call in calls:
        call.settle()


def _parted(items: Sequence[_Item], max_batch: int) -> Iterator[Sequence[_Item]]:
    """`items`, sorted by length, in batches of at most `max_batch` that cost the least together: RUN_TOKENS each, and
    for every item as many tokens as the longest of its batch has. Solved exactly, from shorter to longer prefixes.

    With all that waits in one batch, short texts pay for long ones: 7 of mixed lengths took 3.9 ms of processor time
    each, alone 3.3.
    """
    least, begins = [0], [0]  # what the first n items cost, and where the last of their batches begins
    for end, item in enumerate(items, start=1):
        length = item.encoding.length
        first = max(0, end - max_batch)
        costs = [least[begin] - begin * length for begin in range(first, end)]
        cheapest = min(costs)
        least.append(cheapest + end * length + RUN_TOKENS)
        begins.append(first + costs.index(cheapest))
    end = len(items)
    while end:
        yield items[begins[end] : end]
        end = begins[end]


def _outcomes(
    run: Callable[[Sequence[Encoding]], Outputs], items: Sequence[_Item]
) -> tuple[list[Score | Exception], list[BatchRun]]:
    """What became of each item. In a thread; whatever a run raises is an outcome, so this never raises."""
    started = time.perf_counter()
    try:
        outputs = run([item.encoding for item in items])
        if len(outputs.answers) != len(items):
            raise RuntimeError(f"{len(items)} inputs gave {len(outputs.answers)} outputs")  # noqa: TRY301
    except Exception as error:  # noqa: BLE001
        if len(items) == 1:
            return [error], []
        parts = [_outcomes(run, [item]) for item in items]
        return [outcome for one, _ in parts for outcome in one], [one for _, runs in parts for one in runs]
    done = BatchRun(len(items), time.perf_counter() - started, started)
    scores: list[Score | Exception] = [
        Score(answers, features, started - item.since, done)
        for item, answers, features in zip(items, outputs.answers.tolist(), outputs.features.tolist(), strict=True)
    ]
    return scores, [done]
