"""What takes too long is ended, and nothing else is."""

import asyncio
import time

import pytest

from service.deadlines import LOOK_SECONDS, Deadlines


async def test_what_takes_too_long_ends_with_a_timeout_error() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError), Deadlines().within(0.05):
        await asyncio.sleep(10)
    assert 0.05 <= time.monotonic() - began < 1


async def test_what_is_done_in_time_is_left_alone() -> None:
    deadlines = Deadlines()
    with deadlines.within(0.01):
        pass
    await asyncio.sleep(0.01 + 2 * LOOK_SECONDS)
    with deadlines.within(10):
        await asyncio.sleep(0)


async def test_each_has_its_own_time() -> None:
    deadlines = Deadlines()

    async def sleep(within: float) -> str:
        try:
            with deadlines.within(within):
                await asyncio.sleep(0.2)
        except TimeoutError:
            return "late"
        return "done"

    assert await asyncio.gather(*(sleep(within) for within in (0.05, 5, 0.1, 6))) == ["late", "done", "late", "done"]


async def test_a_deadline_can_be_put_off_from_any_thread() -> None:
    with Deadlines().within(0.05) as deadline:
        await asyncio.to_thread(deadline.extend, 10)
        await asyncio.sleep(0.1)


async def test_of_two_within_each_other_the_one_that_is_over_ends_what_it_holds() -> None:
    deadlines = Deadlines()
    with deadlines.within(10):
        with pytest.raises(TimeoutError), deadlines.within(0.01):
            await asyncio.sleep(10)
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError), deadlines.within(0.01), deadlines.within(10):
        await asyncio.sleep(10)


async def test_who_is_cancelled_by_somebody_else_is_cancelled() -> None:
    async def sleep() -> None:
        with Deadlines().within(10):
            await asyncio.sleep(10)

    task = asyncio.create_task(sleep())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
