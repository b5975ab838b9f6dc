"""A limit on an answer's length is no need: short answers stay local, and what the context cuts escalates."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.scripted_model import Scripted
from fixtures.serving import CLOUD, EASY, LOCAL, Served

from smallfirst.policies import load_preset
from smallfirst.router.answer import Receipt
from smallfirst.router.errors import ModelUnavailable
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.money.expected import FIRST_GUESS, ExpectedCost
from smallfirst.router.settings import (
    CacheSettings,
    CloudModelSettings,
    LedgerSettings,
    Settings,
    default_local_model,
)
from smallfirst.router.wire import ChatRequest, Usage

HIGH = 8192
CUT: Any = {"finish_reason": "length", "cut": True}


def policies() -> dict[str, Any]:
    """A policy that only looks at whether answers are whole, and one that holds them until they are sure."""
    plain = load_preset("balanced").model_copy(update={"name": "plain", "cascade": "never"})
    held = plain.model_copy(update={"name": "held", "cascade": "always", "min_confidence": 0.1})
    return {"policies": {"plain": plain, "held": held}, "policy": "plain"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    big = CloudModelSettings(name=CLOUD, kind="openai", base_url="http://127.0.0.1:9/v1")
    settings = Settings(
        models=(default_local_model(), big),
        cache=CacheSettings(enabled=False),
        ledger=LedgerSettings(path=tmp_path_factory.mktemp("room") / "ledger.db"),
        **policies(),
    )
    made = Gateway(settings, models={LOCAL: Scripted(LOCAL), CLOUD: Scripted(CLOUD)})
    yield made
    asyncio.run(made.aclose())


async def ask(
    gateway: Gateway, local: Scripted, cloud: Scripted, *, streamed: bool = False, **fields: Any
) -> tuple[Receipt, list[str]]:
    """The receipt, and why the answer ended."""
    gateway.models.update({LOCAL: local, CLOUD: cloud})
    for name in gateway.models:
        gateway.health.succeeded(name)
    asked = {"max_tokens": HIGH, **fields}
    if not streamed:
        answer = await gateway.complete(EASY, **asked)
        return answer.receipt, [answer.body["choices"][0]["finish_reason"]]
    stream = await gateway.stream(EASY, **asked)
    body = b"".join([chunk async for chunk in stream])
    return stream.receipt, [reason for reason in ("length", "stop") if f'"{reason}"'.encode() in body]


@pytest.mark.parametrize("wire", ["chat", "responses", "messages"])
def test_an_easy_question_stays_local_however_much_the_caller_allows(
    served: Served, cloud: LoopbackCloud, wire: str
) -> None:
    if wire == "messages":
        with anthropic.Anthropic(base_url=served.root, api_key="none") as client:
            message = client.messages.create(
                model="auto", max_tokens=HIGH, messages=[{"role": "user", "content": EASY}]
            )
        found: tuple[Any, Any] = (message.model, message.stop_reason)
    else:
        with openai.OpenAI(base_url=served.base_url, api_key="none") as other:
            if wire == "chat":
                reply = other.chat.completions.create(
                    model="auto", max_tokens=64_000, messages=[{"role": "user", "content": EASY}]
                )
                found = (reply.model, {"stop": "end_turn"}[reply.choices[0].finish_reason])
            else:
                response = other.responses.create(model="auto", max_output_tokens=HIGH, input=EASY)
                found = (response.model, {"completed": "end_turn"}[str(response.status)])
    assert found == (LOCAL, "end_turn")
    assert cloud.requests == []


@pytest.mark.parametrize("policy", ["plain", "held"])
async def test_an_answer_that_the_context_cuts_is_the_next_models(gateway: Gateway, policy: str) -> None:
    local = Scripted(LOCAL, ["Once"], [0.9], **CUT)
    receipt, ended = await ask(gateway, local, Scripted(CLOUD), model=f"auto/{policy}")
    assert (receipt.model, receipt.attempts, ended) == (CLOUD, 2, ["stop"])
    assert receipt.reason == f"{LOCAL} had no room for the whole answer; {CLOUD} answers"


async def test_what_is_held_back_of_a_stream_escalates_where_it_is_cut(gateway: Gateway) -> None:
    local = Scripted(LOCAL, ["Once"], [0.9], **CUT)
    receipt, ended = await ask(gateway, local, Scripted(CLOUD), streamed=True, model="auto/held")
    assert (receipt.model, ended) == (CLOUD, ["stop"])


async def test_what_was_shown_of_a_stream_ends_by_its_length(gateway: Gateway) -> None:
    local = Scripted(LOCAL, ["Once"] * 40, [0.9] * 40, **CUT)
    for policy in ("plain", "held"):
        receipt, ended = await ask(gateway, local, Scripted(CLOUD), streamed=True, model=f"auto/{policy}")
        assert (receipt.model, receipt.attempts, ended) == (LOCAL, 1, ["length"])


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cut_answer_is_given_where_nobody_else_answers(gateway: Gateway, streamed: bool) -> None:
    local = Scripted(LOCAL, ["Once"], [0.9], **CUT)
    down = Scripted(CLOUD, error=ModelUnavailable("It is down."))
    receipt, ended = await ask(gateway, local, down, streamed=streamed, model="auto/held")
    assert (receipt.model, ended) == (LOCAL, ["length"])
    assert receipt.reason == f"{CLOUD} failed (model_unavailable); {LOCAL} was cut off, but answers"
    private = {"metadata": {"privacy": "local"}}
    receipt, ended = await ask(gateway, local, Scripted(CLOUD), streamed=streamed, **private)
    assert (receipt.model, ended) == (LOCAL, ["length"])
    receipt, ended = await ask(gateway, local, Scripted(CLOUD), streamed=streamed, model=LOCAL)
    assert (receipt.model, ended) == (LOCAL, ["length"])


async def test_an_answer_that_the_callers_limit_cuts_is_kept(gateway: Gateway) -> None:
    local = Scripted(LOCAL, ["Once"], [0.9], finish_reason="length")
    receipt, ended = await ask(gateway, local, Scripted(CLOUD), max_tokens=1)
    assert (receipt.model, ended) == (LOCAL, ["length"])


def test_the_room_that_an_answer_may_need_follows_the_answers_that_were_given() -> None:
    costs = ExpectedCost((default_local_model(),), lambda _model, _usage: None)
    assert costs.room(LOCAL, "chat") == 2 * FIRST_GUESS["chat"]
    assert costs.room(LOCAL, None) == 0
    for _ in range(100):
        costs.answered(LOCAL, "chat", usage=Usage(20, 10), tenant="t", session="s")
    assert costs.room(LOCAL, "chat") < FIRST_GUESS["chat"]


# --- the real model -------------------------------------------------------------------------------------------------


async def test_the_local_model_says_that_its_context_cut_the_answer(models_dir: Path) -> None:
    settings = default_local_model().model_copy(update={"context_tokens": 128})
    model = LocalModel(settings, models_dir=models_dir)
    story = [{"role": "user", "content": "Tell me a long story about a cat and a dog."}]

    def request(limit: int, **fields: Any) -> ChatRequest:
        return ChatRequest.parse({"messages": story, "max_tokens": limit, **fields})

    try:
        cut, asked = await model.complete(request(HIGH)), await model.complete(request(5))
        stream = await model.stream(request(HIGH, stream=True))
        async for _ in stream:
            pass
        several = await model.complete(request(HIGH, n=2))
    finally:
        await model.aclose()
    assert [reply.body["choices"][0]["finish_reason"] for reply in (cut, asked)] == ["length"] * 2
    assert (cut.cut, asked.cut, stream.cut, several.cut) == (True, False, True, True)


async def test_without_a_limit_of_the_callers_the_models_own_cuts_the_answer(models_dir: Path) -> None:
    settings = default_local_model().model_copy(update={"max_output_tokens": 4})
    model = LocalModel(settings, models_dir=models_dir)
    story = {"messages": [{"role": "user", "content": "Tell me a long story about a cat and a dog."}]}
    try:
        unlimited = await model.complete(ChatRequest.parse(story))
        limited = await model.complete(ChatRequest.parse({**story, "max_tokens": 4}))
    finally:
        await model.aclose()
    assert unlimited.body["usage"]["completion_tokens"] == limited.body["usage"]["completion_tokens"] == 4
    assert (unlimited.cut, limited.cut) == (True, False)
