"""What callers who share a session may expect of it and of each other."""

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from regraft.errors import Overloaded
from regraft.events import Event, FeedbackGiven
from regraft.preprocessing import Encoding
from service.batching import RUN_TOKENS, Batcher, BatchRun, Outputs, Score, _Item, _parted
from service.journal import Journal
from tests.service.conftest import wait_until
from tests.service.test_journal import FakeLog


class FakeNetwork:
    """Answers an encoding with its first id. It can be held, and fails on ids below zero."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.running = threading.Semaphore(0)

    def run(self, encodings: Sequence[Encoding]) -> Outputs:
        self.batches.append([encoding.ids[0] for encoding in encodings])
        self.running.release()
        assert self.go_on.wait(10)
        if any(encoding.ids[0] < 0 for encoding in encodings):
            raise ValueError("below zero")
        column = np.asarray([[encoding.ids[0]] for encoding in encodings], dtype=np.float32)
        return Outputs(column, column * 2)


class Bench:
    """A batcher over a fake network whose single session is busy with input 0 until `go_on`."""

    def __init__(self, network: FakeNetwork, batcher: Batcher, runs: list[BatchRun]) -> None:
        self.network = network
        self.batcher = batcher
        self.runs = runs

    def ask(self, *ids: int, length: int = 1) -> asyncio.Task[list[int]]:
        return asyncio.create_task(self._ask([Encoding([one] * length) for one in ids]))

    async def _ask(self, encodings: Sequence[Encoding]) -> list[int]:
        return [int(score.answers[0]) for score in await self.batcher.score(encodings)]

    async def busy(self) -> asyncio.Task[list[int]]:
        self.network.go_on.clear()
        task = self.ask(0)
        await asyncio.to_thread(self.network.running.acquire)
        return task

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def go_on(self) -> None:
        self.network.go_on.set()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    network = FakeNetwork()
    runs: list[BatchRun] = []
    batcher = Batcher(network.run, sessions=1, max_batch=4, max_queue=10, on_batch=runs.append)
    yield Bench(network, batcher, runs)
    network.go_on.set()


async def test_a_lone_request_runs_at_once_and_alone(bench: Bench) -> None:
    assert await bench.ask(7) == [7]
    assert bench.network.batches == [[7]]


async def test_short_texts_are_not_padded_to_a_long_one(bench: Bench) -> None:
    busy = await bench.busy()
    asked = [bench.ask(1, length=10), bench.ask(2, length=100), bench.ask(3, length=10)]
    await bench.settle()
    bench.go_on()
    assert await asyncio.gather(busy, *asked) == [[0], [1], [2], [3]]
    assert bench.network.batches == [[0], [1, 3], [2]]


async def test_what_waits_while_a_session_is_busy_becomes_one_batch(bench: Bench) -> None:
    first = await bench.busy()
    others = [bench.ask(number) for number in (1, 2, 3)]
    await bench.settle()
    bench.go_on()
    assert await asyncio.gather(first, *others) == [[0], [1], [2], [3]]
    assert bench.network.batches == [[0], [1, 2, 3]]


async def test_a_call_gets_its_scores_in_its_own_order_across_batches(bench: Bench) -> None:
    assert await bench.ask(*range(1, 10)) == list(range(1, 10))
    assert max(map(len, bench.network.batches)) <= 4


async def test_the_oldest_goes_first_with_its_nearest_in_length(bench: Bench) -> None:
    await bench.busy()
    long = bench.ask(1, length=50)
    short = [bench.ask(number, length=2) for number in range(2, 6)]
    alike = [bench.ask(number, length=49) for number in range(6, 9)]
    await bench.settle()
    bench.go_on()
    await asyncio.gather(long, *short, *alike)
    assert sorted(bench.network.batches[1]) == [1, 6, 7, 8]
    assert sorted(bench.network.batches[2]) == [2, 3, 4, 5]


def test_what_waits_is_parted_at_the_least_cost() -> None:
    chance = random.Random(0)
    for size in range(1, 9):
        lengths = sorted(chance.randint(1, 30) for _ in range(size))
        items = [cast("_Item", SimpleNamespace(encoding=Encoding([0] * length))) for length in lengths]
        batches = [[item.encoding.length for item in batch] for batch in _parted(items, 3)]
        assert sorted(length for batch in batches for length in batch) == lengths
        assert max(map(len, batches)) <= 3
        assert sum(map(_cost, batches)) == _least_cost(lengths, 3)


def _cost(batch: Sequence[int]) -> int:
    return RUN_TOKENS + len(batch) * max(batch)


def _least_cost(lengths: Sequence[int], max_batch: int) -> int:
    """Over every way to cut the sorted lengths."""
    if not lengths:
        return 0
    firsts = range(1, min(max_batch, len(lengths)) + 1)
    return min(_cost(lengths[:first]) + _least_cost(lengths[first:], max_batch) for first in firsts)


async def test_an_error_reaches_exactly_the_caller_who_caused_it(bench: Bench) -> None:
    await bench.busy()
    good, bad, other = bench.ask(1), bench.ask(-1), bench.ask(2)
    await bench.settle()
    bench.go_on()
    results = await asyncio.gather(good, bad, other, return_exceptions=True)
    assert results[0] == [1]
    assert isinstance(results[1], ValueError)
    assert results[2] == [2]


async def test_a_call_with_one_bad_input_fails_as_a_whole(bench: Bench) -> None:
    with pytest.raises(ValueError, match="below zero"):
        await bench.ask(1, 2, -1)
    assert await bench.ask(3) == [3]


async def test_a_failed_call_takes_the_rest_of_its_inputs_out_of_the_queue(bench: Bench) -> None:
    with pytest.raises(ValueError, match="below zero"):
        await bench.ask(-1, *range(1, 10))
    assert await bench.ask(10) == [10]
    assert not {8, 9} & {one for batch in bench.network.batches for one in batch}


async def test_more_than_the_queue_holds_is_refused_at_once(bench: Bench) -> None:
    await bench.busy()
    waiting = bench.ask(*range(1, 10))
    await bench.settle()
    with pytest.raises(Overloaded):
        await bench.ask(10, 11)
    assert not waiting.done()
    last = bench.ask(10)
    await bench.settle()
    bench.go_on()
    assert await waiting == list(range(1, 10))
    assert await last == [10]


async def test_a_caller_who_gives_up_while_waiting_is_not_run_and_frees_the_queue(bench: Bench) -> None:
    await bench.busy()
    leaving = bench.ask(*range(1, 10))
    staying = bench.ask(10)
    await bench.settle()
    leaving.cancel()
    await bench.settle()
    more = bench.ask(*range(11, 20))
    await bench.settle()
    bench.go_on()
    assert await staying == [10]
    assert await more == list(range(11, 20))
    assert not {one for batch in bench.network.batches for one in batch} & set(range(1, 10))


async def test_a_caller_who_gives_up_while_running_leaves_the_neighbours_alone(bench: Bench) -> None:
    await bench.busy()
    leaving, staying = bench.ask(1), bench.ask(2)
    await bench.settle()
    bench.network.go_on.set()
    await asyncio.to_thread(bench.network.running.acquire)
    leaving.cancel()
    assert await staying == [2]


async def test_a_network_that_answers_too_few_is_an_error(bench: Bench) -> None:
    short = Batcher(
        lambda encodings: Outputs(np.zeros((0, 1), np.float32), np.zeros((0, 1), np.float32)),
        sessions=1,
        max_batch=4,
        max_queue=10,
        on_batch=bench.runs.append,
    )
    with pytest.raises(RuntimeError, match="1 inputs gave 0 outputs"):
        await short.score([Encoding([1])])


async def test_waiting_and_running_are_measured_apart(bench: Bench) -> None:
    await bench.busy()
    waiting = asyncio.create_task(bench.batcher.score([Encoding([1])]))
    await bench.settle()
    began = time.perf_counter()
    await asyncio.sleep(0.05)
    bench.go_on()
    (score,) = await waiting
    assert 0.04 < score.queue_seconds < time.perf_counter() - began + 0.05
    assert [run.size for run in bench.runs] == [1, 1]
    assert bench.runs[0].seconds > 0.04 > bench.runs[1].seconds


async def test_sessions_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)

    def run(encodings: Sequence[Encoding]) -> Outputs:
        both.wait()
        return Outputs(np.zeros((len(encodings), 1), np.float32), np.zeros((len(encodings), 1), np.float32))

    batcher = Batcher(run, sessions=2, max_batch=1, max_queue=10, on_batch=_ignore)
    await asyncio.gather(*(batcher.score([Encoding([1])]) for _ in range(2)))


async def test_what_is_made_of_the_scores_is_in_the_log_when_the_caller_knows(bench: Bench) -> None:
    log = FakeLog()
    made: list[Event] = []
    assert await bench.batcher.log([Encoding([1]), Encoding([2])], partial(_made, made), Journal(log))
    assert log.commits == [made]
    assert [event.key for event in made] == ["1", "2"]


async def test_a_batch_is_logged_in_one_commit(bench: Bench) -> None:
    log, made = FakeLog(), list[Event]()
    journal = Journal(log)
    busy = await bench.busy()
    asked = [
        asyncio.create_task(bench.batcher.log([Encoding([one])], partial(_made, made), journal)) for one in (1, 2, 3)
    ]
    await bench.settle()
    bench.go_on()
    assert await asyncio.gather(busy, *asked) == [[0], True, True, True]
    assert log.commits == [made]


async def test_a_disk_that_hangs_holds_up_no_session(bench: Bench) -> None:
    log = FakeLog()
    log.go_on.clear()
    journal = Journal(log)
    logging = [asyncio.create_task(bench.batcher.log([Encoding([one])], partial(_made, []), journal)) for one in (1, 2)]
    for number in range(3, 6):
        assert await bench.ask(number) == [number]
    logging.append(asyncio.create_task(bench.batcher.log([Encoding([6])], partial(_made, []), journal)))
    assert await bench.ask(7) == [7]
    assert not any(one.done() for one in logging)
    log.go_on.set()
    assert await asyncio.gather(*logging) == [True] * 3


async def test_nothing_is_logged_for_a_caller_who_gave_up(bench: Bench) -> None:
    log = FakeLog()
    bench.network.go_on.clear()
    leaving = asyncio.create_task(bench.batcher.log([Encoding([1])], partial(_made, []), Journal(log)))
    await asyncio.to_thread(bench.network.running.acquire)
    leaving.cancel()
    await bench.settle()
    bench.go_on()
    assert await bench.ask(2) == [2]
    assert log.commits == []


async def test_a_call_that_fails_logs_nothing_and_knows_why(bench: Bench) -> None:
    log = FakeLog()
    with pytest.raises(ValueError, match="below zero"):
        await bench.batcher.log([Encoding([1]), Encoding([-1])], partial(_made, []), Journal(log))
    with pytest.raises(ZeroDivisionError):
        await bench.batcher.log([Encoding([1])], _defect, Journal(log))
    assert log.commits == []


def _made(made: list[Event], scores: Sequence[Score]) -> Sequence[Event]:
    events = [FeedbackGiven(prediction_id=f"{score.answers[0]:g}", correct=True) for score in scores]
    made += events
    return events


def _defect(_: Sequence[Score]) -> Sequence[Event]:
    raise ZeroDivisionError


async def test_nothing_keeps_a_batcher_in_memory_that_nobody_uses() -> None:
    network = FakeNetwork()
    batcher = Batcher(network.run, sessions=1, max_batch=4, max_queue=10, on_batch=_ignore)
    await batcher.score([Encoding([1])])
    dropped: Callable[[], object] = weakref.ref(batcher)
    before = threading.active_count()
    del batcher
    gc.collect()
    assert dropped() is None
    await asyncio.to_thread(wait_until, lambda: threading.active_count() <= before)  # one ended, this one began


def _ignore(run: BatchRun) -> None:
    pass


async def test_a_session_goes_on_where_its_runs_cannot_be_counted(caplog: pytest.LogCaptureFixture) -> None:
    def fail(run: BatchRun) -> None:
        raise OSError(f"no room to count {run.size}")

    network = FakeNetwork()
    batcher = Batcher(network.run, sessions=1, max_batch=4, max_queue=4, on_batch=fail)
    for one in (1, 2):
        (score,) = await asyncio.wait_for(batcher.score([Encoding([one])]), 10)
        assert score.answers == [one]
    assert "no room to count 1" in caplog.text
