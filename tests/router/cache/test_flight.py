"""Of equal requests at once one is run."""

import asyncio
import gc

from smallfirst.router.cache.base import CachedReply
from smallfirst.router.cache.flight import Flight, Flights
from smallfirst.router.cache.recall import Recalled

ANSWER = Recalled("exact", CachedReply({"choices": [{}]}, "m", "cloud", 0.1, 0.0))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def flights(patience: float = 5.0) -> tuple[Flights, Clock]:
    clock = Clock()
    return Flights(patience, clock), clock


async def begin(known: Flights, key: str = "k") -> Flight:
    flight = await known.join(key)
    assert isinstance(flight, Flight)
    return flight


async def test_all_who_wait_get_the_one_answer() -> None:
    known, _ = flights()
    first = await begin(known)
    waiting = [asyncio.create_task(known.join("k")) for _ in range(20)]
    await asyncio.sleep(0)
    first.land(ANSWER)
    assert await asyncio.gather(*waiting) == [(ANSWER, None)] * 20
    assert len(known) == 0


async def test_other_requests_do_not_wait() -> None:
    known, _ = flights()
    first, other = await begin(known, "k"), await begin(known, "other")
    assert first is not other


async def test_when_its_client_leaves_the_next_one_tries_and_the_rest_wait_for_it() -> None:
    known, _ = flights()
    first = await begin(known)
    waiting = [asyncio.create_task(known.join("k")) for _ in range(5)]
    await asyncio.sleep(0)
    first.land("next")
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (second,) = [task.result() for task in waiting if task.done()]
    assert isinstance(second, Flight)
    second.land(ANSWER)
    others = await asyncio.gather(*waiting)
    assert others.count((ANSWER, None)) == 4


async def test_what_cannot_be_shared_is_run_by_all_at_once() -> None:
    known, _ = flights()
    first = await begin(known)
    waiting = [asyncio.create_task(known.join("k")) for _ in range(5)]
    await asyncio.sleep(0)
    first.land("alone")
    assert await asyncio.gather(*waiting) == [None] * 5


async def test_until_the_answer_is_kept_it_is_given_here() -> None:
    known, _ = flights()
    first = await begin(known)
    written = asyncio.Event()
    first.land(ANSWER, kept=asyncio.create_task(written.wait()))
    assert await known.join("k") == (ANSWER, None)
    written.set()
    await asyncio.sleep(0.01)
    assert isinstance(await known.join("k"), Flight)


async def test_it_is_said_for_which_session_an_answer_was_made() -> None:
    known, _ = flights()
    first = await known.join("k", "ann")
    assert isinstance(first, Flight)
    waiting = asyncio.create_task(known.join("k", "bob"))
    await asyncio.sleep(0)
    first.land(ANSWER)
    assert await waiting == (ANSWER, "ann")


async def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    known, _ = flights()
    first = await begin(known)
    leaving, staying = (asyncio.create_task(known.join("k")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    first.land(ANSWER)
    assert await staying == (ANSWER, None)


async def test_patience_is_counted_from_the_beginning() -> None:
    known, clock = flights(patience=5.0)
    first = await begin(known)
    clock.now = 6.0
    assert await known.join("k") is None
    first.land(ANSWER)


async def test_waiting_ends_with_patience() -> None:
    known = Flights(0.01, asyncio.get_running_loop().time)
    first = await begin(known)
    assert await known.join("k") is None
    first.land(ANSWER)


async def test_an_end_counts_once() -> None:
    known, _ = flights()
    first = await begin(known)
    first.land("alone")
    second = await begin(known)
    first.land(ANSWER)
    assert len(known) == 1
    second.land("alone")


async def test_a_flight_that_nobody_holds_any_more_holds_up_nobody() -> None:
    known, _ = flights()
    await begin(known)
    gc.collect()
    assert isinstance(await known.join("k"), Flight)
