"""LangChain's chat model for OpenAI, pointed at a running gateway."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
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
    weather,
)
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr

CLIENT, PACKAGE = "langchain (ChatOpenAI)", "langchain-openai"
Make = Callable[[str], ChatOpenAI]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


@pytest.fixture
def make(gateway_url: str, http: httpx.Client) -> Make:
    return lambda name: ChatOpenAI(
        model=name, base_url=gateway_url, api_key=SecretStr(KEY), max_retries=0, http_client=http
    )


def test_plain_text(make: Make) -> None:
    assert make(CLOUD).invoke(GREETING).text == GREETED


def test_streamed_text(make: Make) -> None:
    pieces = [chunk.text for chunk in make(CLOUD).stream(GREETING)]
    assert len(pieces) > 2
    assert "".join(pieces) == GREETED


def test_tools_are_called_and_their_results_answered(make: Make) -> None:
    agent: Any = create_agent(make(CLOUD), [weather])
    assert agent.invoke({"messages": [("user", ASK_WEATHER)]})["messages"][-1].text == TOLD


def test_structured_output_is_parsed(make: Make) -> None:
    assert make(CLOUD).with_structured_output(City).invoke(ASK_CITY) == PARIS


def test_errors_of_unknown_models_are_the_clients_own(make: Make) -> None:
    with pytest.raises(openai.NotFoundError, match=NO_MODEL):
        make(NO_MODEL).invoke(GREETING)


def test_errors_name_the_field(make: Make) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        make(CLOUD).invoke(GREETING, temperature=TOO_HOT)
    assert caught.value.param == HOT_FIELD


def test_errors_of_broken_streams_are_raised(make: Make, broken_stream: LoopbackCloud) -> None:
    with pytest.raises(openai.APIError, match="broke"):
        list(make(CLOUD).stream(GREETING))


def test_embeddings_are_vectors(gateway_url: str, http: httpx.Client) -> None:
    # Without its own tokenizer, which is OpenAI's and would be fetched: texts go as they are.
    embeddings = OpenAIEmbeddings(
        model=EMBEDDER,
        base_url=gateway_url,
        api_key=SecretStr(KEY),
        http_client=http,
        check_embedding_ctx_length=False,
    )
    assert len(embeddings.embed_query("one")) == 576
