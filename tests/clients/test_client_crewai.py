"""CrewAI, run by an environment of its own: it needs an `openai` before 3, and an older instructor."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.clients import (
    ASK_CITY,
    ASK_WEATHER,
    GREETED,
    HOT_FIELD,
    NO_MODEL,
    PARIS,
    TOLD,
    Ask,
    Failed,
    elsewhere,
)
from fixtures.loopback_cloud import LoopbackCloud

CLIENT, PACKAGE = "crewai", ""
pytestmark = pytest.mark.clients
OLDER = Path(__file__).parent / "older"


@pytest.fixture
def ask(asking: Callable[..., Ask], tmp_path: Path) -> Ask:
    return asking(elsewhere("crewai"), "crewai_program.py", folder=OLDER, HOME=str(tmp_path))


def test_plain_text(ask: Ask) -> None:
    assert ask("plain") == GREETED


def test_streamed_text(ask: Ask) -> None:
    pieces = ask("streamed")
    assert len(pieces) > 2
    assert "".join(pieces) == GREETED


def test_tools_are_called_and_their_results_answered(ask: Ask) -> None:
    assert ask("tools", ASK_WEATHER) == TOLD


def test_structured_output_is_parsed(ask: Ask) -> None:
    assert ask("structured", ASK_CITY) == PARIS.model_dump()


def test_errors_of_unknown_models_are_the_clients_own(ask: Ask) -> None:
    failed: Failed = ask("plain", model=NO_MODEL)
    assert "ValueError" in failed.types
    assert NO_MODEL in failed.message


def test_errors_name_the_field(ask: Ask) -> None:
    failed: Failed = ask("hot")
    assert "BadRequestError" in failed.types
    assert HOT_FIELD in failed.message


def test_errors_of_broken_streams_are_raised(ask: Ask, broken_stream: LoopbackCloud) -> None:
    failed: Failed = ask("streamed")
    assert "APIError" in failed.types
    assert "broke" in failed.message
