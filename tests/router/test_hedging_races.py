"""Hedged calls in every order of their ends: each call is booked once, and nothing goes on when the answer is there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from fixtures.scripted_model import PROMPT_TOKENS, Scripted
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smallfirst.policies import Attempt, Decision, load_preset
from smallfirst.router.errors import InvalidRequest, ModelUnavailable, RequestError, UpstreamError
from smallfirst.router.escalation import Streamed, Whole
from smallfirst.router.health import ModelHealth
from smallfirst.router.hints import read_hints
from smallfirst.router.journey import Journey
from smallfirst.router.models.retry import RetryBudget
from smallfirst.router.money.billing import Answered, Billing
from smallfirst.router.money.prices import PriceList
from smallfirst.router.routing import Plan, Target
from smallfirst.router.running import Runner
from smallfirst.router.settings import Breaker, CloudModelSettings, Price, Retries, Settings
from smallfirst.router.wire import ChatRequest, ReplyStream

NAMES = ("one", "two", "three")
HEDGE = 0.003
ERRORS: tuple[RequestError | None, ...] = (
    None,
    ModelUnavailable("down"),
    UpstreamError("no", status=400),
    InvalidRequest("too odd"),
)

PRICED = tuple(
    CloudModelSettings(
        name=name, kind="openai", base_url="http://127.0.0.1:9/v1", price=Price(input=1, output=1)
    )
    for name in NAMES
)
BILLING = Billing(Settings(models=PRICED), PriceList(), len)


@dataclass
class Timed(Scripted):
    """Begins to answer, or fails, after some seconds; closed streams are noted."""

    seconds: float = 0.0
    opened: list[ReplyStream] = field(default_factory=list)
    closed: int = 0

    async def _accept(self, request: ChatRequest) -> Any:
        self.requests.append(request)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return self.words

    async def stream(self, request: ChatRequest) -> ReplyStream:
        stream = await super().stream(request)
        self.opened.append(stream)
        return stream


def journey_of(*, streamed: bool, same: bool, kind: Any = "request") -> Journey:
    policy = load_preset("balanced").model_copy(update={"hedge_after": HEDGE, "hedge_same_model": same})
    attempts = tuple(Attempt(name, "cloud", hedge=HEDGE) for name in NAMES)
    request = ChatRequest.of("Hi", {}, stream=streamed)
    plan = Plan(Decision(attempts, "a test", "test", "balanced"), PROMPT_TOKENS)
    return Journey(request, read_hints(request), Target(policy, None, ""), plan=plan, kind=kind)


async def run(models: dict[str, Timed], journey: Journey, *, streamed: bool) -> Answered[Any]:
    budgets = {name: RetryBudget(Retries(least=100)) for name in NAMES}
    runner = Runner(models, ModelHealth(), BILLING, budgets)
    return await runner.run(journey, Streamed() if streamed else Whole())


times = st.sampled_from([0.0, 0.001, HEDGE, 0.004, 0.008, 30.0])


@given(
    behaviours=st.tuples(*[st.tuples(times, st.sampled_from(ERRORS))] * len(NAMES)),
    leaves=st.none() | st.sampled_from([0.0, 0.001, HEDGE, 0.005, 0.009]),
    streamed=st.booleans(),
    same=st.booleans(),
)
@example(((30.0, None), (0.0, None), (0.0, None)), None, True, False)
@example(((HEDGE, None), (0.0, None), (0.0, None)), HEDGE, True, False)
@settings(max_examples=150, deadline=None)
def test_each_call_is_booked_once_and_none_is_left(
    behaviours: tuple[tuple[float, RequestError | None], ...],
    leaves: float | None,
    streamed: bool,
    same: bool,
) -> None:
    async def check() -> None:
        models = {
            name: Timed(name, seconds=seconds, error=error)
            for name, (seconds, error) in zip(NAMES, behaviours, strict=True)
        }
        journey = journey_of(streamed=streamed, same=same)
        before = asyncio.all_tasks()
        answered = None
        try:
            # Who waits for ever leaves in the end.
            async with asyncio.timeout(0.05 if leaves is None else leaves):
                answered = await run(models, journey, streamed=streamed)
        except (RequestError, TimeoutError):
            pass
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        booked = [record.model for record in journey.attempts]
        if answered is not None:
            booked.append(answered.attempt.model)
        asked = [name for name, model in models.items() for _ in model.requests]
        assert sorted(booked) == sorted(asked)
        kept = None if answered is None else answered.result
        for model in models.values():
            assert all(stream is kept or stream._closed for stream in model.opened)  # type: ignore[attr-defined]
        # At most one call beside each.
        assert sum(record.hedge for record in journey.attempts) <= len(NAMES)

    asyncio.run(check())


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_renewal_that_nobody_waits_for_is_not_hedged(streamed: bool) -> None:
    models = {name: Timed(name, seconds=10 * HEDGE) for name in NAMES}
    journey = journey_of(streamed=streamed, same=True, kind="refresh")
    answered = await run(models, journey, streamed=streamed)
    assert answered.attempt.model == "one"
    assert [len(model.requests) for model in models.values()] == [1, 0, 0]


async def test_a_hedge_that_is_slow_itself_is_hedged_when_its_turn_comes() -> None:
    """The first fails while the second is slow: then that is hedged as well, with the third."""
    one, two, three = (Timed(name) for name in NAMES)
    one.seconds, one.error = 3 * HEDGE, ModelUnavailable("down")
    two.seconds = 30
    journey = journey_of(streamed=True, same=False)
    answered = await run({"one": one, "two": two, "three": three}, journey, streamed=True)
    assert answered.attempt.model == "three"
    assert [(a.model, a.outcome, a.hedge) for a in journey.attempts] == [
        ("one", "error", False),
        ("two", "unused", True),
    ]
    assert [attempt.model for attempt in journey.hedges] == ["two", "three"]


async def test_a_stream_that_is_not_needed_has_only_begun_well() -> None:
    """Both begin at once; how the second one would have ended nobody knows, and its failures are not forgotten."""
    both = asyncio.Event()

    class Together(Timed):
        async def _accept(self, request: ChatRequest) -> Any:
            self.requests.append(request)
            if self.name == "two":
                both.set()
            await both.wait()
            return self.words

    models = {name: Together(name) for name in NAMES}
    journey, health = (
        journey_of(streamed=True, same=False),
        ModelHealth({name: Breaker(failures=2) for name in NAMES}),
    )
    health.failed("two")
    runner = Runner(models, health, BILLING, {name: RetryBudget(Retries(least=100)) for name in NAMES})
    answered = await runner.run(journey, Streamed())
    assert answered.attempt.model == "one"
    assert [(a.model, a.outcome) for a in journey.attempts] == [("two", "unused")]
    assert models["two"].opened
    health.failed("two")
    assert not health.available("two")
