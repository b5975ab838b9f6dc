"""The matrix of clients is made of test results."""

import importlib.util
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


def test_a_report_without_clients_is_refused(make_clients: Any) -> None:
    with pytest.raises(ValueError, match="no test of a client"):
        make_clients.matrix("<testsuites/>")


def test_only_what_is_between_the_marks_is_replaced(make_clients: Any) -> None:
    before = f"a\n{make_clients.START}\nold\n{make_clients.END}\nb"
    after = make_clients.written(before, "new")
    assert after == f"a\n{make_clients.START}\nnew\n{make_clients.END}\nb"
    with pytest.raises(ValueError, match="there is no"):
        make_clients.written("a", "new")
