"""Parts of an answer, read from chunks one after the other."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from smallfirst.router.errors import StreamBroken
from smallfirst.router.wires.parts import PartReader, Step


def call(at: int | None, arguments: str = "", **fields: Any) -> dict[str, Any]:
    index = {} if at is None else {"index": at}
    name = {"name": fields.pop("name")} if "name" in fields else {}
    return {"tool_calls": [{**index, **fields, "function": {**name, "arguments": arguments}}]}


def read(*deltas: dict[str, Any], finish: str | None = "stop") -> list[Step]:
    reader = PartReader()
    steps = []
    for delta in deltas:
        steps += reader.feed(json.dumps({"choices": [{"delta": delta}]}).encode())
    steps += reader.feed(json.dumps({"choices": [{"delta": {}, "finish_reason": finish}]}).encode())
    return steps + reader.finish()


def said(steps: Sequence[Step]) -> list[tuple[str, str, str]]:
    """Return the parts that were closed, and check that each was opened, grew and was closed on its own."""
    current = None
    closed: list[tuple[str, str, str]] = []
    for step in steps:
        if step.does == "open":
            assert current is None
            current = step.part
        assert step.part is current
        if step.does == "close":
            closed.append((step.part.kind, step.part.name, step.part.text))
            current = None
    assert current is None
    return closed


def test_parts_come_one_after_the_other() -> None:
    steps = read(
        {"reasoning_content": "H"}, {"reasoning": "m"}, {"content": "Yes"}, call(0, "{}", id="a", name="f")
    )
    assert said(steps) == [("reasoning", "", "Hm"), ("text", "", "Yes"), ("call", "f", "{}")]


def test_text_after_a_call_is_a_part_of_its_own() -> None:
    steps = read({"content": "A"}, call(0, "{}", id="a", name="f"), {"content": "B"})
    assert said(steps) == [("text", "", "A"), ("call", "f", "{}"), ("text", "", "B")]


def test_calls_that_are_written_at_once_are_taken_apart() -> None:
    steps = read(
        call(0, "", id="a", name="f"),
        call(1, "", id="b", name="g"),
        call(0, '{"x":'),
        {"content": "Hm"},
        call(1, '{"y":'),
        call(0, "1}"),
        call(1, "2}"),
    )
    assert said(steps) == [("call", "f", '{"x":1}'), ("call", "g", '{"y":2}'), ("text", "", "Hm")]


def test_calls_without_an_index_begin_with_a_new_id() -> None:
    steps = read(
        call(None, '{"x":', id="a", name="f"), call(None, "1}", id="a"), call(None, "{}", id="b", name="g")
    )
    assert said(steps) == [("call", "f", '{"x":1}'), ("call", "g", "{}")]


def test_a_call_that_goes_on_after_its_end_is_an_error() -> None:
    with pytest.raises(StreamBroken):
        read(call(0, "{}", id="a", name="f"), {"content": "B"}, call(0, ', "x"'))


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"choices": [{"delta": {"content": 3}}]}', b"\xff"])
def test_what_is_no_chunk_is_an_error(raw: bytes) -> None:
    with pytest.raises(StreamBroken):
        PartReader().feed(raw)


def test_an_answer_without_a_reason_to_end_is_an_error() -> None:
    with pytest.raises(StreamBroken):
        read({"content": "Hi"}, finish=None)


def test_only_the_first_choice_is_read() -> None:
    reader = PartReader()
    both = [{"index": 0, "delta": {"content": "A"}}, {"index": 1, "delta": {"content": "B"}}]
    reader.feed(json.dumps({"choices": both}).encode())
    assert [part.text for part in reader.parts] == ["A"]
