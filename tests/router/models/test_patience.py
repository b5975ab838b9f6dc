"""How long a cloud call may take: one timer for all of its waits."""

from __future__ import annotations

import asyncio

import pytest

from smallfirst.router.errors import ModelTimeout
from smallfirst.router.models.patience import Patience, Phase
from smallfirst.router.settings import Timeouts


def patience(**seconds: float) -> Patience:
    return Patience("big", Timeouts(**{"first_byte": 30.0, "between_bytes": 30.0, "total": 30.0, **seconds}))


async def test_what_comes_in_time_is_not_disturbed() -> None:
    given = patience(first_byte=0.05)
    for _ in range(3):
        with given.during("first_byte"):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.06)
    given.end()


@pytest.mark.parametrize("phase", ["first_byte", "between_bytes", "total"])
async def test_what_comes_late_is_cancelled_and_its_phase_named(phase: Phase) -> None:
    waiting = asyncio.Event()
    with (
        pytest.raises(ModelTimeout, match=rf"longer than 0\.02 s \('timeouts\.{phase}'\)"),
        patience(**{phase: 0.02}).during(phase),
    ):
        await waiting.wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_shorter_wait_after_a_longer_one_ends_in_its_own_time() -> None:
    given = patience(between_bytes=0.02)
    with given.during("first_byte"):
        await asyncio.sleep(0)
    with pytest.raises(ModelTimeout, match="between_bytes"), given.during("between_bytes"):
        await asyncio.sleep(20)


async def test_all_waits_together_are_bound_by_the_total() -> None:
    given = patience(between_bytes=0.05, total=0.12)

    async def trickle() -> None:
        while True:
            with given.during("between_bytes"):
                await asyncio.sleep(0.01)

    with pytest.raises(ModelTimeout, match="total"):
        await trickle()


@pytest.mark.parametrize("pause", [0.0, 0.01], ids=["waits at once again", "waits a while later"])
async def test_waits_of_one_turn_each_are_bound_by_the_total_too(pause: float) -> None:
    given = patience(total=0.1)

    async def flows() -> None:
        while True:
            with given.during("between_bytes"):
                await asyncio.sleep(0)
            if pause:
                await asyncio.sleep(pause)

    async with asyncio.timeout(20):
        with pytest.raises(ModelTimeout, match="total"):
            await flows()


async def test_who_waits_anew_when_the_timer_has_rung_has_time_again() -> None:
    given = patience(first_byte=0.02)
    rung = asyncio.get_running_loop().time() + 0.02
    with given.during("first_byte"):
        # It ends in the turn after the one in which its time is over.
        while asyncio.get_running_loop().time() < rung:
            await asyncio.sleep(0)
    with given.during("between_bytes"):
        await asyncio.sleep(0.05)
    given.end()


async def test_time_in_which_nobody_waits_is_no_phases() -> None:
    given = patience(between_bytes=0.05)
    for _ in range(2):
        with given.during("between_bytes"):
            await asyncio.sleep(0)
        await asyncio.sleep(0.08)
    given.end()


async def test_a_cancel_from_outside_stays_one() -> None:
    given = patience()

    async def waits() -> None:
        with given.during("first_byte"):
            await asyncio.sleep(20)

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    given.end()


async def test_a_cancel_from_outside_stays_one_where_the_time_is_over_too() -> None:
    given = patience(first_byte=0.02)

    async def waits() -> None:
        with given.during("first_byte"):
            try:
                await asyncio.sleep(20)
            finally:
                outside.cancel()

    outside = asyncio.create_task(waits())
    with pytest.raises(asyncio.CancelledError):
        await outside


async def test_each_wait_may_be_another_tasks() -> None:
    given = patience(first_byte=0.02)

    async def waits(seconds: float) -> None:
        with given.during("first_byte"):
            await asyncio.sleep(seconds)

    await asyncio.create_task(waits(0))
    with pytest.raises(ModelTimeout):
        await asyncio.create_task(waits(20))
