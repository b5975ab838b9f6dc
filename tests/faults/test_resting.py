"""A cloud that asks to be left alone for long is: by all callers, since its key is the gateway's, and not for ever."""

from __future__ import annotations

import pytest
from fixtures.faulty_upstream import Call, Fault, FaultyUpstream, OpenHouse, healthy, target
from fixtures.scripted_model import Scripted

from smallfirst.router.settings import LocalModelSettings

FORMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
STATUSES = pytest.mark.parametrize("status", [429, 503, 529])


def asks_to_wait(seconds: float, status: int = 429) -> Fault:
    async def fault(call: Call) -> bool:
        error = {"error": {"message": "slow down", "type": "t", "code": "busy"}}
        return await call.json(error, status, retry_after=seconds)

    return fault


async def fails(call: Call) -> bool:
    return await call.json({"error": {"message": "oh", "type": "t", "code": "oh"}}, 500)


@FORMS
@STATUSES
async def test_it_is_left_out_of_plans(open_house: OpenHouse, status: int, stream: bool) -> None:
    spare = FaultyUpstream()
    async with spare.listening(), open_house(target(spare, name="spare")) as house:
        house.upstream.fault = asks_to_wait(30, status)
        for _ in range(3):
            assert (await house.ask(model="auto", stream=stream)).status == 200
        entries = await house.entries(3)
        assert b'smallfirst_model_up{model="big"} 0.0' in house.gateway.metrics.render()
    assert (len(house.upstream.calls), len(spare.calls)) == (1, 3)
    assert [[a.model for a in entry.attempts] for entry in entries] == [
        ["big", "spare"],
        ["spare"],
        ["spare"],
    ]


@STATUSES
async def test_who_names_it_is_told_at_once_when_to_come_again(open_house: OpenHouse, status: int) -> None:
    async with open_house() as house:
        house.upstream.fault = asks_to_wait(30, status)
        told = await house.ask()
        assert (told.status, told.code, told.retry_after) == (status, "busy", "30")
        refused = await house.ask(stream=True)
        assert (refused.status, refused.code) == (429 if status == 429 else 503, "model_resting")
        assert 1 <= int(refused.retry_after or 0) <= 30
        _, entry = await house.entries(2)
    assert len(house.upstream.calls) == 1
    assert (entry.status, entry.error_code, entry.cost_usd) == ("error", "model_resting", 0)


async def test_every_key_shares_it_as_all_use_the_one_of_the_settings(open_house: OpenHouse) -> None:
    """A limit of the upstream's is of the key that the settings name for the model, and of no caller."""
    spare = FaultyUpstream()
    async with spare.listening(), open_house(target(spare, name="spare")) as house:
        house.upstream.fault = asks_to_wait(30)
        await house.ask(metadata={"tenant": "acme"})
        assert (await house.ask(metadata={"tenant": "globex"})).code == "model_resting"
        # Another model may have another key, at the same server too.
        assert (await house.ask(model="spare")).status == 200


async def test_it_is_asked_again_after_that_and_no_failure_is_held_against_it(open_house: OpenHouse) -> None:
    async with open_house(breaker={"failures": 2, "rest": 60, "max_rest": 0.6}) as house:
        house.upstream.fault = asks_to_wait(3600, 503)
        assert (await house.ask()).status == 503
        assert (await house.ask()).code == "model_resting"
        # No longer than `max_rest`, whatever it says.
        await house.rested()
        house.upstream.fault = fails
        assert (await house.ask()).code == "oh"
        assert house.gateway.health.available("big")
        house.upstream.fault = healthy
        assert (await house.ask()).status == 200


async def test_what_is_waited_for_makes_no_rest(open_house: OpenHouse) -> None:
    async with open_house(retries={"max": 0, "max_delay": 5}) as house:
        house.upstream.fault = asks_to_wait(5)
        assert (await house.ask()).code == "busy"
        assert house.gateway.health.available("big")
        assert (await house.ask()).code == "busy"


async def test_the_call_that_finds_out_whether_it_has_healed_may_be_told_to_wait(
    open_house: OpenHouse,
) -> None:
    async with open_house(breaker={"failures": 1, "rest": 0.05, "max_rest": 0.6}) as house:
        house.upstream.fault = fails
        await house.ask()
        await house.rested()
        house.upstream.fault = asks_to_wait(30)
        assert (await house.ask()).code == "busy"
        assert (await house.ask()).code == "model_resting"
        house.upstream.fault = healthy
        await house.rested()
        assert [(await house.ask()).status for _ in range(2)] == [200, 200]


async def test_where_all_rest_the_house_answers_or_says_when_the_first_is_back(open_house: OpenHouse) -> None:
    local = LocalModelSettings(name="small", kind="llama", source="file:/nowhere.gguf")
    async with open_house(local, own={"small": Scripted("small", words=("Paris",))}) as house:
        house.upstream.fault = asks_to_wait(30)
        assert [(await house.ask(model="auto/quality")).text for _ in range(2)] == ["Paris", "Paris"]
    async with open_house() as house:
        house.upstream.fault = asks_to_wait(30)
        await house.ask()
        seen = await house.ask(model="auto")
    assert (seen.status, seen.code) == (503, "no_model_available")
    assert 20 < int(seen.retry_after or 0) <= 30
