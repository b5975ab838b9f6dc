"""ChatSmallFirst with real LangChain: against a loopback cloud, the real local model, and a running proxy."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypedDict

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeSettings, Served
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from smallfirst.agents import ChatSmallFirst
from smallfirst.router.errors import CannotServe, ModelNotFound, RequestError, StreamBroken, UpstreamError
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel

MakeChat = Callable[..., ChatSmallFirst]


@pytest.fixture
def make_chat(make_settings: MakeSettings, local_model: LocalModel) -> Iterator[MakeChat]:
    """Makes chat models over a gateway in this process."""
    made: list[ChatSmallFirst] = []

    def make(**fields: Any) -> ChatSmallFirst:
        gateway = Gateway(make_settings(), models={LOCAL: local_model})
        chat = ChatSmallFirst(gateway=gateway, **fields)
        made.append(chat)
        return chat

    yield make
    for chat in made:
        chat.close()


@pytest.fixture(params=["in this process", "over a proxy"])
def chat(request: pytest.FixtureRequest) -> Iterator[ChatSmallFirst]:
    if request.param == "in this process":
        yield request.getfixturevalue("make_chat")()
        return
    served: Served = request.getfixturevalue("served")
    with ChatSmallFirst(base_url=served.base_url) as made:
        yield made


class Sentiment(BaseModel):
    """The sentiment of a text."""

    label: Literal["positive", "negative"] = Field(description="which of the two")


class SentimentDict(TypedDict):
    """The sentiment of a text."""

    label: Literal["positive", "negative"]


@tool
def weather(city: str) -> str:
    """Get the weather of a city."""
    return f"Sunny in {city}."


@pytest.mark.parametrize(("prompt", "route", "model"), [(EASY, "local", LOCAL), (HARD, "cloud", CLOUD)])
def test_invoke_answers_and_says_who_did(chat: ChatSmallFirst, prompt: str, route: str, model: str) -> None:
    message = chat.invoke(prompt)
    assert isinstance(message, AIMessage)
    assert "Paris" in message.text
    metadata = message.response_metadata
    assert (metadata["route"], metadata["model_name"], metadata["finish_reason"]) == (route, model, "stop")
    assert metadata["cost_usd"] is not None
    assert metadata["reason"]
    assert message.usage_metadata is not None
    assert message.usage_metadata["total_tokens"] > 0


@pytest.mark.parametrize(("prompt", "route"), [(EASY, "local"), (HARD, "cloud")])
def test_stream_adds_up_to_the_same(chat: ChatSmallFirst, prompt: str, route: str) -> None:
    whole: AIMessageChunk | None = None
    pieces = 0
    for chunk in chat.stream(prompt):
        assert isinstance(chunk, AIMessageChunk)
        whole = chunk if whole is None else whole + chunk
        pieces += 1
    assert whole is not None
    assert pieces > 3
    assert "Paris" in whole.text
    assert whole.response_metadata["route"] == route
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0


async def test_async_calls_work_beside_sync_ones(chat: ChatSmallFirst) -> None:
    assert "Paris" in (await chat.ainvoke(EASY)).text
    assert "Paris" in "".join([chunk.text async for chunk in chat.astream(EASY)])
    both = await asyncio.gather(chat.ainvoke(HARD), asyncio.to_thread(chat.invoke, HARD))
    assert [message.text for message in both] == ["Paris is the answer."] * 2


def test_several_threads_share_one_model(chat: ChatSmallFirst) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(chat.invoke, [HARD] * 8))
    assert {message.text for message in found} == {"Paris is the answer."}
    assert len(chat.batch([EASY, HARD])) == 2


def test_hints_reach_the_ledger_and_not_the_cloud(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    chat = make_chat(
        agent="triage", session="s1", labels=["a"], model_kwargs={"verbosity": "low"}, temperature=0
    )
    chat.invoke([SystemMessage("Be brief."), HumanMessage(HARD)], stop=["END"], max_tokens=9)
    sent = cloud.requests[0].body
    expected = {"verbosity": "low", "temperature": 0, "stop": ["END"], "max_tokens": 9, "model": CLOUD}
    assert {name: sent[name] for name in expected} == expected
    assert "metadata" not in sent
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]


def test_privacy_keeps_it_local(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    message = make_chat(privacy="local", max_tokens=5).invoke(HARD)
    assert message.response_metadata["route"] == "local"
    assert cloud.requests == []


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        ("auto", "auto"),
        ("none", "none"),
        ("any", "required"),
        ("required", "required"),
        ("weather", {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_tool_choice_is_translated(
    make_chat: MakeChat, cloud: LoopbackCloud, choice: str | None, sent: Any
) -> None:
    make_chat(model=CLOUD).bind_tools([weather], tool_choice=choice).invoke("Weather in Paris?")
    assert cloud.requests[0].body.get("tool_choice") == sent


def test_a_tool_choice_that_is_no_tool_is_refused(make_chat: MakeChat) -> None:
    with pytest.raises(ValueError, match="not among the tools"):
        make_chat().bind_tools([weather], tool_choice="sail")


@pytest.mark.parametrize("model", [LOCAL, CLOUD])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_round_trip(make_chat: MakeChat, cloud: LoopbackCloud, model: str, streamed: bool) -> None:
    chat = make_chat(model=model, max_tokens=60, model_kwargs={"parallel_tool_calls": False})
    bound = chat.bind_tools([weather], tool_choice="any")
    question = HumanMessage("What is the weather in Paris?")
    if streamed:
        message: Any = None
        for chunk in bound.stream([question]):
            message = chunk if message is None else message + chunk
    else:
        message = bound.invoke([question])
    (call,) = message.tool_calls
    assert (call["name"], set(call["args"])) == ("weather", {"city"})
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    answer = chat.invoke([question, AIMessage("", tool_calls=message.tool_calls), result])
    assert answer.text
    if model == CLOUD:
        roles = [sent["role"] for sent in cloud.requests[-1].body["messages"]]
        assert roles == ["user", "assistant", "tool"]
        assert cloud.requests[-1].body["messages"][1]["tool_calls"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 8, 18, 20])
def test_a_forced_call_that_is_cut_is_neither_words_nor_a_call(
    make_chat: MakeChat, limit: int, streamed: bool
) -> None:
    bound = make_chat(model=LOCAL, max_tokens=limit, temperature=0).bind_tools([weather], tool_choice="any")
    message: Any = None
    if streamed:
        for chunk in bound.stream("Weather in Paris?"):
            message = chunk if message is None else message + chunk
    else:
        message = bound.invoke("Weather in Paris?")
    assert (message.content, message.tool_calls) == ("", [])
    assert message.response_metadata["finish_reason"] == "length"
    # What was written of the arguments is there to look at.
    assert {call["name"] for call in message.invalid_tool_calls} == ({"weather"} if limit >= 18 else set())


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_of_the_local_model(
    make_chat: MakeChat, method: Literal["json_schema", "function_calling"]
) -> None:
    chat = make_chat(model=LOCAL, max_tokens=60)
    text = 'Is "I love it" positive or negative?'
    as_model = chat.with_structured_output(Sentiment, method=method).invoke(text)
    as_dict = chat.with_structured_output(SentimentDict, method=method).invoke(text)
    assert isinstance(as_model, Sentiment)
    assert isinstance(as_dict, dict)
    assert as_dict["label"] in ("positive", "negative")


def test_structured_output_that_cannot_be_parsed_is_kept_raw(
    make_chat: MakeChat, cloud: LoopbackCloud
) -> None:
    found = make_chat(model=CLOUD).with_structured_output(Sentiment, include_raw=True).invoke("Hi")
    assert isinstance(found, dict)
    assert found["raw"].text == "Paris is the answer."
    assert found["parsed"] is None
    assert found["parsing_error"] is not None


def test_structured_output_may_be_strict_and_have_fields(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    chat = make_chat(model=CLOUD)
    chat.with_structured_output(
        Sentiment, method="function_calling", strict=True, include_raw=True, seed=7
    ).invoke("Hi")
    sent = cloud.requests[0].body
    assert (sent["tools"][0]["function"]["strict"], sent["seed"]) == (True, 7)


def test_a_providers_own_tool_has_no_name_to_choose(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    make_chat(model=CLOUD).bind_tools([weather, {"type": "web_search"}], tool_choice="weather").invoke("Hi")
    assert [one["type"] for one in cloud.requests[0].body["tools"]] == ["function", "web_search"]


def test_errors_are_the_gateways_own(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    with pytest.raises(ModelNotFound):
        make_chat(model="gpt-9").invoke("Hi")
    cloud.enqueue(lc.status(400, {"message": "no", "param": "x"}))
    with pytest.raises(UpstreamError):
        make_chat(model=CLOUD).invoke("Hi")
    cloud.enqueue(lc.cut(after=2))
    with pytest.raises(StreamBroken):
        list(make_chat(model=CLOUD).stream("Hi"))


def test_errors_of_a_proxy_keep_their_status(served: Served, cloud: LoopbackCloud) -> None:
    with (
        ChatSmallFirst(base_url=served.base_url, model="gpt-9") as chat,
        pytest.raises(ModelNotFound) as caught,
    ):
        chat.invoke("Hi")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    cloud.enqueue(lc.cut(after=2))
    with ChatSmallFirst(base_url=served.base_url, model=CLOUD) as chat, pytest.raises(StreamBroken):
        list(chat.stream("Hi"))


def test_a_proxy_that_is_not_there_is_said_to_be(cloud: LoopbackCloud) -> None:
    with (
        ChatSmallFirst(base_url="http://127.0.0.1:9/v1") as chat,
        pytest.raises(RequestError, match="is it running"),
    ):
        chat.invoke("Hi")


def test_a_stream_left_early_stops_the_cloud(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    cloud.enqueue(lc.hang(after=3))
    stream = make_chat(model=CLOUD).stream("Hi")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert cloud.disconnected.wait(5)


def test_callbacks_hear_every_token(make_chat: MakeChat) -> None:
    heard: list[str] = []

    class Listener(BaseCallbackHandler):
        def on_llm_new_token(self, token: Any, **_: Any) -> None:
            heard.append(token)

    text = "".join(chunk.text for chunk in make_chat().stream(EASY, config={"callbacks": [Listener()]}))
    assert "".join(heard) == text


def test_closing_twice_is_fine(make_chat: MakeChat) -> None:
    chat = make_chat()
    chat.invoke(HARD)
    chat.close()
    chat.close()
    assert chat.invoke(HARD).text


def test_an_answer_from_the_cache_is_a_message_of_its_own(make_chat: MakeChat) -> None:
    """LangGraph takes messages of one id for one message, and stored answers have the id of the first."""
    chat = make_chat(temperature=0)
    first = chat.invoke(EASY)
    while (second := chat.invoke(EASY)).response_metadata["route"] != "cache":
        pass  # the cache is written off the caller's path
    streamed = [chunk.id for chunk in chat.stream(EASY)]
    assert len({first.id, second.id, *streamed}) == 3
    assert second.id == second.response_metadata["request_id"]


PICTURE = HumanMessage(
    [
        {"type": "text", "text": "What is it?"},
        {"type": "image", "base64": "QQ==", "mime_type": "image/png"},
    ]
)


def test_a_picture_goes_to_a_model_that_sees(chat: ChatSmallFirst, cloud: LoopbackCloud) -> None:
    assert chat.invoke([PICTURE]).response_metadata["route"] == "cloud"
    parts = cloud.requests[0].body["messages"][0]["content"]
    assert parts[1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}


def test_a_picture_that_must_stay_is_refused_where_nobody_sees(
    make_chat: MakeChat, cloud: LoopbackCloud
) -> None:
    with pytest.raises(CannotServe):
        make_chat(privacy="local").invoke([PICTURE])
    assert cloud.requests == []


async def test_an_awaited_stream_left_early_stops_the_cloud(
    make_chat: MakeChat, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.hang(after=3))
    stream = make_chat(model=CLOUD).astream("Hi")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(cloud.disconnected.wait, 5)
