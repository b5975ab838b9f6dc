"""Anthropic's Python client."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from fixtures.clients import (
    ASK_CITY,
    ASK_WEATHER,
    GREETED,
    GREETING,
    KEY,
    NO_MODEL,
    PARIS,
    TOLD,
    City,
)
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD

CLIENT, PACKAGE = "anthropic", "anthropic"
pytestmark = pytest.mark.clients
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"name": "weather", "input_schema": SCHEMA}


def asked(text: str) -> Any:
    return {"max_tokens": 200, "messages": [{"role": "user", "content": text}]}


@pytest.fixture
def client(gateway_url: str) -> Iterator[anthropic.Anthropic]:
    url = gateway_url.removesuffix("/v1")
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0) as made:
        yield made


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_plain_text(client: anthropic.Anthropic) -> None:
    assert text_of(client.messages.create(model=CLOUD, **asked(GREETING))) == GREETED


def test_streamed_text(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model=CLOUD, **asked(GREETING)) as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 2
    assert "".join(pieces) == GREETED


def test_tools_results_are_answered(client: anthropic.Anthropic) -> None:
    ask = asked(ASK_WEATHER)
    call = client.messages.create(model=CLOUD, tools=[TOOL], **ask)
    assert call.stop_reason == "tool_use"
    [use] = [block for block in call.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny in Paris"}
    ask["messages"] += [{"role": "assistant", "content": call.content}, {"role": "user", "content": [result]}]
    assert text_of(client.messages.create(model=CLOUD, tools=[TOOL], **ask)) == TOLD


def test_structured_output_is_parsed(client: anthropic.Anthropic) -> None:
    assert client.messages.parse(model=CLOUD, output_format=City, **asked(ASK_CITY)).parsed_output == PARIS


def test_errors_of_unknown_models_are_the_clients_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match=NO_MODEL):
        client.messages.create(model=NO_MODEL, **asked(GREETING))


def test_errors_name_the_field(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(model=CLOUD, **{**asked(GREETING), "max_tokens": 0})


def test_errors_of_broken_streams_are_raised(
    client: anthropic.Anthropic, broken_stream: LoopbackCloud
) -> None:
    with (
        pytest.raises(anthropic.APIError, match="broke"),
        client.messages.stream(model=CLOUD, **asked(GREETING)) as stream,
    ):
        list(stream)
