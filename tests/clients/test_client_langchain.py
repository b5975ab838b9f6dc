"""LangChain: this project's chat model, and OpenAI's, both over a running gateway."""

from collections.abc import Callable, Iterator
from typing import Any

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
from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

from smallfirst.agents import ChatSmallFirst, SmallFirstEmbeddings
from smallfirst.router.errors import RequestError, StreamBroken

CLIENT, PACKAGE = "langchain (ChatSmallFirst)", "langchain"
Make = Callable[[str], BaseChatModel]


@pytest.fixture
def make(gateway_url: str) -> Iterator[Make]:
    made: list[ChatSmallFirst] = []

    def model(name: str) -> BaseChatModel:
        made.append(ChatSmallFirst(model=name, base_url=gateway_url, api_key=SecretStr(KEY)))
        return made[-1]

    yield model
    for one in made:
        one.close()


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
    with pytest.raises(RequestError, match=NO_MODEL) as caught:
        make(NO_MODEL).invoke(GREETING)
    assert caught.value.status == 404


def test_errors_name_the_field(make: Make) -> None:
    with pytest.raises(RequestError) as caught:
        make(CLOUD).invoke(GREETING, temperature=TOO_HOT)
    assert (caught.value.status, caught.value.param) == (400, HOT_FIELD)


def test_errors_of_broken_streams_are_raised(make: Make, broken_stream: LoopbackCloud) -> None:
    with pytest.raises(StreamBroken, match="broke"):
        list(make(CLOUD).stream(GREETING))


def test_embeddings_are_vectors(gateway_url: str) -> None:
    with SmallFirstEmbeddings(model=EMBEDDER, base_url=gateway_url, api_key=SecretStr(KEY)) as embeddings:
        assert len(embeddings.embed_query("one")) == 576
