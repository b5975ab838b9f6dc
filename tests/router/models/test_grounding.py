"""Optional arguments stay where the conversation speaks of them."""

from typing import Any

import pytest

from smallfirst.router.models.local.grounding import Grounds

ASKED = Grounds("Show me three detailed reports on São Paulo for 2023, at most 2.5 km away, sorted by price.")


@pytest.mark.parametrize(
    "value", ["Sao", "PARIS", "", 4, 2.6, None, [], ["London"], {"a": 9}, "price of gold", 20, "2023-04-01"]
)
def test_what_nobody_spoke_of_is_dropped(value: Any) -> None:
    assert ASKED.kept({"x": value}, {}) == {}


@pytest.mark.parametrize(
    "value", ["são paulo", "Price", "three", "3", 3, 2023, 2.5, ["London", "price"], {"year": 2023}]
)
def test_what_was_spoken_of_stays(value: Any) -> None:
    assert ASKED.kept({"x": value}, {}) == {"x": value}


def test_what_is_required_stays_whatever_it_is() -> None:
    assert ASKED.kept({"x": "Oslo", "y": "Oslo"}, {"required": ["x"]}) == {"x": "Oslo"}


@pytest.mark.parametrize(("name", "kept"), [("detailed_report", True), ("include_taxes", False)])
def test_a_boolean_stays_where_its_name_was_spoken_of(name: str, kept: bool) -> None:
    assert (name in ASKED.kept({name: True}, {})) is kept
