"""What a chat model may be told: time limits, retries, several answers, shared gateways, bills."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.sensible_cloud import saying
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeSettings, Served
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage, trim_messages
from pydantic import BaseModel, SecretStr

from smallfirst.agents import BillCallback, ChatSmallFirst
from smallfirst.router.errors import ModelTimeout, UpstreamError
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.sync import SyncGateway


@pytest.fixture
def gateway(make_settings: MakeSettings, local_model: LocalModel) -> Iterator[SyncGateway]:
    with SyncGateway(gateway=Gateway(make_settings(), models={LOCAL: local_model})) as gateway:
        yield gateway


def on_cloud(gateway: SyncGateway, **fields: Any) -> ChatSmallFirst:
    return ChatSmallFirst(gateway=gateway, model=CLOUD, **fields)


def test_an_answer_that_takes_too_long_is_given_up(gateway: SyncGateway, cloud: LoopbackCloud) -> None:
    cloud.enqueue(lc.hang(), lc.hang(after=3))
    chat = on_cloud(gateway, timeout=0.2)
    with pytest.raises(ModelTimeout, match="No answer within"):
        chat.invoke("Hi")
    with pytest.raises(ModelTimeout, match="in the middle of an answer"):
        list(chat.stream("Hi"))
    assert cloud.disconnected.wait(5)


@pytest.mark.parametrize("way", ["in this process", "over a proxy"])
def test_a_call_that_failed_is_made_again(
    way: str, gateway: SyncGateway, served: Served, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.status(503, retry_after="0"), lc.status(429, retry_after="0"))
    own: dict[str, Any] = {"gateway": gateway} if way == "in this process" else {"base_url": served.base_url}
    chat = ChatSmallFirst(model=CLOUD, max_retries=2, **own)
    assert chat.invoke("Hi").text == "Paris is the answer."
    cloud.enqueue(*[lc.status(503, retry_after="0")] * 3)
    with pytest.raises(UpstreamError):
        list(chat.stream("Ho"))
    assert len(cloud.requests) == 6
    chat.close()


def test_callers_own_errors_are_not_tried_again(gateway: SyncGateway, cloud: LoopbackCloud) -> None:
    cloud.enqueue(lc.status(400))
    with pytest.raises(UpstreamError):
        on_cloud(gateway, max_retries=3).invoke("Hi")
    assert len(cloud.requests) == 1


def test_several_answers_are_asked_for_and_given(gateway: SyncGateway, sensible_cloud: LoopbackCloud) -> None:
    found = on_cloud(gateway, n=3).generate([[HumanMessage("Hi")]])
    assert [len(one) for one in found.generations] == [3]


def test_a_stream_may_be_told_not_to_count(gateway: SyncGateway, sensible_cloud: LoopbackCloud) -> None:
    chat = on_cloud(gateway, stream_usage=False)
    assert all(chunk.usage_metadata is None for chunk in chat.stream("Hi"))
    assert any(chunk.usage_metadata for chunk in chat.stream("Hi", stream_usage=True))
    assert "stream_usage" not in sensible_cloud.requests[-1].body


def test_json_mode_asks_for_any_object(gateway: SyncGateway, cloud: LoopbackCloud) -> None:
    class Point(BaseModel):
        x: int

    cloud.enqueue(saying('{"x": 3}'), saying('{"x": 4}'))
    chat = on_cloud(gateway)
    assert chat.with_structured_output(Point, method="json_mode").invoke("JSON, please") == Point(x=3)
    schema = Point.model_json_schema()
    assert chat.with_structured_output(schema, method="json_mode").invoke("JSON again") == {"x": 4}
    assert [one.body["response_format"] for one in cloud.requests] == [{"type": "json_object"}] * 2


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (True, "required"),
        (False, "none"),
        ({"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_a_tool_choice_may_be_an_object_or_a_truth(
    gateway: SyncGateway, cloud: LoopbackCloud, choice: Any, sent: Any
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    on_cloud(gateway).bind_tools([tool], tool_choice=choice, parallel_tool_calls=False).invoke("Hi")
    body = cloud.requests[0].body
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (sent, False)


def test_a_shared_gateway_outlives_its_models(gateway: SyncGateway, cloud: LoopbackCloud) -> None:
    with on_cloud(gateway) as one:
        one.invoke("Hi")
    assert on_cloud(gateway).invoke("Hi").text == "Paris is the answer."
    assert gateway.complete("Hi", model=CLOUD).text == "Paris is the answer."


def test_a_proxy_of_the_environment_is_asked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLFIRST_BASE_URL", served.base_url)
    with ChatSmallFirst() as chat:
        assert chat.invoke(EASY).response_metadata["route"] == "local"
    assert served.gateway.ledger.health().written + served.gateway.ledger.health().pending == 1


def test_settings_that_are_given_mean_more_than_the_environment(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, cloud: LoopbackCloud
) -> None:
    monkeypatch.setenv("SMALLFIRST_BASE_URL", "http://127.0.0.1:9/v1")
    with ChatSmallFirst(settings=make_settings(local=False), model=CLOUD) as chat:
        assert chat.invoke("Hi").text == "Paris is the answer."


@pytest.mark.parametrize(
    "fields",
    [{"privacy": "local"}, {"max_tokens": 5}, {"model_kwargs": {"verbosity": "low"}}, {"model": "x"}],
)
def test_langchains_cache_keeps_apart_what_answers_apart(fields: dict[str, Any]) -> None:
    assert ChatSmallFirst()._get_llm_string() != ChatSmallFirst(**fields)._get_llm_string()


def test_langchains_cache_keeps_other_settings_apart(make_settings: MakeSettings) -> None:
    one, other = make_settings(), make_settings(policy="thrifty")
    texts = {ChatSmallFirst(settings=settings)._get_llm_string() for settings in (one, other)}
    assert len(texts) == 2
    assert "sk-cloud" not in "".join(texts)


def ask_all(chat: ChatSmallFirst, bill: BillCallback) -> None:
    config: Any = {"callbacks": [bill]}
    chat.invoke(EASY, config)
    chat.invoke(HARD, config)
    list(chat.stream(HARD, config))


async def aask_all(chat: ChatSmallFirst, bill: BillCallback) -> None:
    config: Any = {"callbacks": [bill]}
    await chat.ainvoke(EASY, config)
    await chat.ainvoke(HARD, config)
    async for _ in chat.astream(HARD, config):
        pass


def test_a_bill_is_what_the_ledger_says(gateway: SyncGateway, cloud: LoopbackCloud) -> None:
    bill = BillCallback()
    chat = ChatSmallFirst(gateway=gateway, temperature=1)
    ask_all(chat, bill)
    total, report = bill.bill.total, gateway.report(by=("route", "model"))
    lines = {(line.route, line.model): line.requests for line in bill.bill.lines}
    assert lines == {tuple(row.key.values()): row.requests for row in report.rows}
    assert (total.cost_usd, total.all_cloud_usd) == pytest.approx(
        (report.total.cost_usd, report.total.baseline_usd)
    )


async def test_a_bill_of_what_was_awaited(gateway: SyncGateway, cloud: LoopbackCloud) -> None:
    bill = BillCallback()
    await aask_all(ChatSmallFirst(gateway=gateway, temperature=1), bill)
    assert {(line.route, line.requests) for line in bill.bill.lines} == {("local", 1), ("cloud", 2)}


def test_an_answer_of_langchains_cache_is_on_the_bill_once(
    gateway: SyncGateway, cloud: LoopbackCloud
) -> None:
    bill = BillCallback()
    chat = on_cloud(gateway, cache=InMemoryCache())
    texts = [chat.invoke("Hi", {"callbacks": [bill]}).text for _ in range(2)]
    assert (len(set(texts)), len(cloud.requests), bill.bill.total.requests) == (1, 1, 1)


def test_a_deep_copy_shares_the_gateway_and_nothing_else(gateway: SyncGateway, cloud: LoopbackCloud) -> None:
    chat = on_cloud(gateway, labels=["a"])
    other = deepcopy(chat)
    other.labels.append("b")
    assert (other.invoke("Hi").text, chat.labels) == ("Paris is the answer.", ["a"])


def test_settings_are_not_in_a_models_text(make_settings: MakeSettings) -> None:
    chat = ChatSmallFirst(settings=make_settings(), api_key=SecretStr("sk-own"))
    assert not [word for word in ("ledger.db", "127.0.0.1", "sk-") if word in repr(chat) + dumps(chat)]


@pytest.mark.parametrize("way", ["in this process", "over a proxy"])
def test_tokens_are_counted_without_a_model(
    way: str, gateway: SyncGateway, served: Served, cloud: LoopbackCloud
) -> None:
    own: dict[str, Any] = {"gateway": gateway} if way == "in this process" else {"base_url": served.base_url}
    with ChatSmallFirst(**own) as chat:
        assert 5 <= chat.get_num_tokens("What is the capital of France?") <= 9
        messages = [HumanMessage("one two three " * 20), HumanMessage("What is the capital?")]
        assert trim_messages(messages, max_tokens=20, token_counter=chat) == messages[1:]
    assert cloud.requests == []
