"""Whether an answer is whole and has the form that the request asked for: JSON and tool calls."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from .models.local.schemas import NotASchema, check_schema, follows, has_pattern, parts_in
from .wire import ChatFields, NamedToolChoice

# Schemas in a schema: each takes a millisecond to check.
_MOST_PARTS = 200


def wants_json(fields: ChatFields) -> bool:
    """Whether the answer shall be JSON."""
    return fields.response_format is not None and fields.response_format.type != "text"


def may_call(fields: ChatFields) -> bool:
    """Whether the answer may be tool calls."""
    return bool(fields.tools) and fields.tool_choice != "none"


def must_call(fields: ChatFields) -> bool:
    """Whether the answer must be tool calls."""
    return bool(fields.tools) and (
        fields.tool_choice == "required" or isinstance(fields.tool_choice, NamedToolChoice)
    )


def flaw(body: Mapping[str, Any], fields: ChatFields) -> str | None:
    """Return what makes an answer useless, in words for the caller's receipt, or None where nothing does.

    Looked at are JSON (`response_format`) and tool calls; words may say what they like. Without `jsonschema` (extra
    `local`) only the JSON's syntax is checked.

    Args:
        body: OpenAI's `chat.completion`.
        fields: The request's.
    """
    for choice in body["choices"]:
        found = _flaw_of_choice(choice, fields)
        if found is not None:
            return found
    return None


def _flaw_of_choice(choice: Mapping[str, Any], fields: ChatFields) -> str | None:
    message = choice.get("message") or {}
    calls = message.get("tool_calls") or ()
    cut = choice.get("finish_reason") == "length"
    # A call that was cut before there was anything of it to tell.
    nothing = cut and may_call(fields) and not message.get("content")
    if not (calls or wants_json(fields) or must_call(fields) or nothing):
        return None
    if cut:
        return "its answer is cut off"
    if calls:
        return next((found for call in calls if (found := _flaw_of_call(call, fields)) is not None), None)
    if must_call(fields):
        return "it calls no function"
    form = fields.response_format
    assert form is not None, "JSON is wanted"
    schema = form.json_schema.definition if form.json_schema is not None else None
    if schema is None:
        return None if isinstance(_parsed(message.get("content")), dict) else "its JSON is not valid"
    return _flaw_of_json(message.get("content"), schema)


def _flaw_of_call(call: Mapping[str, Any], fields: ChatFields) -> str | None:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return None  # of a kind that this gateway does not know
    known = {tool.function.name: tool.function for tool in fields.tools or () if tool.function is not None}
    if function.get("name") not in known:
        return "it calls a function that is not there"
    # Some servers write no arguments as an empty text.
    arguments = function.get("arguments") or "{}"
    if not isinstance(_parsed(arguments), dict):
        return "a call's arguments are not valid JSON"
    schema = known[function["name"]].parameters
    return None if schema is None else _flaw_of_json(arguments, schema)


def _flaw_of_json(text: Any, schema: Mapping[str, Any]) -> str | None:
    if not isinstance(text, str) or _parsed(text) is _BROKEN:
        return "its JSON is not valid"
    return None if not _checkable(schema) or follows(text, schema) else "its JSON does not follow the schema"


def _checkable(schema: Mapping[str, Any]) -> bool:
    """Whether an answer can be held against a schema here, without keeping everybody's requests waiting.

    Not one that is none: that is for the model to refuse. Nor one that is large (to look at it takes longer than
    anything else here), nor one with regular expressions: they are the caller's, and one that takes for ever would stop
    everybody's requests with its own. (The local engine checks them elsewhere.)
    """
    return parts_in(schema) <= _MOST_PARTS and _is_checkable(msgspec.json.encode(schema))


@lru_cache(maxsize=256)
def _is_checkable(encoded: bytes) -> bool:
    """An agent sends the same schemas over and over."""
    schema = msgspec.json.decode(encoded)
    try:
        check_schema(schema)
    except (NotASchema, ModuleNotFoundError):
        return False
    return not has_pattern(schema)


_BROKEN = object()


def _parsed(text: Any) -> Any:
    try:
        return msgspec.json.decode(text.encode()) if isinstance(text, str) else _BROKEN
    except (msgspec.DecodeError, RecursionError):
        return _BROKEN
