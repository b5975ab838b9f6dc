"""The real anthropic client on a running gateway."""

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, LOCAL, MakeSettings, Served
from fixtures.wired import TOOL_CALL, answering
from pydantic import BaseModel, SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.settings import Key, ServerSettings

WEATHER: Any = {
    "name": "weather",
    "description": "Says how the weather is.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASK: Any = {"max_tokens": 50, "messages": [{"role": "user", "content": EASY}]}


class City(BaseModel):
    name: str
    people: int


def client_of(served: Served, key: str = "none") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=served.root, api_key=key, max_retries=0)


def said(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.fixture
def client(cloud_served: Served) -> Iterator[anthropic.Anthropic]:
    with client_of(cloud_served) as made:
        yield made


def test_it_gets_an_answer_with_its_counts(client: anthropic.Anthropic, cloud: LoopbackCloud) -> None:
    message = client.messages.create(model="auto", system="Be short.", extra_body={"temperature": 0}, **ASK)
    assert [(block.type, block.text) for block in message.content if block.type == "text"] == [
        ("text", "Paris is the answer.")
    ]
    assert (message.model, message.role, message.stop_reason) == (CLOUD, "assistant", "end_turn")
    # Of the 20 tokens of the prompt 8 were cached.
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (12, 8, 5)
    assert cloud.requests[0].body == {
        "model": CLOUD,
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": EASY}],
        "temperature": 0,
        "max_completion_tokens": 50,
    }


def test_it_gets_estimates_where_the_cloud_counts_nothing(
    client: anthropic.Anthropic, cloud: LoopbackCloud
) -> None:
    cloud.usage = None
    whole = client.messages.create(model="auto", **ASK).usage
    with client.messages.stream(model="auto", **ASK) as stream:
        streamed = stream.get_final_message().usage
    assert streamed.input_tokens == whole.input_tokens > 0
    assert streamed.output_tokens == whole.output_tokens > 0


def test_it_gets_an_answer_of_the_local_model(served: Served) -> None:
    with client_of(served) as client:
        message = client.messages.create(model=LOCAL, extra_body={"temperature": 0}, **ASK)
        with client.messages.stream(model=LOCAL, extra_body={"temperature": 0}, **ASK) as stream:
            streamed = stream.get_final_message()
    assert message.model == streamed.model == LOCAL
    assert "Paris" in said(message)
    assert said(streamed) == said(message)
    assert streamed.usage.output_tokens == message.usage.output_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_it_is_told_which_stop_sequence_the_local_model_wrote(served: Served, streamed: bool) -> None:
    asked: Any = {
        "model": LOCAL,
        "stop_sequences": ["Berlin", " Paris"],
        "extra_body": {"temperature": 0},
        **ASK,
    }
    with client_of(served) as client:
        if streamed:
            with client.messages.stream(**asked) as stream:
                message: anthropic.types.Message = stream.get_final_message()
        else:
            message = client.messages.create(**asked)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " Paris")
    assert said(message) == "The capital of France is"


def test_it_streams(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="auto", **ASK) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "Paris is the answer."
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == (
        "end_turn",
        12,
        5,
    )


def test_a_stream_has_its_events_in_order(client: anthropic.Anthropic, cloud: LoopbackCloud) -> None:
    cloud.enqueue(answering({"content": "Ich.", "tool_calls": [TOOL_CALL]}, "tool_calls"))
    stream = client.messages.create(model="auto", stream=True, tools=[WEATHER], **ASK)
    # The client leaves pings out.
    assert [event.type for event in stream] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_makes_its_round_trip(
    client: anthropic.Anthropic, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.enqueue(answering({"content": "I look.", "tool_calls": [TOOL_CALL]}, "tool_calls"))
    asked: Any = {"model": "auto", "max_tokens": 50, "tools": [WEATHER]}
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]
    if streamed:
        with client.messages.stream(messages=messages, **asked) as stream:
            first = stream.get_final_message()
    else:
        first = client.messages.create(messages=messages, **asked)
    assert first.stop_reason == "tool_use"
    call = first.content[1]
    assert call.type == "tool_use"
    assert (call.id, call.name, call.input) == ("call_7", "weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain"}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    client.messages.create(messages=messages, **asked)
    assert cloud.requests[1].body["messages"][1:] == [
        {"role": "assistant", "content": "I look.", "tool_calls": [_compact(TOOL_CALL)]},
        {"role": "tool", "tool_call_id": "call_7", "content": "Rain"},
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_it_sees_reasoning_and_can_send_it_back(
    client: anthropic.Anthropic, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.enqueue(answering({"reasoning_content": "A city in France.", "content": "Paris."}))
    asked: Any = {
        **ASK,
        "model": "auto",
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    if streamed:
        with client.messages.stream(**asked) as stream:
            first: anthropic.types.Message = stream.get_final_message()
    else:
        first = client.messages.create(**asked)
    assert [block.type for block in first.content] == ["thinking", "text"]
    turn: Any = {"role": "assistant", "content": first.content}
    client.messages.create(
        **asked | {"messages": [*ASK["messages"], turn, {"role": "user", "content": "Sure?"}]}
    )
    assert cloud.requests[1].body["messages"][1] == {
        "role": "assistant",
        "reasoning_content": "A city in France.",
        "content": "Paris.",
    }
    assert cloud.requests[1].body["thinking"] == {"type": "enabled", "budget_tokens": 1024}


def test_it_parses_structured_output(client: anthropic.Anthropic, cloud: LoopbackCloud) -> None:
    cloud.enqueue(answering({"content": '{"name": "Paris", "people": 2100000}'}))
    message = client.messages.parse(model="auto", output_format=City, **ASK)
    assert message.parsed_output == City(name="Paris", people=2100000)
    form = cloud.requests[0].body["response_format"]
    assert form["json_schema"]["schema"]["required"] == ["name", "people"]


def test_it_counts_tokens(client: anthropic.Anthropic, cloud: LoopbackCloud) -> None:
    short = client.messages.count_tokens(model="auto", messages=ASK["messages"])
    long = client.messages.count_tokens(
        model="auto", messages=[{"role": "user", "content": EASY * 10}], tools=[WEATHER]
    )
    assert 0 < short.input_tokens < long.input_tokens
    assert cloud.requests == []


def test_it_lists_the_models(client: anthropic.Anthropic) -> None:
    assert {"auto", "auto/thrifty", CLOUD} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("auto/thrifty").display_name == "auto/thrifty"


def test_it_sees_errors_as_its_own(client: anthropic.Anthropic, cloud: LoopbackCloud) -> None:
    with pytest.raises(anthropic.NotFoundError, match="gpt-9"):
        client.messages.create(model="gpt-9", **ASK)
    with pytest.raises(anthropic.BadRequestError, match="temperature") as bad:
        client.messages.create(model="auto", extra_body={"temperature": 9}, **ASK)
    assert bad.value.body == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "Invalid value for 'temperature': expected between 0 and 2.",
        },
    }
    cloud.enqueue(lc.status(429, {"message": "slow down"}, retry_after="9"))
    with pytest.raises(anthropic.RateLimitError, match="slow down") as limited:
        client.messages.create(model="auto", **ASK)
    assert limited.value.response.headers["retry-after"] == "9"


def test_a_stream_that_breaks_is_an_error(client: anthropic.Anthropic, cloud: LoopbackCloud) -> None:
    cloud.enqueue(lc.cut(after=2))
    seen: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError, match=r"ended before|broke"),
        client.messages.create(model="auto", stream=True, **ASK) as stream,
    ):
        seen += [event.type for event in stream]
    assert "message_stop" not in seen


def test_its_key_is_taken(serve: Callable[[Gateway], Served], make_settings: MakeSettings) -> None:
    keys = (Key(key=SecretStr("k-one"), tenant="one"),)
    served = serve(Gateway(make_settings(local=False, server=ServerSettings(keys=keys))))
    with client_of(served, "k-one") as client:
        assert client.messages.create(model="auto", **ASK).stop_reason == "end_turn"
    with client_of(served, "k-two") as other, pytest.raises(anthropic.AuthenticationError):
        other.messages.create(model="auto", **ASK)


def _compact(call: dict[str, Any]) -> dict[str, Any]:
    return call | {"function": {"name": call["function"]["name"], "arguments": '{"city":"Paris"}'}}
