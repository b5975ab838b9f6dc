"""OpenAI's client for Node, from npm."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.clients import (
    ASK_CITY,
    ASK_WEATHER,
    EMBEDDER,
    GREETED,
    HOT_FIELD,
    NO_MODEL,
    PARIS,
    TOLD,
    Ask,
    Failed,
)
from fixtures.loopback_cloud import LoopbackCloud

CLIENT, PACKAGE = "openai (Node)", ""
PROGRAM = Path(__file__).parent / "openai_node.mjs"
pytestmark = pytest.mark.clients


@pytest.fixture
def node(node_folder: Path, asking: Callable[..., Ask]) -> Ask:
    shutil.copy(PROGRAM, node_folder)
    return asking("node", PROGRAM.name, folder=node_folder)


def test_plain_text_comes_from_chat_and_responses(node: Ask) -> None:
    assert node("plain") == [GREETED, GREETED]


@pytest.mark.parametrize("what", ["streamed", "streamed_response"])
def test_streamed_text(node: Ask, what: str) -> None:
    pieces = node(what)
    assert len(pieces) > 2
    assert "".join(pieces) == GREETED


def test_tools_results_are_answered(node: Ask) -> None:
    assert node("tools", ASK_WEATHER) == TOLD


def test_structured_output_is_parsed(node: Ask) -> None:
    assert node("structured", ASK_CITY) == PARIS.model_dump()


def test_errors_of_unknown_models_are_the_clients_own(node: Ask) -> None:
    failed: Failed = node("plain", model=NO_MODEL)
    assert (failed.types[0], failed.status) == ("NotFoundError", 404)
    assert NO_MODEL in failed.message


def test_errors_name_the_field(node: Ask) -> None:
    failed: Failed = node("hot")
    assert (failed.types[0], failed.status) == ("BadRequestError", 400)
    assert HOT_FIELD in failed.message


@pytest.mark.parametrize("what", ["streamed", "streamed_response"])
def test_errors_of_broken_streams_are_raised(node: Ask, broken_stream: LoopbackCloud, what: str) -> None:
    failed: Failed = node(what)
    assert "APIError" in failed.types
    assert "broke" in failed.message


def test_embeddings_are_vectors(node: Ask) -> None:
    assert node("embeddings", model=EMBEDDER) == [576, 576]
