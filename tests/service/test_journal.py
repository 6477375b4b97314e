"""What the journal says of an event is true, whatever the log does."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from regraft.errors import LogUnavailable
from regraft.eventlog import Backlog, Consumer
from regraft.events import Event, FeedbackGiven
from service.journal import LARGEST_COMMIT, Journal


class FakeLog:
    """Remembers its commits. It can be held, and can fail."""

    def __init__(self) -> None:
        self.commits: list[list[Event]] = []
        self.error: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def append(self, events: Sequence[Event]) -> None:
        assert self.go_on.wait(10)
        if self.error:
            raise self.error
        self.commits.append(list(events))

    def consumer(self, *args: object, **options: object) -> Consumer:
        raise NotImplementedError

    def flush(self, seconds: float) -> None:
        raise NotImplementedError

    def backlog(self) -> Backlog:
        raise NotImplementedError

    def trim(self, before: object) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass


def event() -> Event:
    return FeedbackGiven(prediction_id="0" * 32, correct=True)


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
async def journal(log: FakeLog) -> AsyncIterator[Journal]:
    journal = Journal(log, patience_seconds=0.2, max_waiting=3)
    yield journal
    log.go_on.set()
    await journal.close()


async def test_what_was_appended_is_in_the_log_when_append_returns(log: FakeLog, journal: Journal) -> None:
    events = [event(), event()]
    assert await journal.append(events)
    assert log.commits == [events]


async def test_those_who_wait_at_the_same_time_are_committed_together_and_in_order(log: FakeLog) -> None:
    journal = Journal(log)
    events = [event() for _ in range(20)]
    log.go_on.clear()
    waiting = [asyncio.create_task(journal.append([one])) for one in events]
    await asyncio.sleep(0.01)
    log.go_on.set()
    assert all(await asyncio.gather(*waiting))
    assert [one for commit in log.commits for one in commit] == events
    assert len(log.commits) <= 2
    await journal.close()


async def test_a_commit_is_bounded_but_an_append_is_never_torn(log: FakeLog) -> None:
    journal = Journal(log)
    large = [event() for _ in range(LARGEST_COMMIT + 1)]
    assert await asyncio.gather(*(journal.append(one) for one in ([event()], large, [event()]))) == [True] * 3
    assert large in log.commits
    await journal.close()


async def test_a_log_that_takes_no_events_is_said_to_the_caller_and_tried_again(log: FakeLog, journal: Journal) -> None:
    log.error = LogUnavailable("full")
    assert not await journal.append([event()])
    log.error = None
    assert await journal.append([event()])


async def test_a_defect_in_the_log_is_no_reason_to_keep_callers_waiting(log: FakeLog, journal: Journal) -> None:
    log.error = RuntimeError("a defect")
    assert not await journal.append([event()])


async def test_a_slow_log_delays_an_answer_only_so_long(log: FakeLog, journal: Journal) -> None:
    log.go_on.clear()
    assert not await journal.append([event()])
    log.go_on.set()


async def test_events_do_not_pile_up_without_bound(log: FakeLog, journal: Journal) -> None:
    log.go_on.clear()
    waiting = [asyncio.create_task(journal.append([event()]))]
    await asyncio.sleep(0.01)
    waiting += [asyncio.create_task(journal.append([event()])) for _ in range(3)]
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    assert not await journal.append([event()])
    assert asyncio.get_running_loop().time() - began < 0.1
    log.go_on.set()
    await asyncio.gather(*waiting)


async def test_a_caller_who_gives_up_does_not_take_the_event_back(log: FakeLog, journal: Journal) -> None:
    log.go_on.clear()
    leaving = asyncio.create_task(journal.append([event()]))
    await asyncio.sleep(0)
    leaving.cancel()
    log.go_on.set()
    assert await journal.append([event()])
    assert sum(map(len, log.commits)) == 2


async def test_closing_writes_what_waits(log: FakeLog) -> None:
    journal = Journal(log)
    waiting = [asyncio.create_task(journal.append([event()])) for _ in range(5)]
    await asyncio.sleep(0)
    await journal.close()
    assert all(await asyncio.gather(*waiting))
    assert sum(map(len, log.commits)) == 5
