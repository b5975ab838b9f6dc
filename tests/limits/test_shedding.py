"""The control of the queue, on a pretended loop that serves 1,000 requests a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from smallfirst.router.server.shedding import LOOK, LoopDelay, Shedder

TARGET = 0.25
SERVED = 1000.0


@dataclass
class Turn:
    at: float
    seconds: float
    refused: float


def turns(shedder: Shedder, load: Callable[[float], float], *, until: float) -> Iterator[Turn]:
    """One turn of the loop after the other: in each, what came in the last one is served or refused.

    Refusing takes a tenth of serving.
    """
    at, seconds = 0.0, LOOK
    while at < until:
        came, spent, refused = int(load(at) * seconds), 0.0, 0
        for _ in range(came):
            no = shedder.is_too_late(spent) or shedder.refuses()
            refused += no
            spent += (0.1 if no else 1.0) / SERVED
        seconds = max(spent, LOOK)
        at += seconds
        shedder.saw(max(0.0, spent - LOOK), seconds)
        yield Turn(at, seconds, refused / max(came, 1))


@pytest.mark.parametrize(("times", "refused"), [(1.2, 0.18), (2.0, 0.55), (5.0, 0.87)])
def test_under_overload_the_queue_is_kept_near_the_wanted_delay(times: float, refused: float) -> None:
    settled = [turn for turn in turns(Shedder(TARGET), lambda _: times * SERVED, until=40) if turn.at > 20]
    mean = sum(turn.seconds for turn in settled) / len(settled)
    assert TARGET * 0.8 < mean < TARGET * 2
    # No more than must be: what is served takes nearly all the time.
    assert sum(turn.refused for turn in settled) / len(settled) == pytest.approx(refused, abs=0.06)


def test_no_turn_is_much_longer_than_the_worst_delay() -> None:
    every = list(turns(Shedder(TARGET), lambda _: 5 * SERVED, until=40))
    assert max(turn.seconds for turn in every) < 7 * TARGET


def test_nobody_is_refused_under_a_load_that_can_be_served() -> None:
    assert all(turn.refused == 0 for turn in turns(Shedder(TARGET), lambda _: 0.95 * SERVED, until=30))


def test_after_an_overload_all_are_served_again_within_seconds() -> None:
    def load(at: float) -> float:
        return 2 * SERVED if at < 20 else 0.5 * SERVED

    assert all(turn.refused == 0 for turn in turns(Shedder(TARGET), load, until=40) if turn.at > 30)


def test_one_long_turn_is_no_overload() -> None:
    shedder = Shedder(TARGET)
    for delay in (0.0, 0.0, 0.9, 0.0, 0.0, 0.0):
        shedder.saw(delay, LOOK + delay)
    assert shedder.share == 0.0


def test_who_comes_late_in_an_endless_turn_is_refused_at_once() -> None:
    shedder = Shedder(TARGET)
    assert not shedder.is_too_late(0.5)
    assert shedder.is_too_late(2.0)


async def test_a_loop_that_is_blocked_is_seen_to_be_late() -> None:
    seen: list[float] = []
    looking = LoopDelay(lambda delay, _: seen.append(delay))
    looking.start()
    await asyncio.sleep(0.12)
    idle = len(seen)
    _block(0.3)
    await asyncio.sleep(0.01)
    looking.stop()
    assert idle >= 1
    assert max(seen) > 0.2


def _block(seconds: float) -> None:
    import time

    time.sleep(seconds)
