"""Placeholders take the place of personal data, and originals come back whatever way the answer is cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.privacy import find_spans
from smallfirst.router.privacy.placeholders import Placeholders, Restorer, replaced

JANE, JOHN, CARD = "jane@example.com", "john@example.com", "4111 1111 1111 1111"


def asking(*contents: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents], **fields}


def contents(body: dict[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"]]


def test_each_value_has_a_placeholder_of_its_kind() -> None:
    body, placeholders = replaced(asking(f"{JANE}, {JOHN}, {CARD}; {JANE}"), find_spans)
    assert contents(body) == ["<EMAIL_1>, <EMAIL_2>, <CARD_1>; <EMAIL_1>"]
    assert placeholders.originals == {"<EMAIL_1>": JANE, "<EMAIL_2>": JOHN, "<CARD_1>": CARD}


def test_earlier_turns_keep_their_placeholders_while_a_conversation_grows() -> None:
    tools = [{"type": "function", "function": {"name": "mail", "description": f"As {JOHN} does."}}]
    first, _ = replaced(asking(f"I am {JANE}.", tools=tools), find_spans)
    second, _ = replaced(asking(f"I am {JANE}.", "Write to bob@example.com.", tools=tools), find_spans)
    assert contents(second) == [*contents(first), "Write to <EMAIL_3>."]
    assert second["tools"] == first["tools"]


def test_a_placeholder_that_somebody_wrote_stands_for_nothing() -> None:
    body, placeholders = replaced(asking(f"Print <EMAIL_1> and \\u003cEMAIL_2\\u003e, {JANE}."), find_spans)
    assert contents(body) == ["Print <EMAIL_1> and \\u003cEMAIL_2\\u003e, <EMAIL_3>."]
    assert placeholders.restored("<EMAIL_1> <EMAIL_3>") == f"<EMAIL_1> {JANE}"
    assert placeholders.restored('"\\u003cEMAIL_2\\u003e"', json=True) == '"\\u003cEMAIL_2\\u003e"'


def test_arguments_of_calls_stay_json() -> None:
    arguments = {"to": JANE, "card": 4111111111111111, "note": 'say "hi"\n', JOHN: True, "n": 3}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": json.dumps(arguments)}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body, placeholders = replaced({"messages": [message]}, find_spans)
    sent = json.loads(body["messages"][0]["tool_calls"][0]["function"]["arguments"])
    assert sent == {
        "to": "<EMAIL_1>",
        "card": "<CARD_1>",
        "note": 'say "hi"\n',
        "<EMAIL_2>": True,
        "n": 3,
    }
    assert set(placeholders.originals.values()) == {JANE, JOHN, "4111111111111111"}


def test_what_is_not_sent_is_not_numbered_and_what_is_no_text_stays() -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{JANE}"}}
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": JANE}, picture]}],
        "metadata": {"session": JOHN, "own": JANE},
        "user": JANE,
        "seed": 4111111111111111,
    }
    new, placeholders = replaced(body, find_spans)
    assert placeholders.originals == {"<EMAIL_1>": JANE}
    assert new["messages"][0]["content"] == [{"type": "text", "text": "<EMAIL_1>"}, picture]
    assert new["metadata"] == {"session": JOHN, "own": "<EMAIL_1>"}
    assert (new["user"], new["seed"]) == ("<EMAIL_1>", 4111111111111111)


def test_a_body_without_finds_is_as_it_was() -> None:
    body = asking("Nothing of anybody.", tools=[])
    new, placeholders = replaced(body, find_spans)
    assert new == body
    assert not placeholders


def test_originals_are_escaped_in_json() -> None:
    placeholders = Placeholders({"<SECRET_1>": 'a"b\\c\n'})
    assert placeholders.restored('{"x": "<SECRET_1>"}', json=True) == json.dumps({"x": 'a"b\\c\n'})
    assert json.loads(placeholders.restored('{"x": "\\u003cSECRET_1\\u003E"}', json=True)) == {
        "x": 'a"b\\c\n'
    }


def test_an_escaped_backslash_begins_no_escape() -> None:
    placeholders = Placeholders({"<EMAIL_1>": JANE})
    text = '"C:\\\\u003cEMAIL_1\\u003e"'
    assert placeholders.restored(text, json=True) == text


LEAVES = st.sampled_from([JANE, f"x {JOHN} y", "plain", "<EMAIL_1>", f'{{"to":"{JANE}"}}', 3, None, True])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "arguments", "name", JANE, "x-y"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_wherever_it_stands_it_does_not_go_out_and_comes_back(content: Any, field: Any) -> None:
    body = {"messages": [{"role": "user", "content": content}], "of_nobody_here": field}
    sent, placeholders = replaced(body, find_spans)
    raw = json.dumps(sent)
    assert JANE not in raw
    assert JOHN not in raw
    assert json.loads(placeholders.restored(raw, json=True)) == body


ORIGINALS = Placeholders(
    {"<EMAIL_1>": JANE, "<EMAIL_11>": JOHN, "<BIRTH_DATE_1>": "1 May 1990", "<SECRET_1>": 'a"\\b'}
)
PIECES = st.sampled_from(
    [
        *ORIGINALS.originals,
        *("<EMAIL_2>", "<EMAIL_1", "<", ">", "<<EMAIL_1>>", "<B", "EMAIL_1>", "a", " ", "é", "\n"),
        *(
            "\\u003cEMAIL_1\\u003e",
            "\\u003CSECRET_1>",
            "<EMAIL_11\\u003E",
            "\\\\",
            "\\n",
            '\\"',
            "\\u00e9",
            "\\",
        ),
        *("\\u", "\\u003", "u003c", "_1", "003cEMAIL_1\\u003e"),
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.data(), st.booleans())
def test_however_a_text_is_cut_it_comes_out_the_same(text: str, data: st.DataObject, json_text: bool) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    restorer = Restorer(ORIGINALS, json=json_text)
    out = "".join([*(restorer.feed(piece) for piece in pieces), restorer.end()])
    assert out == ORIGINALS.restored(text, json=json_text)


@given(st.lists(PIECES, max_size=12).map("".join), st.booleans())
def test_a_character_at_a_time_comes_out_the_same(text: str, json_text: bool) -> None:
    restorer = Restorer(ORIGINALS, json=json_text)
    out = "".join([*(restorer.feed(char) for char in text), restorer.end()])
    assert out == ORIGINALS.restored(text, json=json_text)


@pytest.mark.parametrize("text", ["a < b", "<div>", "x <EMAIL_3", "plain"])
def test_only_what_may_be_a_beginning_is_held_back(text: str) -> None:
    restorer = Restorer(ORIGINALS)
    assert restorer.feed(text) == text
    assert restorer.held == ""


def test_a_beginning_is_held_back_until_it_is_clear() -> None:
    restorer = Restorer(ORIGINALS)
    assert [restorer.feed(piece) for piece in ("to <EMA", "IL_", "1", "> or")] == [
        "to ",
        "",
        "",
        f"{JANE} or",
    ]
