"""A cloud that does not begin to answer: another one is asked as well, the first to begin is taken, both are booked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fixtures.faulty_upstream import Call, Fault, FaultyUpstream, healthy, target
from fixtures.hedged import SOON, OpenHedged
from fixtures.scripted_model import Scripted

from smallfirst.router.ledger import AttemptRecord
from smallfirst.router.settings import LocalModelSettings

FORMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


async def hangs(call: Call) -> bool:
    await asyncio.sleep(60)
    return False


async def fails(call: Call) -> bool:
    return await call.json({"error": {"message": "oh", "type": "t", "code": "oh"}}, 500)


def after(event: asyncio.Event, fault: Fault) -> Fault:
    """Do that once something has happened."""

    async def waits(call: Call) -> bool:
        await event.wait()
        return await fault(call)

    return waits


def shown(attempt: AttemptRecord) -> tuple[str, str, bool]:
    return attempt.model, attempt.outcome, attempt.hedge


@FORMS
async def test_the_next_cloud_answers_where_the_first_does_not_begin(
    open_hedged: OpenHedged, stream: bool
) -> None:
    async with open_hedged() as hedged:
        tasks = asyncio.all_tasks()
        hedged.big.fault = hangs
        response, model = await hedged.ask(stream=stream)
        assert (response.status_code, model) == (200, "spare")
        assert response.headers["x-smallfirst-hedged"] == "true"
        assert response.headers["x-smallfirst-attempts"] == "2"
        assert "big had not begun to answer after 0.05 s" in response.headers["x-smallfirst-reason"]
        assert await hedged.hung_up()
        entry = await hedged.booked()
        assert await hedged.house.tasks_settle(tasks | hedged.spare._tasks) == set()
        assert (
            b'smallfirst_hedges_total{model="spare",outcome="ok"} 1.0'
            in hedged.house.gateway.metrics.render()
        )
    assert [shown(attempt) for attempt in entry.attempts] == [("big", "unused", False), ("spare", "ok", True)]
    assert (entry.status, entry.reason_code, entry.model) == ("ok", "hedged", "spare")
    lost, won = entry.attempts
    # Its prompt may be billed; an answer in one piece is written to its end, and billed too.
    assert lost.estimated
    assert (lost.input_tokens > 0, lost.output_tokens > 0) == (True, not stream)
    assert lost.cost_usd is not None
    assert won.cost_usd is not None
    assert entry.cost_usd == pytest.approx(lost.cost_usd + won.cost_usd)


@FORMS
async def test_the_second_call_is_stopped_where_the_first_begins_before_it(
    open_hedged: OpenHedged, stream: bool
) -> None:
    asked = asyncio.Event()

    async def never(call: Call) -> bool:
        asked.set()
        return await hangs(call)

    async with open_hedged() as hedged:
        hedged.big.fault, hedged.spare.fault = after(asked, healthy), never
        response, model = await hedged.ask(stream=stream)
        assert (response.status_code, model, response.headers["x-smallfirst-hedged"]) == (200, "big", "true")
        assert await hedged.hung_up()
        entry = await hedged.booked()
    assert [shown(attempt) for attempt in entry.attempts] == [("spare", "unused", True), ("big", "ok", False)]
    assert entry.reason_code != "hedged"
    assert entry.attempts[0].cost_usd is not None
    assert entry.attempts[0].cost_usd > 0


@FORMS
async def test_nobody_else_is_asked_where_the_first_begins_in_time(
    open_hedged: OpenHedged, stream: bool
) -> None:
    async with open_hedged(policy={"hedge_after": 20}) as hedged:
        response, model = await hedged.ask(stream=stream)
        assert (response.status_code, model) == (200, "big")
        assert "x-smallfirst-hedged" not in response.headers
        assert hedged.spare.calls == []


async def test_a_stream_that_has_begun_is_not_hedged(open_hedged: OpenHedged) -> None:
    rest = asyncio.Event()

    async def pauses(call: Call) -> bool:
        await call.begin_stream()
        await call.event(b'{"choices": [{"index": 0, "delta": {"content": "Paris"}}]}')
        await asyncio.wait_for(rest.wait(), 10)
        return await healthy_end(call)

    async def healthy_end(call: Call) -> bool:
        await call.event(b'{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}')
        await call.event(b"[DONE]")
        return await call.end_stream()

    async with open_hedged(policy={"hedge_after": 0.5}) as hedged:
        hedged.big.fault = pauses
        asyncio.get_running_loop().call_later(0.8, rest.set)
        response, model = await hedged.ask(stream=True)
        assert (response.status_code, model) == (200, "big")
        assert hedged.spare.calls == []


async def test_whole_answers_have_a_time_of_their_own(open_hedged: OpenHedged) -> None:
    asked = asyncio.Event()
    async with open_hedged(policy={"hedge_whole_after": 20}) as hedged:

        async def late(call: Call) -> bool:
            await asyncio.sleep(3 * SOON)
            return await healthy(call)

        hedged.big.fault = late
        assert (await hedged.ask(stream=False))[1] == "big"
        assert hedged.spare.calls == []
        hedged.big.fault = after(asked, healthy)
        assert (await hedged.ask(stream=True))[1] == "spare"


@FORMS
async def test_a_call_that_waits_for_its_retry_costs_nothing(open_hedged: OpenHedged, stream: bool) -> None:
    async def is_busy(call: Call) -> bool:
        return await call.json({"error": {"message": "slow down"}}, 429, retry_after=7)

    async def is_later(call: Call) -> bool:
        while hedged.budget._recent.counts() != (1, 2):
            await asyncio.sleep(0.01)
        return await healthy(call)

    async with open_hedged(retries={"max": 2, "max_delay": 8}) as hedged:
        hedged.big.fault, hedged.spare.fault = is_busy, is_later
        _, model = await hedged.ask(stream=stream)
        assert (model, len(hedged.big.calls)) == ("spare", 1)
        entry = await hedged.booked()
    lost, won = entry.attempts
    assert (lost.outcome, lost.retries, lost.cost_usd) == ("unused", 0, 0)
    assert entry.cost_usd == won.cost_usd


@FORMS
async def test_a_second_call_that_fails_does_not_matter_where_the_first_answers(
    open_hedged: OpenHedged, stream: bool
) -> None:
    async with open_hedged() as hedged:

        async def late(call: Call) -> bool:
            while not hedged.spare.calls or hedged.spare._answering:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            return await healthy(call)

        hedged.big.fault, hedged.spare.fault = late, fails
        response, model = await hedged.ask(stream=stream)
        assert (response.status_code, model) == (200, "big")
        entry = await hedged.booked()
    assert [shown(attempt) for attempt in entry.attempts] == [("spare", "error", True), ("big", "ok", False)]
    assert entry.reason_code != "fallback"


@FORMS
async def test_a_first_call_that_fails_leaves_the_second_which_is_not_asked_again(
    open_hedged: OpenHedged, stream: bool
) -> None:
    async with open_hedged() as hedged:
        failed = asyncio.Event()

        async def late(call: Call) -> bool:
            while not hedged.spare.calls:
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.05, failed.set)
            return await fails(call)

        hedged.big.fault, hedged.spare.fault = late, after(failed, healthy)
        response, model = await hedged.ask(stream=stream)
        assert (response.status_code, model, len(hedged.spare.calls)) == (200, "spare", 1)
        entry = await hedged.booked()
    assert [shown(attempt) for attempt in entry.attempts] == [("big", "error", False), ("spare", "ok", True)]
    assert entry.reason_code == "fallback"


@FORMS
async def test_where_both_fail_the_first_failure_is_told(open_hedged: OpenHedged, stream: bool) -> None:
    async with open_hedged() as hedged:

        async def late(call: Call) -> bool:
            while not hedged.spare.calls:
                await asyncio.sleep(0.01)
            return await call.json({"error": {"message": "a", "type": "t", "code": "first"}}, 500)

        hedged.big.fault, hedged.spare.fault = late, fails
        response, _ = await hedged.ask(stream=stream)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "first")
        entry = await hedged.booked()
    assert sorted(shown(attempt) for attempt in entry.attempts) == [
        ("big", "error", False),
        ("spare", "error", True),
    ]
    assert entry.cost_usd == 0


async def test_hedges_are_counted_with_the_retries_of_the_slow_model(open_hedged: OpenHedged) -> None:
    async def slow(call: Call) -> bool:
        """Answer once nobody else is asked."""
        refused = hedged.budget.refused
        while hedged.budget.refused == refused:
            await asyncio.sleep(0.01)
        return await healthy(call)

    retries = {"max": 0, "budget": 0.25, "least": 1}
    async with open_hedged(retries=retries) as hedged:
        hedged.big.fault = slow
        models = [(await hedged.ask(stream=bool(at % 2)))[1] for at in range(9)]
        # A quarter of the requests so far, but one at any rate: the first, the eighth.
        assert [at for at, model in enumerate(models) if model == "spare"] == [0, 7]
        assert len(hedged.spare.calls) == 2
        scraped = hedged.house.gateway.metrics.render()
    assert b'smallfirst_retries_refused_total{model="big"} 7.0' in scraped


@FORMS
async def test_the_callers_time_is_that_of_both(open_hedged: OpenHedged, stream: bool) -> None:
    async with open_hedged() as hedged:
        hedged.big.fault = hedged.spare.fault = hangs
        response, _ = await hedged.ask(stream=stream, headers={"x-request-timeout": "0.4"})
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert await hedged.hung_up()
        (first,), (second,) = hedged.big.calls, hedged.spare.calls
        assert float(second.headers["x-request-timeout"]) < float(first.headers["x-request-timeout"])
        entry = await hedged.booked()
        # It was the caller who had no time.
        assert all(hedged.house.gateway.health.available(name) for name in ("big", "spare"))
    assert {attempt.model for attempt in entry.attempts} == {"big", "spare"}
    assert all(attempt.cost_usd for attempt in entry.attempts)


@FORMS
async def test_a_caller_who_leaves_stops_both(open_hedged: OpenHedged, stream: bool) -> None:
    async with open_hedged() as hedged:
        hedged.big.fault = hedged.spare.fault = hangs
        leaving = asyncio.ensure_future(hedged.ask(stream=stream))
        while not hedged.spare.calls:
            await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert await hedged.hung_up()
        entry = await hedged.booked()
    assert sorted(shown(attempt) for attempt in entry.attempts) == [
        ("big", "cancelled", False),
        ("spare", "cancelled", True),
    ]
    assert (entry.status, entry.http_status) == ("cancelled", 499)
    assert all(attempt.cost_usd for attempt in entry.attempts)


async def test_a_model_that_rests_is_passed_over(open_hedged: OpenHedged) -> None:
    third = FaultyUpstream()
    async with third.listening(), open_hedged(target(third, name="third")) as hedged:

        async def rests_meanwhile(call: Call) -> bool:
            for _ in range(9):
                hedged.house.gateway.health.failed("spare")
            return await hangs(call)

        hedged.big.fault = rests_meanwhile
        assert (await hedged.ask(stream=True))[1] == "third"
        assert hedged.spare.calls == []


@FORMS
@pytest.mark.parametrize("again", [True, False], ids=["again", "once"])
async def test_a_model_that_is_named_is_asked_a_second_time_where_the_policy_says_so(
    open_hedged: OpenHedged, stream: bool, again: bool
) -> None:
    async def hangs_at_first(call: Call) -> bool:
        return await (hangs(call) if len(hedged.big.calls) == 1 else healthy(call))

    async with open_hedged(policy={"hedge_same_model": again}, default="hedged") as hedged:
        hedged.big.fault = hangs_at_first
        headers = {"x-request-timeout": "5" if again else "0.3"}
        response, _ = await hedged.ask(stream=stream, model="big", headers=headers)
        entry = await hedged.booked()
        assert len(hedged.big.calls) == 1 + again
        assert hedged.spare.calls == []
    attempts = [shown(attempt) for attempt in entry.attempts]
    if again:
        assert response.status_code == 200
        assert attempts == [("big", "unused", False), ("big", "ok", True)]
    else:
        assert response.status_code == 504
        assert attempts == [("big", "timeout", False)]


async def test_a_hedge_of_the_same_model_that_fails_too_is_no_further_try(open_hedged: OpenHedged) -> None:
    async def fails_late(call: Call) -> bool:
        while len(hedged.big.calls) < 2:
            await asyncio.sleep(0.01)
        return await fails(call)

    async with open_hedged(policy={"hedge_same_model": True}, default="hedged") as hedged:
        hedged.big.fault = fails_late
        response, _ = await hedged.ask(stream=False, model="big")
        assert (response.status_code, len(hedged.big.calls)) == (500, 2)


async def test_both_clouds_get_placeholders_for_what_must_not_leave_the_house(
    open_hedged: OpenHedged,
) -> None:
    async with open_hedged(policy={"pii": "redact-and-restore"}) as hedged:
        hedged.big.fault = hangs
        messages = [{"role": "user", "content": "Write to jane.doe@example.com."}]
        response, model = await hedged.ask(stream=False, messages=messages)
        assert (response.status_code, model) == (200, "spare")
        for upstream in (hedged.big, hedged.spare):
            (call,) = upstream.calls
            assert "example.com" not in str(call.body)


@FORMS
async def test_what_another_model_answered_is_not_kept(open_hedged: OpenHedged, stream: bool) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    asked: dict[str, Any] = {"messages": messages, "temperature": 0}
    async with open_hedged(cache=True, policy={"hedge_after": 0.5}) as hedged:
        hedged.big.fault = hangs
        first, model = await hedged.ask(stream=stream, **asked)
        assert (first.headers["x-smallfirst-cache"], model) == ("miss", "spare")
        hedged.big.fault = healthy
        second, model = await hedged.ask(stream=stream, **asked)
        assert (second.headers["x-smallfirst-cache"], model) == ("miss", "big")
        third, _ = await hedged.ask(stream=stream, **asked)
        assert third.headers["x-smallfirst-cache"] == "exact"


async def test_a_decision_says_who_is_hedged(open_hedged: OpenHedged) -> None:
    async with open_hedged(policy={"hedge_whole_after": 0}) as hedged:
        for stream, seconds in ((True, [SOON, 0.0]), (False, [0.0, 0.0])):
            body = {"model": "auto/hedged", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
            decision = (await hedged.house.client.post("/route", json=body)).json()
            assert [attempt["hedge"] for attempt in decision["attempts"]] == seconds


async def test_the_cloud_that_was_started_early_is_hedged_when_its_turn_comes(
    open_hedged: OpenHedged,
) -> None:
    let = asyncio.Event()
    local = LocalModelSettings(name="small", kind="llama", source="file:/nowhere.gguf")
    unsure = Scripted("small", ["no"] * 8, [0.05] * 8, wait_before={6: let})
    policy = {"cascade": "always", "min_confidence": 0.5, "early_cloud": 0.9}
    async with open_hedged(local, own={"small": unsure}, policy=policy) as hedged:

        async def lets_the_local_model_end(call: Call) -> bool:
            let.set()
            return await hangs(call)

        hedged.big.fault = lets_the_local_model_end
        assert (await hedged.ask(stream=False))[1] == "spare"
        entry = await hedged.booked()
    assert [(a.model, a.outcome, a.early, a.hedge) for a in entry.attempts] == [
        ("small", "discarded", False, False),
        ("big", "unused", True, False),
        ("spare", "ok", True, True),
    ]
    assert entry.reason_code == "escalated"
