"""Pydantic AI, with its model for OpenAI's chat completions."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from fixtures.clients import (
    ASK_CITY,
    ASK_WEATHER,
    GREETED,
    GREETING,
    HOT_FIELD,
    KEY,
    NO_MODEL,
    PARIS,
    TOLD,
    TOO_HOT,
    City,
    weather,
)
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD
from pydantic_ai import Agent, ModelAPIError, ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

CLIENT, PACKAGE = "pydantic-ai", "pydantic-ai-slim"
pytestmark = pytest.mark.clients


@pytest.fixture
async def make_agent(gateway_url: str) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=gateway_url, api_key=KEY, max_retries=0) as client:
        provider = OpenAIProvider(openai_client=client)
        yield lambda name=CLOUD, **fields: Agent(OpenAIChatModel(name, provider=provider), **fields)


async def test_plain_text(make_agent: Any) -> None:
    assert (await make_agent().run(GREETING)).output == GREETED


async def test_streamed_text(make_agent: Any) -> None:
    async with make_agent().run_stream(GREETING) as run:
        pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 2
    assert "".join(pieces) == GREETED


async def test_tools_are_called_and_their_results_answered(make_agent: Any) -> None:
    assert (await make_agent(tools=[weather]).run(ASK_WEATHER)).output == TOLD


async def test_structured_output_is_parsed(make_agent: Any) -> None:
    assert (await make_agent(output_type=City).run(ASK_CITY)).output == PARIS


async def test_errors_of_unknown_models_are_the_clients_own(make_agent: Any) -> None:
    with pytest.raises(ModelHTTPError, match=NO_MODEL) as caught:
        await make_agent(NO_MODEL).run(GREETING)
    assert caught.value.status_code == 404


async def test_errors_name_the_field(make_agent: Any) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await make_agent().run(GREETING, model_settings={"temperature": TOO_HOT})
    body: Any = caught.value.body
    assert (caught.value.status_code, body["param"]) == (400, HOT_FIELD)


async def test_errors_of_broken_streams_are_raised(make_agent: Any, broken_stream: LoopbackCloud) -> None:
    with pytest.raises(ModelAPIError, match="broke"):
        async with make_agent().run_stream(GREETING) as run:
            [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
