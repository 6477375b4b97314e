"""Continuous batching: whenever a session is free it takes what waits, up to a maximum; nobody waits for a timer.

score -> waiting -> (a session is free: the oldest and its nearest in length) -> one run in a thread -> each caller.

Everything but the run itself happens on the event loop, so there are no locks. If a run fails, its inputs run again
one by one, so that an error reaches exactly the callers whose input caused it.
"""

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.errors import Overloaded
from regraft.preprocessing import Encoding

# Share of a batch that must not be padding. With all that waits in one batch, short texts pay for long ones: 7 of mixed
# lengths took 3.9 ms of processor time each, alone 3.3, and with this bound 2.8 (MiniLM int8; docs/performance.md).
REAL_TOKENS = 0.85


class Outputs(NamedTuple):
    """What the network says of a batch: probabilities (batch, labels) and features (batch, features)."""

    probabilities: NDArray[np.float32]
    features: NDArray[np.float32]


class Score(NamedTuple):
    """What the network says of one input, and how long the input waited for a session."""

    probabilities: list[float]
    features: list[float]
    queue_seconds: float


class BatchRun(NamedTuple):
    """One run that ended well."""

    size: int
    seconds: float


@dataclass(eq=False)
class _Call:
    """One caller's inputs. The future is done when the last of them is scored or the first of them fails."""

    future: asyncio.Future[list[Score]]
    scores: dict[int, Score] = field(default_factory=dict)
    size: int = 0

    def take(self, index: int, outcome: Score | Exception) -> None:
        if self.future.done():  # cancelled, or failed by another of its inputs
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
            return
        self.scores[index] = outcome
        if len(self.scores) == self.size:
            self.future.set_result([self.scores[place] for place in range(self.size)])


@dataclass(eq=False, slots=True)
class _Item:
    call: _Call
    index: int
    encoding: Encoding
    since: float


class Batcher:
    """Feeds `sessions` threads with batches. For one event loop."""

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
        self._free = sessions
        self._waiting: OrderedDict[_Item, None] = OrderedDict()
        self._threads = ThreadPoolExecutor(sessions, thread_name_prefix="session")

    async def score(self, encodings: Sequence[Encoding]) -> list[Score]:
        """A score for each of `encodings`, in their order. Raises Overloaded at once when too many wait already."""
        if len(self._waiting) + len(encodings) > self._max_queue:
            raise Overloaded(f"{len(self._waiting)} inputs are waiting already; try again in a moment")
        call = _Call(asyncio.get_running_loop().create_future(), size=len(encodings))
        now = time.perf_counter()
        items = [_Item(call, index, encoding, now) for index, encoding in enumerate(encodings)]
        self._waiting.update(dict.fromkeys(items))
        self._start_runs()
        try:
            return await call.future
        finally:
            if len(call.scores) < call.size:  # the caller gave up, or one of its inputs failed: spare the rest
                for item in items:
                    self._waiting.pop(item, None)

    def _start_runs(self) -> None:
        loop = asyncio.get_running_loop()
        while self._free and self._waiting:
            self._free -= 1
            items = self._next_batch()
            run = loop.run_in_executor(self._threads, _outcomes, self._run, items)
            run.add_done_callback(partial(self._deliver, items))

    def _next_batch(self) -> list[_Item]:
        """The oldest, and of those nearest to it in length as many as fit without too much padding."""
        length = next(iter(self._waiting)).encoding.length
        nearest = heapq.nsmallest(
            self._max_batch, self._waiting, key=lambda item: abs(item.encoding.length - length)
        )  # the oldest is the first: nothing is nearer, and ties keep their order
        tokens = longest = fitting = 0
        for size, item in enumerate(nearest, start=1):
            tokens += item.encoding.length
            longest = max(longest, item.encoding.length)
            if tokens >= REAL_TOKENS * size * longest:
                fitting = size
        items = nearest[:fitting]
        for item in items:
            del self._waiting[item]
        return items

    def _deliver(
        self, items: Sequence[_Item], run: asyncio.Future[tuple[list[Score | Exception], list[BatchRun]]]
    ) -> None:
        self._free += 1
        self._start_runs()  # first, so that the session works while the callers go on
        outcomes, runs = run.result()
        for item, outcome in zip(items, outcomes, strict=True):
            item.call.take(item.index, outcome)
        for one in runs:
            self._on_batch(one)


def _outcomes(
    run: Callable[[Sequence[Encoding]], Outputs], items: Sequence[_Item]
) -> tuple[list[Score | Exception], list[BatchRun]]:
    """What became of each item. In a thread; whatever a run raises is an outcome, so this never raises."""
    started = time.perf_counter()
    try:
        outputs = run([item.encoding for item in items])
        if len(outputs.probabilities) != len(items):
            raise RuntimeError(f"{len(items)} inputs gave {len(outputs.probabilities)} outputs")  # noqa: TRY301
    except Exception as error:  # noqa: BLE001
        if len(items) == 1:
            return [error], []
        parts = [_outcomes(run, [item]) for item in items]
        return [outcome for one, _ in parts for outcome in one], [done for _, runs in parts for done in runs]
    scores: list[Score | Exception] = [
        Score(probabilities, features, started - item.since)
        for item, probabilities, features in zip(
            items, outputs.probabilities.tolist(), outputs.features.tolist(), strict=True
        )
    ]
    return scores, [BatchRun(len(items), time.perf_counter() - started)]
