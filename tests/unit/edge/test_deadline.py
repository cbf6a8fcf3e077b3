"""The deadline of a request: who is late is ended, nobody else, and nothing is left behind."""

import asyncio

import pytest

from app.edge.deadline import Deadline


async def answer(*, value: int = 7) -> int:
    return value


async def hang() -> int:
    never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    return await never


async def test_what_is_in_time_is_answered() -> None:
    assert await Deadline(60).limit(answer()) == 7


async def test_who_is_late_is_told_so_and_its_task_lives_on() -> None:
    deadline = Deadline(0.01)
    with pytest.raises(TimeoutError):
        await deadline.limit(hang())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await deadline.limit(answer()) == 7


async def test_each_is_ended_at_its_own_time_by_one_alarm() -> None:
    deadline = Deadline(0.02)
    ended: list[int] = []

    async def late(number: int) -> None:
        with pytest.raises(TimeoutError):
            await deadline.limit(hang())
        ended.append(number)

    tasks = []
    for number in range(3):
        tasks.append(asyncio.create_task(late(number)))
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    assert ended == [0, 1, 2]


async def test_an_error_of_the_work_goes_through() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await Deadline(60).limit(fail())


async def test_who_is_cancelled_by_somebody_else_is_cancelled() -> None:
    task = asyncio.create_task(Deadline(60).limit(hang()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_who_is_late_and_cancelled_by_somebody_else_is_cancelled() -> None:
    deadline = Deadline(0.01)
    me: list[asyncio.Task[int]] = []

    async def cancelled_twice() -> int:
        try:
            return await hang()
        except asyncio.CancelledError:
            me[0].cancel()
            raise

    me.append(asyncio.create_task(deadline.limit(cancelled_twice())))
    with pytest.raises(asyncio.CancelledError):
        await me[0]


async def test_an_error_on_the_way_out_is_told_and_the_cancellation_forgotten() -> None:
    async def fail_late() -> None:
        try:
            await hang()
        finally:
            raise ValueError("on the way out")

    with pytest.raises(ValueError, match="on the way out"):
        await Deadline(0.01).limit(fail_late())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_who_does_not_end_when_told_is_told_once() -> None:
    deadline = Deadline(0.01)
    told = 0

    async def stubborn() -> int:
        nonlocal told
        try:
            return await hang()
        except asyncio.CancelledError:
            told += 1
        # The other one's alarm comes meanwhile.
        with pytest.raises(TimeoutError):
            await asyncio.create_task(deadline.limit(hang()))
        return 1

    assert await deadline.limit(stubborn()) == 1
    assert told == 1
