"""What requests would have come to on the baseline, and exploring, in a gateway of scripted models."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from fixtures.scripted_model import PROMPT_TOKENS, Scripted
from fixtures.serving import CLOUD, LOCAL

from smallfirst.policies import load_preset
from smallfirst.router.gateway import Gateway
from smallfirst.router.hints import Hints
from smallfirst.router.settings import (
    CacheSettings,
    CloudModelSettings,
    LedgerSettings,
    Settings,
    default_local_model,
)
from smallfirst.router.wire import ChatRequest

# gpt-4.1's prices in US dollars a token.
INPUT, OUTPUT = 2e-6, 8e-6
OWN, OTHER = 0.9, 0.0

Open = Callable[..., Gateway]


class Luck:
    """Draws what it is told to."""

    def __init__(self) -> None:
        self.number = OWN
        self.drawn = 0

    def __call__(self, request: ChatRequest, hints: Hints) -> float:
        self.drawn += 1
        return self.number


@pytest.fixture
def luck() -> Luck:
    return Luck()


# Whatever it is: to the local model, or to the cloud.
WILLING = {"min_local_success": 0.0, "max_gap": 1.0, "uncertain": "local"}
PICKY = {"min_local_success": 1.0, "max_gap": 0.0, "uncertain": "cloud"}


@pytest.fixture
async def opened(tmp_path: Path, luck: Luck) -> AsyncIterator[Open]:
    """Makes gateways over one ledger: the cloud says ten words, the local model two."""
    big = CloudModelSettings(name=CLOUD, kind="openai", base_url="http://127.0.0.1:9/v1")
    async with AsyncExitStack() as stack:

        def make(**fields: Any) -> Gateway:
            settings = Settings(
                models=(default_local_model(), big),
                policies={
                    name: load_preset("balanced").model_copy(update={"name": name, **rules})
                    for name, rules in (
                        ("willing", WILLING),
                        ("picky", PICKY),
                        ("curious", {**WILLING, "explore": 0.4}),
                        ("daring", {**PICKY, "explore": 0.4}),
                    )
                },
                policy="willing",
                ledger=LedgerSettings(path=tmp_path / "ledger.db", flush_interval=0.05),
                **{"cache": CacheSettings(enabled=False), **fields},
            )
            scripted = {
                LOCAL: Scripted(LOCAL, ["two", "words"]),
                CLOUD: Scripted(CLOUD, [f"w{at}" for at in range(10)]),
            }
            gateway = Gateway(settings, models=scripted, lot=luck)
            stack.push_async_callback(gateway.aclose)
            return gateway

        yield make


def entries(gateway: Gateway) -> list[dict[str, Any]]:
    gateway.ledger.flush()
    with closing(sqlite3.connect(gateway.ledger.path)) as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute("SELECT * FROM entries ORDER BY started_at")]
    return [{**one, "attempts": json.loads(one["attempts"])} for one in found]


async def ask(gateway: Gateway, name: str, text: str = "Name a city.", **fields: Any) -> dict[str, Any]:
    """Ask, and return what the ledger has of it."""
    answer = await gateway.complete(text, model=f"auto/{name}", **fields)
    found = {entry["request_id"]: entry for entry in entries(gateway)}[answer.receipt.request_id]
    assert answer.receipt.saved_usd == pytest.approx(found["baseline_cost_usd"] - found["cost_usd"])
    return found


async def teach(gateway: Gateway, count: int = 5) -> None:
    """Let the baseline answer some."""
    for at in range(count):
        await gateway.complete("Name a city.", model="auto/picky", metadata={"session": f"t{at}"})


async def test_a_local_answer_is_priced_at_the_length_that_the_baseline_needs(opened: Open) -> None:
    gateway = opened()
    await teach(gateway)
    entry = await ask(gateway, "willing")
    assert (entry["route"], entry["output_tokens"], entry["baseline_output_tokens"]) == ("local", 2, 10)
    assert entry["baseline_cost_usd"] == pytest.approx(PROMPT_TOKENS * INPUT + 10 * OUTPUT)


async def test_before_the_baseline_has_answered_its_length_is_not_made_up(opened: Open) -> None:
    entry = await ask(opened(), "willing")
    assert entry["baseline_output_tokens"] is None
    assert entry["baseline_cost_usd"] == pytest.approx(PROMPT_TOKENS * INPUT + 2 * OUTPUT)


async def test_the_baselines_own_answer_costs_what_it_cost(opened: Open) -> None:
    gateway = opened()
    await teach(gateway)
    entry = await ask(gateway, "picky")
    assert entry["baseline_cost_usd"] == entry["cost_usd"] > 0
    assert entry["baseline_output_tokens"] == 10, (
        "what had been predicted is written down, to be held against it"
    )


async def test_a_streamed_answer_is_priced_likewise(opened: Open) -> None:
    gateway = opened()
    await teach(gateway)
    async with await gateway.stream("Name a city.", model="auto/willing") as stream:
        async for _ in stream:
            pass
    entry = entries(gateway)[-1]
    assert (entry["route"], entry["baseline_output_tokens"]) == ("local", 10)
    assert stream.receipt.saved_usd == pytest.approx(PROMPT_TOKENS * INPUT + 10 * OUTPUT)


async def test_a_limit_holds_for_the_baseline_too(opened: Open) -> None:
    gateway = opened()
    await teach(gateway)
    assert (await ask(gateway, "willing", max_tokens=4))["baseline_output_tokens"] == 4


async def test_several_choices_are_as_many_answers(opened: Open) -> None:
    gateway = opened()
    await teach(gateway)
    assert (await ask(gateway, "picky", n=2))["baseline_output_tokens"] == 20


async def test_an_answer_of_the_cache_is_priced_like_the_model_that_gave_it(opened: Open) -> None:
    gateway = opened(cache=CacheSettings())
    await teach(gateway, 1)
    for at in range(5):
        await gateway.complete(f"Name the city number {at}.", model="auto/picky")
    await gateway.complete("Name a river.", model="auto/willing", cache={"ttl": 60})
    entry = await ask(gateway, "willing", "Name a river.", cache={"ttl": 60})
    assert (entry["route"], entry["cost_usd"], entry["propensity"]) == ("cache", 0.0, None)
    assert entry["baseline_output_tokens"] == 10


async def test_a_model_that_was_named_keeps_its_own_count(opened: Open) -> None:
    gateway = opened()
    await teach(gateway)
    await gateway.complete("Name a city.", model=LOCAL)
    entry = entries(gateway)[-1]
    assert (entry["baseline_output_tokens"], entry["propensity"], entry["explored"]) == (None, 1.0, 0)
    assert entry["baseline_cost_usd"] == pytest.approx(PROMPT_TOKENS * INPUT + 2 * OUTPUT)


async def test_a_restart_forgets_no_lengths(opened: Open) -> None:
    first = opened()
    await teach(first)
    await first.aclose()
    second = opened()
    await second.complete("Name a town.", model="auto/willing")
    second.counterfactual.close()
    assert (await ask(second, "willing"))["baseline_output_tokens"] == 10


async def test_comparisons_teach_how_long_the_baselines_answers_to_such_requests_are(opened: Open) -> None:
    """The cloud's own requests need ten words; those that stay local, one."""
    gateway = opened(drift={"shadow": 1.0})
    await teach(gateway)
    cloud = gateway.models[CLOUD]
    assert isinstance(cloud, Scripted)
    cloud.words = ["one"]
    for _ in range(40):
        await gateway.complete("Name a city.", model="auto/willing")
        await gateway.shadow.settled()
    assert (await ask(gateway, "willing"))["baseline_output_tokens"] <= 4


# --- exploring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own", "other"), [("curious", "local", "cloud"), ("daring", "cloud", "local")]
)
async def test_what_was_drawn_is_written_down(
    opened: Open, luck: Luck, name: str, own: str, other: str
) -> None:
    gateway = opened()
    calm = await ask(gateway, name)
    assert (calm["route"], calm["propensity"], calm["explored"]) == (own, 0.8, 0)
    luck.number = OTHER
    tried = await ask(gateway, name)
    assert (tried["route"], tried["propensity"], tried["explored"]) == (other, 0.2, 1)
    assert tried["reason_code"] == "explored"


async def test_nothing_private_is_explored(opened: Open, luck: Luck) -> None:
    luck.number = OTHER
    entry = await ask(opened(), "curious", metadata={"privacy": "local"})
    assert (entry["route"], entry["propensity"], entry["explored"]) == ("local", 1.0, 0)


async def test_asking_for_the_decision_alone_explores_nothing(opened: Open, luck: Luck) -> None:
    luck.number = OTHER
    decision = opened().route("Name a city.", model="auto/curious")
    assert (decision.attempts[0].tier, decision.explored, luck.drawn) == ("local", False, 0)


async def test_a_local_answer_that_was_tried_out_is_not_given_to_others(opened: Open, luck: Luck) -> None:
    gateway = opened(cache=CacheSettings())
    luck.number = OTHER
    tried = await ask(gateway, "daring", "Name a river.", cache={"ttl": 60})
    luck.number = OWN
    again = await ask(gateway, "daring", "Name a river.", cache={"ttl": 60})
    kept = await ask(gateway, "daring", "Name a river.", cache={"ttl": 60})
    assert [tried["route"], again["route"], kept["route"]] == ["local", "cloud", "cache"]
