"""Continuous batching: whenever a session is free it takes what waits, up to a maximum; nobody waits for a timer.

score -> waiting -> (a session is free: the oldest, in company of like length) -> one run in a thread -> each caller.

A free session takes its batch itself, in its thread. If a run fails, its inputs run again
one by one, so that an error reaches exactly the callers whose input caused it.
"""

import asyncio
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
from regraft.preprocessing import Encoding

# What a run costs besides its tokens, in tokens: 0.62 ms where one takes 0.086 (MiniLM int8; docs/performance.md).
RUN_TOKENS = 7
CONSIDERED = 128  # of the oldest that wait; more would take longer to part into batches than they save


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


@dataclass(eq=False)
class _Call:
    """One caller's inputs. The future is done when the last of them is scored or the first of them fails."""

    future: asyncio.Future[list[Score]]
    items: "Sequence[_Item]" = ()
    scores: dict[int, Score] = field(default_factory=dict)

    def take(self, index: int, outcome: Score | Exception) -> None:
        if self.future.done():  # cancelled, or failed by another of its inputs
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
            return
        self.scores[index] = outcome
        if len(self.scores) == len(self.items):
            self.future.set_result([self.scores[place] for place in range(len(self.items))])


@dataclass(eq=False, slots=True)
class _Item:
    call: _Call
    index: int
    encoding: Encoding
    since: float


class Batcher:
    """Feeds `sessions` threads with batches. `score` is for one event loop."""

    def __init__(
        self,
        run: Callable[[Sequence[Encoding]], Outputs],
        *,
        sessions: int,
        max_batch: int,
        max_queue: int,
        on_batch: Callable[[BatchRun], None],
    ) -> None:
        """`run` is called from several threads, `on_batch` on the event loop. The threads end with the Batcher."""
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._lock = threading.Lock()  # over the next two
        self._free = sessions
        self._waiting: dict[_Item, None] = {}
        self._threads = ThreadPoolExecutor(sessions, thread_name_prefix="session")

    async def score(self, encodings: Sequence[Encoding]) -> list[Score]:
        """A score for each of `encodings`, in their order. Raises Overloaded at once when too many wait already."""
        if len(self._waiting) + len(encodings) > self._max_queue:
            raise Overloaded(f"{len(self._waiting)} inputs are waiting already; try again in a moment")
        loop = asyncio.get_running_loop()
        call = _Call(loop.create_future())
        now = time.perf_counter()
        call.items = [_Item(call, index, encoding, now) for index, encoding in enumerate(encodings)]
        with self._lock:
            self._waiting.update(dict.fromkeys(call.items))
            starting = min(self._free, len(self._waiting))
            self._free -= starting
        for _ in range(starting):
            self._threads.submit(self._work, loop)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._spare(call)
            raise

    def _spare(self, call: _Call) -> None:
        """Its caller gave up, or one of its inputs failed: whatever of it still waits need not run."""
        with self._lock:
            for item in call.items:
                self._waiting.pop(item, None)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """One session, in its thread, for as long as anything waits. It takes its batches itself: were they handed to
        it by the event loop, it would stand idle whenever the loop is busy with the answers of the last one."""
        while items := self._take():
            outcomes, runs = _outcomes(self._run, items)
            for item, outcome in zip(items, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    self._spare(item.call)
            loop.call_soon_threadsafe(self._deliver, items, outcomes, runs)

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
        return next(batch for batch in _parted(items, self._max_batch) if oldest in batch)

    def _deliver(self, items: Sequence[_Item], outcomes: Sequence[Score | Exception], runs: Sequence[BatchRun]) -> None:
        for item, outcome in zip(items, outcomes, strict=True):
            item.call.take(item.index, outcome)
        for one in runs:
            self._on_batch(one)


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
