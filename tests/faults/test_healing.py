"""An upstream that fails for a while and heals: who answers meanwhile, and who after it; how often it is retried."""

from __future__ import annotations

import asyncio

from fixtures.faulty_upstream import Call, FaultyUpstream, OpenHouse, Seen, chunk, healthy, target
from fixtures.scripted_model import Scripted

from smallfirst.router.models.cloud import CloudModel
from smallfirst.router.settings import Breaker, LocalModelSettings

BRIEF = {"failures": 2, "rest": 0.3, "max_rest": 30}


async def fails(call: Call) -> bool:
    return await call.json({"error": {"message": "oh", "type": "t", "code": "oh"}}, 500)


async def breaks_off(call: Call) -> bool:
    await call.begin_stream()
    await call.event(chunk("Paris"))
    return False


async def test_it_is_asked_again_after_a_rest_once_it_has_healed(open_house: OpenHouse) -> None:
    async with open_house(breaker=BRIEF) as house:
        house.upstream.fault = fails
        assert [(await house.ask()).status for _ in range(2)] == [500, 500]
        assert b'smallfirst_model_up{model="big"} 0.0' in house.gateway.metrics.render()
        house.upstream.fault = healthy
        await house.rested()
        assert [(await house.ask()).status for _ in range(3)] == [200, 200, 200]
        assert b'smallfirst_model_up{model="big"} 1.0' in house.gateway.metrics.render()
        entries = await house.entries(5)
    assert [entry.http_status for entry in entries] == [500, 500, 200, 200, 200]


SCALE = 1 / 20


async def test_half_a_minute_of_500_costs_a_few_calls_and_then_it_is_asked_as_before(
    open_house: OpenHouse,
) -> None:
    """The usual breaker and an outage of 30 seconds, all twenty times as fast: a second is 50 ms.

    It rests 5, 10 and 20 seconds after its third, fourth and fifth failure, so that it is found to have healed by the
    call at 35 seconds: the calls at 5 and at 15 seconds fail.
    """
    usual = Breaker()
    times = {name: getattr(usual, name) * SCALE for name in ("rest", "max_rest", "window")}
    async with open_house(breaker=times) as house:
        loop = asyncio.get_running_loop()
        heals_at = loop.time() + 30 * SCALE

        async def fails_for_half_a_minute(call: Call) -> bool:
            return await (fails(call) if loop.time() < heals_at else healthy(call))

        house.upstream.fault = fails_for_half_a_minute
        seen: list[Seen] = []
        while not seen or seen[-1].status != 200:
            seen.append(await house.ask(stream=bool(len(seen) % 2)))
            await asyncio.sleep(SCALE)
        answered_at = loop.time()
        seen += [await house.ask() for _ in range(3)]
        entries = await house.entries(len(seen))
    codes = [one.code for one in seen]
    assert codes[:3] == ["oh"] * 3
    assert codes.count("oh") <= 5
    assert set(codes[3:-4]) <= {"oh", "model_resting"}
    assert codes[-4:] == [None] * 4
    assert answered_at >= heals_at
    # Those that were turned away cost no call.
    assert len(house.upstream.calls) == len(seen) - codes.count("model_resting")
    assert [entry.error_code for entry in entries] == codes


async def test_one_request_finds_out_whether_it_has_healed(open_house: OpenHouse) -> None:
    async with open_house(breaker=BRIEF, max_connections=10) as house:
        house.upstream.fault = fails
        for _ in range(2):
            await house.ask()
        await house.rested()
        asked = len(house.upstream.calls)
        seen = await asyncio.gather(*(house.ask() for _ in range(8)))
        assert sorted(one.status for one in seen) == [500, *[503] * 7]
        assert len(house.upstream.calls) == asked + 1


async def test_a_caller_who_leaves_does_not_keep_the_others_out(open_house: OpenHouse) -> None:
    async def hangs(call: Call) -> bool:
        await asyncio.sleep(60)
        return False

    async with open_house(breaker=BRIEF, timeouts={"first_byte": 30}) as house:
        house.upstream.fault = fails
        for _ in range(2):
            await house.ask()
        await house.rested()
        house.upstream.fault = hangs
        leaving = asyncio.ensure_future(house.ask())
        while len(house.upstream.calls) < 3:
            await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await house.entries(3)
        house.upstream.fault = healthy
        assert (await house.ask()).status == 200


async def test_streams_that_break_off_open_the_breaker(open_house: OpenHouse) -> None:
    """Each of them began well."""
    async with open_house(breaker={"failures": 3, "rest": 60}) as house:
        house.upstream.fault = breaks_off
        codes = [(await house.ask(stream=True)).code for _ in range(4)]
    assert codes == ["stream_broken"] * 3 + ["model_resting"]


async def test_the_callers_own_mistakes_do_not_open_it(open_house: OpenHouse) -> None:
    async def refuses_the_request(call: Call) -> bool:
        return await call.json({"error": {"message": "no", "type": "t", "code": "no"}}, 400)

    async with open_house(breaker={"failures": 1, "rest": 60}) as house:
        house.upstream.fault = refuses_the_request
        assert [(await house.ask()).status for _ in range(3)] == [400, 400, 400]


async def test_another_cloud_target_answers_and_the_first_one_is_left_alone(open_house: OpenHouse) -> None:
    spare = FaultyUpstream()
    breaker = {"failures": 2, "rest": 60}
    async with spare.listening(), open_house(target(spare, name="spare"), breaker=breaker) as house:
        house.upstream.fault = fails
        for stream in (False, True, False, True):
            assert (await house.ask(model="auto", stream=stream)).status == 200
        entries = await house.entries(4)
    assert (len(house.upstream.calls), len(spare.calls)) == (2, 4)
    outcomes = [[(a.model, a.outcome) for a in entry.attempts] for entry in entries]
    both = [("big", "error"), ("spare", "ok")]
    assert outcomes == [both, both, both[1:], both[1:]]
    assert [entry.status for entry in entries] == ["ok"] * 4


async def test_a_model_in_the_house_answers_where_no_cloud_does(open_house: OpenHouse) -> None:
    local = LocalModelSettings(name="small", kind="llama", source="file:/nowhere.gguf")
    small = Scripted("small", words=("Paris",))
    async with open_house(local, own={"small": small}, breaker={"failures": 1, "rest": 60}) as house:
        house.upstream.fault = fails
        for _ in range(2):
            assert (await house.ask(model="auto/quality")).text == "Paris"
        entries = await house.entries(2)
    assert [entry.route for entry in entries] == ["local", "local"]
    assert [entry.reason_code for entry in entries] == ["fallback", "cloud_down"]


async def test_retries_stop_when_their_budget_is_used_up(open_house: OpenHouse) -> None:
    retries = {"max": 2, "base_delay": 0, "budget": 0.1, "least": 3}
    async with open_house(retries=retries, breaker={"failures": 100, "least_calls": 100}) as house:
        house.upstream.fault = fails
        for _ in range(10):
            assert (await house.ask()).status == 500
        assert len(house.upstream.calls) == 10 + 3
        entries = await house.entries(10)
        refused = b'smallfirst_retries_refused_total{model="big"} 9.0'
        assert refused in house.gateway.metrics.render()
    assert [sum(a.retries for a in entry.attempts) for entry in entries] == [2, 1, *[0] * 8]


async def test_retries_heal_a_fault_that_passes(open_house: OpenHouse) -> None:
    async def fails_once(call: Call) -> bool:
        return await (fails(call) if len(house.upstream.calls) == 1 else healthy(call))

    async with open_house(retries={"max": 2, "base_delay": 0}) as house:
        house.upstream.fault = fails_once
        assert (await house.ask()).status == 200
        (entry,) = await house.entries(1)
    assert [(a.outcome, a.retries) for a in entry.attempts] == [("ok", 1)]


async def test_a_caller_who_leaves_while_a_retry_is_waited_for_pays_nothing(open_house: OpenHouse) -> None:
    async def is_busy(call: Call) -> bool:
        return await call.json({"error": {"message": "slow down"}}, 429, retry_after=7)

    async with open_house(timeouts={"total": 60}, retries={"max": 2, "max_delay": 8}) as house:
        house.upstream.fault = is_busy
        leaving = asyncio.ensure_future(house.ask())
        big = house.gateway.models["big"]
        assert isinstance(big, CloudModel)
        while big.budget._recent.counts() != (1, 1):
            await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        (entry,) = await house.entries(1)
    assert (entry.status, entry.cost_usd) == ("cancelled", 0)
    assert [(a.outcome, a.retries) for a in entry.attempts] == [("cancelled", 0)]
