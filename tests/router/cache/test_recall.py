"""What is answered from the cache, and what never is. The judge of likeness is a simple one, passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from smallfirst.router.cache.base import CachedReply
from smallfirst.router.cache.memory import MemoryCache
from smallfirst.router.cache.recall import Asked, Recall, Recalled
from smallfirst.router.scoring.embedding import DIMENSIONS, FloatArray
from smallfirst.router.settings import CacheSettings
from smallfirst.router.wire import ChatRequest

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
WORDS: dict[str, Any] = {"role": "assistant", "content": "Paris."}
CALLS: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}


@dataclass(frozen=True)
class Text:
    text: str
    vector: FloatArray


class SameWords:
    """The same answer where both have the same words in any order and case; everything is near everything."""

    def read(self, text: str) -> Text | None:
        vector = np.zeros(DIMENSIONS, np.float32)
        vector[0] = 1.0
        return Text(text, vector)

    def probability(self, asked: Text, stored: Text) -> float:
        return float(sorted(asked.text.lower().split()) == sorted(stored.text.lower().split()))

    def threshold(self, max_error: float) -> float | None:
        return 1 - max_error if max_error >= 0.001 else None


class NoTimes:
    """An answer keeps unless the question says `now`."""

    def keeps(self, text: str) -> bool:
        return "now" not in text


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A recall with its store, at a time that stands still until it is moved."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.store = MemoryCache(1_000_000, clock=self.clock)
        self.recall = Recall(
            self.store,
            CacheSettings(**settings),
            equivalence=SameWords(),
            volatility=NoTimes(),
            clock=self.clock,
        )

    def read(self, text: str | list[Any], session: str = "", tenant: str = "t", **fields: Any) -> Asked:
        messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
        request = ChatRequest.parse({"messages": messages, **fields}, tenant=tenant)
        return self.recall.read(request, target="x", session=session or "derived", derived=not session)

    async def answered(
        self, text: str | list[Any], message: dict[str, Any] = WORDS, *, finish: str = "stop", **asked: Any
    ) -> bool:
        """Keep an answer; returns whether it may be kept."""
        body = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
        kept = self.recall.keep(self.read(text, **asked), body, model="m", tier="cloud", cost_usd=0.1)
        if kept is not None:
            await kept[1]
        return kept is not None

    async def look_up(self, text: str | list[Any], **asked: Any) -> Recalled:
        return await self.recall.look_up(self.read(text, **asked))

    async def state(self, text: str | list[Any], **asked: Any) -> str:
        return (await self.look_up(text, **asked)).state


async def test_an_equal_request_gets_the_answer() -> None:
    world = World()
    assert await world.state("the capital of France") == "miss"
    assert await world.answered("the capital of France")
    found = await world.look_up("the capital of France")
    assert (found.state, found.stale) == ("exact", False)
    assert found.reply is not None
    assert found.reply.body["choices"][0]["message"] == WORDS


async def test_one_that_surely_asks_the_same_gets_it_too_and_it_is_said_how_sure() -> None:
    world = World()
    await world.answered("the capital of France")
    found = await world.look_up("of France the Capital")
    assert (found.state, found.likeness) == ("semantic", 1.0)


async def test_one_that_is_near_but_does_not_ask_the_same_gets_none() -> None:
    world = World()
    await world.answered("the capital of France")
    assert await world.state("the capital of Spain") == "miss"


async def test_answers_given_in_other_words_are_not_kept_in_their_turn() -> None:
    world = World()
    await world.answered("the capital of France")
    await world.look_up("of France the Capital")
    assert world.store.stats().entries == 1


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Which one?"},
]


@pytest.mark.parametrize(
    "changed",
    [
        {"text": [{"role": "system", "content": "Be long."}, *TALK[1:]]},
        {"text": [*TALK[:2], {"role": "assistant", "content": "Go away."}, TALK[3]]},
        {"tools": TOOLS},
        {"tenant": "other"},
        {"cache": {"namespace": "other"}},
        {"response_format": {"type": "json_object"}},
        {"seed": 7},
    ],
)
async def test_the_same_last_words_in_other_company_never_do(changed: dict[str, Any]) -> None:
    world = World()
    await world.answered(TALK)
    assert await world.state([*TALK[:3], {"role": "user", "content": "one? which"}]) == "semantic"
    changed = dict(changed)
    text = changed.pop("text", TALK)
    for last in ("Which one?", "one? which"):
        assert await world.state([*text[:3], {"role": "user", "content": last}], **changed) == "miss"


async def test_without_a_bound_only_equal_requests_count() -> None:
    for max_error in (0, 0.0001):
        world = World(max_cache_error=max_error)
        assert not world.recall.similar
        await world.answered("the capital of France")
        assert await world.state("of France the capital") == "miss"
        assert await world.state("the capital of France") == "exact"


async def test_a_namespace_whose_hits_were_wrong_is_exact_only() -> None:
    world = World()
    await world.answered("the capital of France")
    asked = world.read("x")
    for _ in range(40):
        world.recall.evidence.observe("t", asked.identity.prefix, wrong=1.0)
    assert await world.state("of France the capital") == "miss"
    assert await world.state("the capital of France") == "exact"


# --- what does not keep -------------------------------------------------------------------------------------------


async def test_an_answer_that_does_not_keep_is_neither_kept_nor_served() -> None:
    world = World()
    assert not await world.answered("how late is it now")
    assert await world.state("how late is it now") == "bypass"


async def test_unless_the_caller_asks_for_the_cache() -> None:
    world = World()
    assert await world.answered("how late is it now", cache={})
    assert await world.state("how late is it now", cache={}) == "exact"
    assert await world.state("how late is it now") == "bypass"


LABEL = {"type": "object", "properties": {"l": {"type": "string", "enum": ["a", "b"]}}, "required": ["l"]}


async def test_what_is_to_be_labelled_is_not_judged() -> None:
    world = World()
    form = {"type": "json_schema", "json_schema": {"name": "l", "schema": LABEL}}
    assert await world.answered("label: now", response_format=form)
    assert await world.state("label: now", response_format=form) == "exact"


async def test_an_answer_in_a_form_keeps_no_better_for_it() -> None:
    world = World()
    form = {"type": "json_object"}
    assert not await world.answered("how late is it now", response_format=form)
    assert await world.state("how late is it now", response_format=form) == "bypass"


async def test_with_tools_a_call_may_be_given_again_but_not_words_that_do_not_keep() -> None:
    world = World()
    assert await world.answered("open it now", CALLS, finish="tool_calls", tools=TOOLS)
    assert await world.state("open it now", tools=TOOLS) == "exact"
    assert not await world.answered("what is up now", tools=TOOLS)


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_answers_that_are_not_whole_are_not_kept(finish: str) -> None:
    world = World()
    assert not await world.answered("the capital of France", finish=finish)


# --- tool calls ---------------------------------------------------------------------------------------------------


async def test_tool_calls_are_given_to_equal_requests_only() -> None:
    world = World()
    await world.answered("look at Paris", CALLS, finish="tool_calls", tools=TOOLS)
    assert await world.state("at Paris look", tools=TOOLS) == "miss"
    assert await world.state("look at Paris", tools=TOOLS) == "exact"


async def test_after_a_tool_result_only_an_equal_request_counts() -> None:
    world = World()
    result = {"role": "tool", "tool_call_id": "c1", "content": "it rains"}
    talk = [{"role": "user", "content": "look"}, CALLS, result]
    await world.answered(talk, tools=TOOLS)
    assert await world.state(talk, tools=TOOLS) == "exact"
    assert await world.state([*talk[:2], {**result, "content": "rains it"}], tools=TOOLS) == "miss"


async def test_a_session_never_gets_a_call_again_that_it_has_had() -> None:
    world = World()
    await world.answered("look", CALLS, finish="tool_calls", tools=TOOLS, session="a")
    assert await world.state("look", tools=TOOLS, session="a") == "miss"
    assert await world.state("look", tools=TOOLS, session="b") == "exact"
    assert await world.state("look", tools=TOOLS, session="b") == "miss"


async def test_a_call_is_not_given_again_however_long_the_answer_is_kept() -> None:
    world = World(ttl=60)
    kept = {"tools": TOOLS, "cache": {"ttl": 86_000}}
    await world.answered("look", CALLS, finish="tool_calls", session="a", **kept)
    world.clock.now += 80_000
    assert await world.state("look", session="a", **kept) == "miss"
    assert await world.state("look", session="b", **kept) == "exact"


async def test_without_a_session_a_call_is_given_again_once() -> None:
    world = World()
    await world.answered("look", CALLS, finish="tool_calls", tools=TOOLS)
    assert [await world.state("look", tools=TOOLS) for _ in range(3)] == ["exact", "miss", "miss"]


async def test_words_may_be_given_to_a_session_again_and_again() -> None:
    world = World()
    await world.answered("the capital of France", session="a")
    assert [await world.state("the capital of France", session="a") for _ in range(3)] == ["exact"] * 3


# --- time ---------------------------------------------------------------------------------------------------------


async def test_after_its_time_an_answer_is_gone() -> None:
    world = World(ttl=10)
    await world.answered("the capital of France")
    world.clock.now += 11
    assert await world.state("the capital of France") == "miss"


async def test_a_stale_answer_is_served_to_equal_requests_and_to_no_others() -> None:
    world = World(ttl=10, stale=60)
    await world.answered("the capital of France")
    world.clock.now += 11
    found = await world.look_up("the capital of France")
    assert (found.state, found.stale) == ("exact", True)
    assert await world.state("of France the capital") == "miss"
    world.clock.now += 60
    assert await world.state("the capital of France") == "miss"


# --- trouble ------------------------------------------------------------------------------------------------------


async def test_a_damaged_entry_is_a_miss_is_counted_and_goes() -> None:
    world = World()
    asked = world.read("the capital of France")
    await world.store.set(asked.identity.key, b"{", ttl=60)
    assert (await world.recall.look_up(asked)).state == "miss"
    assert (world.recall.damaged, world.store.stats().entries) == (1, 0)


@pytest.mark.parametrize(
    "choices", ["[1]", '"ab"', '{"a": 1}', "[{}]", '[{"message": {"content": "x"}}]', "[]"]
)
async def test_an_entry_that_is_no_whole_answer_is_a_miss(choices: str) -> None:
    world = World()
    asked = world.read("the capital of France")
    value = (
        f'{{"body": {{"choices": {choices}}}, "model": "m", "tier": "cloud", "cost_usd": 0, "created": 0}}'
    )
    await world.store.set(asked.identity.key, value.encode(), ttl=60, place=asked.place)
    assert await world.state("of France the capital") == "miss"
    assert await world.state("the capital of France") == "miss"


async def test_a_very_long_answer_is_given_to_equal_requests_only() -> None:
    world = World()
    await world.answered("the capital of France", {"role": "assistant", "content": "x" * 80_000})
    assert await world.state("of France the capital") == "miss"
    assert await world.state("the capital of France") == "exact"


async def test_an_answer_that_may_not_be_given_any_more_is_a_miss() -> None:
    world = World()
    await world.answered("the capital of France")

    def cloud_only(reply: CachedReply) -> bool:
        return reply.tier != "cloud"

    for text in ("the capital of France", "of France the capital"):
        assert (await world.recall.look_up(world.read(text), usable=cloud_only)).state == "miss"


async def test_deleting_a_namespace_forgets_what_others_would_find_there() -> None:
    world = World()
    await world.answered("the capital of France")
    assert await world.store.delete("t", "") == 1
    assert await world.state("of France the capital") == "miss"
