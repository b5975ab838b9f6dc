"""The matrix of clients is made of test results."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "make_clients.py"


@pytest.fixture(scope="module")
def make_clients() -> Any:
    spec = importlib.util.spec_from_file_location("make_clients", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case(name: str, inside: str = "") -> str:
    own = '<properties><property name="client" value="a"/><property name="version" value="1.2"/></properties>'
    return f'<testcase name="{name}">{own}{inside}</testcase>'


def test_a_cell_says_what_its_tests_said(make_clients: Any) -> None:
    cases = [
        case("test_plain_text"),
        case("test_plain_text[other]", "<failure/>"),
        case("test_streamed_text"),
        case("test_tools_are_called", "<skipped/>"),
        '<testcase name="test_of_something_else"/>',
    ]
    table = make_clients.matrix(f"<testsuites>{''.join(cases)}</testsuites>")
    assert table.splitlines()[2:] == ["| a | 1.2 | no | yes | skipped | - | - | - |"]


def test_the_table_of_errors_tells_their_kinds_apart(make_clients: Any) -> None:
    cases = [case("test_errors_of_unknown_models_are_clear"), case("test_errors_name_the_field", "<error/>")]
    table = make_clients.matrix(f"<testsuites>{''.join(cases)}</testsuites>", make_clients.ERRORS)
    assert table.splitlines()[0] == "| client | version | unknown model | bad field | broken stream |"
    assert table.splitlines()[2:] == ["| a | 1.2 | yes | no | - |"]


@pytest.mark.parametrize(
    "path",
    sorted((SCRIPT.parent.parent / "tests" / "clients").glob("test_client_*.py")),
    ids=lambda path: path.stem,
)
def test_every_test_of_a_client_is_in_a_column(make_clients: Any, path: Path) -> None:
    names = re.findall(r"^(?:async )?def test_(\w+)", path.read_text(), re.MULTILINE)
    aspects = [start for start in make_clients.ASPECTS.values() if start != "errors"]
    starts = (*aspects, *make_clients.ERRORS.values())
    assert [name for name in names if not name.startswith(starts)] == []
    # All of the other columns but embeddings, which not every client has.
    assert {start for start in starts if not any(name.startswith(start) for name in names)} <= {"embeddings"}


def test_a_report_without_clients_is_refused(make_clients: Any) -> None:
    with pytest.raises(ValueError, match="no test of a client"):
        make_clients.matrix("<testsuites/>")


def test_only_what_is_between_the_marks_is_replaced(make_clients: Any) -> None:
    before = f"a\n{make_clients.START}\nold\n{make_clients.END}\nb"
    after = make_clients.written(before, "new")
    assert after == f"a\n{make_clients.START}\nnew\n{make_clients.END}\nb"
    with pytest.raises(ValueError, match="there is no"):
        make_clients.written("a", "new")
