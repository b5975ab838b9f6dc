"""DSPy: modules and adapters on its own client of language models."""

import asyncio
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMError, LMInvalidRequestError, LMUnsupportedModelError
from fixtures.clients import (
    ASK_CITY,
    ASK_WEATHER,
    EMBEDDER,
    GREETING,
    HOT_FIELD,
    KEY,
    NO_MODEL,
    PARIS,
    TOO_HOT,
    weather,
)
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.sensible_cloud import saying
from fixtures.serving import CLOUD

CLIENT, PACKAGE = "DSPy", "dspy"
pytestmark = pytest.mark.clients
ANSWER = "[[ ## answer ## ]]\nIt is sunny in Paris today.\n\n[[ ## completed ## ]]"


def step(tool: str, arguments: str) -> str:
    fields = {"next_thought": "So.", "next_tool_name": tool, "next_tool_args": arguments}
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items())


@pytest.fixture
def url(gateway_url: str) -> str:
    return gateway_url


def lm(url: str, name: str = CLOUD) -> Any:
    return dspy.LM(f"openai/{name}", api_base=url, api_key=KEY, cache=False, num_retries=0)


@pytest.fixture
def set_up(url: str) -> Iterator[None]:
    with dspy.context(lm=lm(url), adapter=dspy.ChatAdapter()):
        yield


def test_plain_text(url: str) -> None:
    assert "Hello" in str(lm(url)(GREETING)[0])


def test_streamed_fields(set_up: None, cloud: LoopbackCloud) -> None:
    cloud.enqueue(saying(ANSWER))
    program = dspy.streamify(
        dspy.Predict("question -> answer"),
        stream_listeners=[dspy.streaming.StreamListener(signature_field_name="answer")],
    )

    async def pieces() -> list[Any]:
        return [piece async for piece in program(question=ASK_WEATHER)]

    *chunks, last = asyncio.run(pieces())
    assert len(chunks) > 1
    assert last.answer == "It is sunny in Paris today."
    assert cloud.requests[0].body["stream"] is True


def test_tools_are_called_and_their_results_answered(set_up: None, cloud: LoopbackCloud) -> None:
    cloud.enqueue(
        saying(step("weather", '{"city": "Paris"}')),
        saying(step("finish", "{}")),
        saying("[[ ## reasoning ## ]]\nSo.\n\n" + ANSWER),
    )
    agent = dspy.ReAct("question -> answer", tools=[weather])
    assert agent(question=ASK_WEATHER).answer == "It is sunny in Paris today."
    assert "sunny in Paris" in str(cloud.requests[1].body["messages"])


def test_structured_output_is_parsed(url: str, cloud: LoopbackCloud) -> None:
    cloud.enqueue(saying(PARIS.model_dump_json()))
    with dspy.context(lm=lm(url), adapter=dspy.JSONAdapter()):
        found = dspy.Predict("question -> name: str, people: int")(question=ASK_CITY)
    assert (found.name, found.people) == (PARIS.name, PARIS.people)
    assert "response_format" in cloud.requests[0].body


def test_errors_of_unknown_models_are_the_clients_own(url: str) -> None:
    with pytest.raises(LMUnsupportedModelError, match=NO_MODEL):
        lm(url, NO_MODEL)(GREETING)


def test_errors_name_the_field(url: str) -> None:
    with pytest.raises(LMInvalidRequestError, match=HOT_FIELD):
        lm(url)(GREETING, temperature=TOO_HOT)


def test_errors_of_broken_streams_are_raised(set_up: None, broken_stream: LoopbackCloud) -> None:
    program = dspy.streamify(dspy.Predict("question -> answer"))

    async def pieces() -> list[Any]:
        return [piece async for piece in program(question=ASK_WEATHER)]

    with pytest.raises(LMError, match="broke"):
        asyncio.run(pieces())


def test_embeddings_are_vectors(url: str) -> None:
    embed = dspy.Embedder(f"openai/{EMBEDDER}", api_base=url, api_key=KEY, caching=False)
    assert embed(["one", "two"]).shape == (2, 576)
