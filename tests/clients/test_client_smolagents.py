"""smolagents, with its model for OpenAI-compatible servers."""

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
    TOO_HOT,
    City,
)
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.sensible_cloud import calling
from fixtures.serving import CLOUD
from smolagents import ChatMessage, OpenAIModel, ToolCallingAgent, tool

CLIENT, PACKAGE = "smolagents", "smolagents"
pytestmark = pytest.mark.clients


def weather(city: str) -> str:
    """Says how the weather is.

    Args:
        city: The city's name.
    """
    return f"sunny in {city}"


def asked(text: str) -> Any:
    return [ChatMessage(role="user", content=text)]


@pytest.fixture
def make(gateway_url: str) -> Any:
    return lambda name=CLOUD: OpenAIModel(
        model_id=name, api_base=gateway_url, api_key=KEY, retry=False, client_kwargs={"max_retries": 0}
    )


def test_plain_text(make: Any) -> None:
    assert make().generate(asked(GREETING)).content == GREETED


def test_streamed_text(make: Any) -> None:
    pieces = [delta.content or "" for delta in make().generate_stream(asked(GREETING))]
    assert len(pieces) > 2
    assert "".join(pieces) == GREETED


def test_tools_are_called_until_the_agent_has_its_answer(make: Any, cloud: LoopbackCloud) -> None:
    cloud.enqueue(calling("weather", city="Paris"), calling("final_answer", answer="It is sunny."))
    agent = ToolCallingAgent(tools=[tool(weather)], model=make(), verbosity_level=0)
    assert agent.run(ASK_WEATHER) == "It is sunny."
    assert "sunny in Paris" in str(cloud.requests[1].body["messages"])


def test_structured_output_fits_the_schema(make: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": City.model_json_schema()}}
    reply = make().generate(asked(ASK_CITY), response_format=form)
    assert City.model_validate_json(reply.content) == PARIS


def test_errors_of_unknown_models_are_the_clients_own(make: Any) -> None:
    with pytest.raises(openai.NotFoundError, match=NO_MODEL):
        make(NO_MODEL).generate(asked(GREETING))


def test_errors_name_the_field(make: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        make().generate(asked(GREETING), temperature=TOO_HOT)
    assert caught.value.param == HOT_FIELD


def test_errors_of_broken_streams_are_raised(make: Any, broken_stream: LoopbackCloud) -> None:
    with pytest.raises(openai.APIError, match="broke"):
        list(make().generate_stream(asked(GREETING)))
