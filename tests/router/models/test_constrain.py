"""Tool calls read back out of text, wherever tokens cut it."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.models.local.calls import CALL_CLOSE, CALL_OPEN, CallReader

CALLS = [("f", {"x": f"a {CALL_CLOSE} b"}), ("g", {"y": [1, CALL_OPEN]})]
TEXT = "\n".join(
    f"{CALL_OPEN}\n{json.dumps({'name': name, 'arguments': arguments})}{CALL_CLOSE}"
    for name, arguments in CALLS
)


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_calls_are_found_wherever_the_text_is_cut(cuts: list[int]) -> None:
    reader = CallReader()
    bounds = sorted({0, *cuts, len(TEXT)})
    found = [call for a, b in pairwise(bounds) for call in reader.feed(TEXT[a:b])]
    assert [(call.name, json.loads(call.arguments)) for call in found] == CALLS


@pytest.mark.parametrize(
    ("text", "calling"), [("<tool_", None), ("<table>", False), ("Hi", False), (CALL_OPEN, True)]
)
def test_it_knows_calls_from_words(text: str, calling: bool | None) -> None:
    reader = CallReader()
    reader.feed(text)
    assert reader.calling is calling
