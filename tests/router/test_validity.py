"""Answers that are of no use: JSON and calls that are cut off, broken or not by their schema."""

import json
import subprocess
import sys
from typing import Any

import pytest

from smallfirst.router.validity import flaw
from smallfirst.router.wire import ChatFields, ChatRequest

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def fields(**body: Any) -> ChatFields:
    return ChatRequest.of("Where?", body, stream=False).fields


def as_schema(schema: dict[str, Any]) -> ChatFields:
    return fields(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def with_tool(choice: Any = "auto", parameters: dict[str, Any] | None = None) -> ChatFields:
    function = {"name": "find"} | ({"parameters": parameters} if parameters else {})
    return fields(tools=[{"type": "function", "function": function}], tool_choice=choice)


def said(content: str | None, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def called(arguments: str, name: str = "find", finish: str = "tool_calls") -> dict[str, Any]:
    body = said(None, finish)
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
    body["choices"][0]["message"]["tool_calls"] = [call]
    return body


@pytest.mark.parametrize("content", ["anything", "", '{"broken'])
def test_words_may_say_what_they_like(content: str) -> None:
    assert flaw(said(content, "length"), fields()) is None
    assert flaw(said(content), with_tool()) is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (said('{"city": "Paris"}'), None),
        (said('{"city": 5}'), "its JSON does not follow the schema"),
        (said("{}"), "its JSON does not follow the schema"),
        (said('{"city": "Pa'), "its JSON is not valid"),
        (said(None), "its JSON is not valid"),
        (said('{"city": "Paris"}', "length"), "its answer is cut off"),
    ],
)
def test_json_is_held_against_its_schema(answer: dict[str, Any], found: str | None) -> None:
    assert flaw(answer, as_schema(CITY)) == found


def test_a_json_object_is_an_object() -> None:
    wanted = fields(response_format={"type": "json_object"})
    assert flaw(said('{"a": 1}'), wanted) is None
    assert flaw(said("[1]"), wanted) == flaw(said("no"), wanted) == "its JSON is not valid"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (called('{"city": "Paris"}'), None),
        (called('{"town": "Paris"}'), "its JSON does not follow the schema"),
        (called('{"city": '), "a call's arguments are not valid JSON"),
        (called('"Paris"'), "a call's arguments are not valid JSON"),
        (called("{}", name="lose"), "it calls a function that is not there"),
        (called('{"city": "Paris"}', finish="length"), "its answer is cut off"),
    ],
)
def test_calls_are_held_against_their_functions(answer: dict[str, Any], found: str | None) -> None:
    assert flaw(answer, with_tool(parameters=CITY)) == found


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "find"}}])
def test_where_a_call_must_be_words_will_not_do(choice: Any) -> None:
    assert flaw(said("I would call it."), with_tool(choice)) == "it calls no function"
    assert flaw(called(""), with_tool(choice)) is None  # no arguments, as some servers write them


def test_every_choice_is_looked_at() -> None:
    both = {"choices": [*said('{"city": "Paris"}')["choices"], *said("{")["choices"]]}
    assert flaw(both, as_schema(CITY)) == "its JSON is not valid"


def test_an_empty_answer_that_was_cut_may_have_been_a_call() -> None:
    assert flaw(said("", "length"), with_tool()) == "its answer is cut off"
    assert flaw(said("It is", "length"), with_tool()) is None
    assert flaw(said("", "length"), fields()) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "strung"}}},
        {"$ref": "https://example.com/elsewhere.json"},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(x+x+)+y"}}},
    ],
)
def test_against_what_cannot_be_checked_here_only_the_syntax_is(schema: dict[str, Any]) -> None:
    """The last one would take for ever on this answer, and all other requests would wait."""
    assert flaw(said(json.dumps({"a": "x" * 100})), as_schema(schema)) is None
    assert flaw(said("{"), as_schema(schema)) == "its JSON is not valid"


def test_without_jsonschema_only_the_syntax_is_checked() -> None:
    program = f"""
import sys
sys.modules["jsonschema"] = None
from smallfirst.router.validity import flaw
from smallfirst.router.wire import ChatRequest
form = {{"type": "json_schema", "json_schema": {{"name": "x", "schema": {CITY!r}}}}}
fields = ChatRequest.of("Where?", {{"response_format": form}}, stream=False).fields
for text in ("{{}}", "{{"):
    print(flaw({{"choices": [{{"message": {{"content": text}}, "finish_reason": "stop"}}]}}, fields))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["None", "its JSON is not valid"]
