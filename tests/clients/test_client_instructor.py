"""instructor, run by an environment of its own: it needs an `openai` before 3."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.clients import ASK_CITY, GREETED, HOT_FIELD, NO_MODEL, PARIS, Ask, Failed, elsewhere
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.sensible_cloud import calling

CLIENT, PACKAGE = "instructor", ""
pytestmark = pytest.mark.clients
OLDER = Path(__file__).parent / "older"


@pytest.fixture
def ask(asking: Callable[..., Ask]) -> Ask:
    return asking(elsewhere("openai2"), "instructor_program.py", folder=OLDER)


def test_plain_text(ask: Ask) -> None:
    assert ask("plain") == GREETED


def test_streamed_fields(ask: Ask) -> None:
    pieces = ask("streamed", ASK_CITY)
    assert len(pieces) > 1
    assert pieces[-1] == PARIS.model_dump()


def test_tools_calls_that_do_not_fit_are_mended(ask: Ask, cloud: LoopbackCloud) -> None:
    cloud.enqueue(calling("City", name="Paris", people=0))
    assert ask("tools", ASK_CITY) == PARIS.model_dump()
    said = cloud.requests[1].body["messages"][-1]
    assert said["role"] == "tool"
    assert "greater than or equal to 1000" in str(said)


def test_structured_output_is_parsed(ask: Ask, cloud: LoopbackCloud) -> None:
    assert ask("structured", ASK_CITY) == PARIS.model_dump()
    assert cloud.requests[0].body["response_format"]["type"] == "json_schema"


def test_errors_of_unknown_models_are_the_clients_own(ask: Ask) -> None:
    failed: Failed = ask("tools", ASK_CITY, model=NO_MODEL)
    assert "InstructorRetryException" in failed.types
    assert NO_MODEL in failed.message


def test_errors_name_the_field(ask: Ask) -> None:
    failed: Failed = ask("hot")
    assert "InstructorRetryException" in failed.types
    assert HOT_FIELD in failed.message


def test_errors_of_broken_streams_are_raised(ask: Ask, broken_stream: LoopbackCloud) -> None:
    failed: Failed = ask("streamed", ASK_CITY)
    assert "InstructorRetryException" in failed.types
    assert "broke" in failed.message
