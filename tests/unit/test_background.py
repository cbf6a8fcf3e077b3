import asyncio

import pytest

from app.background import ended, spread, woken


def test_replicas_are_spread_over_a_fifth_of_the_time() -> None:
    assert spread(10.0, lambda: 0.0) == 8.0
    assert spread(10.0, lambda: 1.0) == 10.0
    assert 8.0 <= spread(10.0) <= 10.0


async def test_who_is_woken_does_not_wait_and_forgets_it() -> None:
    wake = asyncio.Event()
    wake.set()
    async with asyncio.timeout(60):
        await woken(wake, within=3600)
    assert not wake.is_set()


async def test_nobody_wakes_who_goes_on_when_the_time_is_over() -> None:
    async with asyncio.timeout(60):
        await woken(asyncio.Event(), within=0.001)


async def test_a_task_is_over_when_it_was_ended() -> None:
    task = asyncio.create_task(asyncio.Event().wait())
    await ended(task)
    await ended(None)
    assert task.cancelled()


async def test_what_a_task_failed_with_is_told_to_who_ends_it() -> None:
    async def fails() -> None:
        raise ValueError

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    with pytest.raises(ValueError):
        await ended(task)
