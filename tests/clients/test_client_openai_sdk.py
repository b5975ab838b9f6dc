"""OpenAI's Python client: chat completions, and responses where they differ."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fixtures.clients import (
    ASK_CITY,
    ASK_WEATHER,
    EMBEDDER,
    GREETED,
    GREETING,
    HOT_FIELD,
    KEY,
    NO_MODEL,
    PARIS,
    TOLD,
    TOO_HOT,
    City,
)
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD

CLIENT, PACKAGE = "openai (Python)", "openai"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


def asked(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture
def client(gateway_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway_url, api_key=KEY, max_retries=0) as made:
        yield made


def test_plain_text_comes_from_chat_and_responses(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model=CLOUD, messages=asked(GREETING))
    response = client.responses.create(model=CLOUD, input=GREETING)
    assert chat.choices[0].message.content == response.output_text == GREETED


def test_streamed_text_comes_from_chat_and_responses(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(model=CLOUD, messages=asked(GREETING), stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    with client.responses.stream(model=CLOUD, input=GREETING) as stream:
        events = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert len(pieces) > 2
    assert "".join(pieces) == "".join(events) == GREETED


def test_tools_results_are_answered(client: openai.OpenAI) -> None:
    messages = asked(ASK_WEATHER)
    call = client.chat.completions.create(model=CLOUD, messages=messages, tools=[TOOL]).choices[0].message
    assert call.tool_calls is not None
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "sunny in Paris"}
    messages += [call.model_dump(exclude_none=True), result]
    reply = client.chat.completions.create(model=CLOUD, messages=messages, tools=[TOOL])
    assert reply.choices[0].message.content == TOLD


def test_structured_output_is_parsed_from_chat_and_responses(client: openai.OpenAI) -> None:
    chat = client.chat.completions.parse(model=CLOUD, messages=asked(ASK_CITY), response_format=City)
    response = client.responses.parse(model=CLOUD, input=ASK_CITY, text_format=City)
    assert chat.choices[0].message.parsed == response.output_parsed == PARIS


def test_errors_of_unknown_models_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=NO_MODEL):
        client.chat.completions.create(model=NO_MODEL, messages=asked(GREETING))
    with pytest.raises(openai.NotFoundError, match=NO_MODEL):
        client.responses.create(model=NO_MODEL, input=GREETING)


def test_errors_name_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as chat:
        client.chat.completions.create(model=CLOUD, messages=asked(GREETING), temperature=TOO_HOT)
    with pytest.raises(openai.BadRequestError) as response:
        client.responses.create(model=CLOUD, input=GREETING, temperature=TOO_HOT)
    assert chat.value.param == response.value.param == HOT_FIELD


def test_errors_of_broken_streams_of_chat_are_raised(
    client: openai.OpenAI, broken_stream: LoopbackCloud
) -> None:
    with pytest.raises(openai.APIError, match="broke"):
        list(client.chat.completions.create(model=CLOUD, messages=asked(GREETING), stream=True))


def test_errors_of_broken_streams_of_responses_are_raised(
    client: openai.OpenAI, broken_stream: LoopbackCloud
) -> None:
    with (
        pytest.raises(openai.APIError, match="broke"),
        client.responses.stream(model=CLOUD, input=GREETING) as stream,
    ):
        list(stream)


def test_embeddings_are_vectors(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model=EMBEDDER, input=["one", "two"])
    assert [len(one.embedding) for one in reply.data] == [576, 576]
