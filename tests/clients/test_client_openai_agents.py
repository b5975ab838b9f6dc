"""OpenAI's Agents SDK, over chat completions and over responses."""

import importlib
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

# By name: type checkers take `agents` for this repository's own folder.
agents: Any = importlib.import_module("agents")
CLIENT, PACKAGE = "openai-agents", "openai-agents"

if not hasattr(agents, "OpenAIChatCompletionsModel"):
    why = "found the folder `agents` of this repository: run `pytest`, not `python -m pytest`"
    pytest.skip(why, allow_module_level=True)


@pytest.fixture(params=["chat", "responses"])
async def make_agent(request: pytest.FixtureRequest, gateway_url: str) -> AsyncIterator[Any]:
    wire = {"chat": agents.OpenAIChatCompletionsModel, "responses": agents.OpenAIResponsesModel}[
        request.param
    ]
    agents.set_tracing_disabled(True)
    async with openai.AsyncOpenAI(base_url=gateway_url, api_key=KEY, max_retries=0) as client:

        def make(model: str = CLOUD, **fields: Any) -> Any:
            return agents.Agent(name="helper", model=wire(model=model, openai_client=client), **fields)

        yield make


async def test_plain_text(make_agent: Any) -> None:
    assert (await agents.Runner.run(make_agent(), GREETING)).final_output == GREETED


async def test_streamed_text(make_agent: Any) -> None:
    run = agents.Runner.run_streamed(make_agent(), GREETING)
    data = [event.data async for event in run.stream_events() if event.type == "raw_response_event"]
    pieces = [one.delta for one in data if one.type == "response.output_text.delta"]
    assert len(pieces) > 2
    assert "".join(pieces) == run.final_output == GREETED


async def test_tools_are_called_and_their_results_answered(make_agent: Any) -> None:
    agent = make_agent(tools=[agents.function_tool(weather)])
    assert (await agents.Runner.run(agent, ASK_WEATHER)).final_output == TOLD


async def test_structured_output_is_parsed(make_agent: Any) -> None:
    assert (await agents.Runner.run(make_agent(output_type=City), ASK_CITY)).final_output == PARIS


async def test_errors_of_unknown_models_are_the_clients_own(make_agent: Any) -> None:
    with pytest.raises(openai.NotFoundError, match=NO_MODEL):
        await agents.Runner.run(make_agent(NO_MODEL), GREETING)


async def test_errors_name_the_field(make_agent: Any) -> None:
    agent = make_agent(model_settings=agents.ModelSettings(temperature=TOO_HOT))
    with pytest.raises(openai.BadRequestError) as caught:
        await agents.Runner.run(agent, GREETING)
    assert caught.value.param == HOT_FIELD


async def test_errors_of_broken_streams_are_raised(make_agent: Any, broken_stream: LoopbackCloud) -> None:
    run = agents.Runner.run_streamed(make_agent(), GREETING)
    # Chat completions raise the openai client's error, responses the SDK's own.
    with pytest.raises((openai.APIError, agents.ModelBehaviorError), match="broke"):
        [event async for event in run.stream_events()]
