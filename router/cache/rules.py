"""What may be answered from the cache, and what may be kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..classification.choice import label_choice
from ..wire import ChatRequest

# Reasons by which an answer is whole. `length` is cut off, `content_filter` is withheld.
_WHOLE = frozenset({"stop", "tool_calls", "function_call"})

MAX_TTL = 30 * 24 * 3600.0


def may_read(request: ChatRequest) -> bool:
    """Whether the request may be answered from the cache."""
    control = request.fields.cache
    if control is not None and control.no_cache:
        return False
    return request.headers.get("x-smallfirst-cache", "").strip().lower() != "bypass" and _is_repeatable(
        request
    )


def may_store(request: ChatRequest, body: Mapping[str, Any]) -> bool:
    """Whether the answer may be kept: it is whole and successful, and the request does not ask for variety."""
    if asks_not_to_store(request) or not _is_repeatable(request):
        return False
    choices = body.get("choices") or ()
    # A server that ignores `n` has not given what was asked for.
    return (
        len(choices) == (request.fields.n or 1)
        and "error" not in body
        and all(c.get("finish_reason") in _WHOLE and _is_readable(c.get("message")) for c in choices)
    )


class _Function(msgspec.Struct):
    name: str
    arguments: str | None = None


class _Call(msgspec.Struct):
    type: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


def _is_readable(message: object) -> bool:
    """Whether a message is one that every client can read: an answer that none can is not given twice."""
    try:
        read = msgspec.convert(message, _Message)
        calls = [call.function for call in read.tool_calls or () if call.type != "custom"]
        for function in calls if read.function_call is None else [*calls, read.function_call]:
            if function is None or not function.name:
                return False
            arguments = (function.arguments or "").strip()
            if arguments:
                msgspec.json.decode(arguments.encode(), type=dict)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def asks_not_to_store(request: ChatRequest) -> bool:
    """Whether the caller wants its answer kept for nobody."""
    control = request.fields.cache
    return control is not None and control.no_store


def entry_ttl(request: ChatRequest, default: float) -> float:
    """Return how many seconds an answer is kept."""
    control = request.fields.cache
    return min(control.ttl if control is not None and control.ttl is not None else default, MAX_TTL)


def offers_tools(request: ChatRequest) -> bool:
    """Whether the answer may be a tool call."""
    return bool(request.fields.tools) and request.fields.tool_choice != "none"


def has_calls(body: Mapping[str, Any]) -> bool:
    """Whether an answer calls tools."""
    messages = [choice.get("message") or {} for choice in body.get("choices") or ()]
    return any(message.get("tool_calls") or message.get("function_call") for message in messages)


def picks_label(request: ChatRequest) -> bool:
    """Whether the answer is one of some labels: then the user's words are what is labelled, and not a question."""
    return label_choice(request.fields) is not None


def _is_repeatable(request: ChatRequest) -> bool:
    """Whether one answer can stand for the next.

    A caller that sets `temperature` above 0 without a seed asks for variety: such requests use the cache only if their
    body has a `cache` object, which asks for it. A caller that sets no temperature has not asked for variety (it takes
    what the server does by default), so its requests are cached; most agents are of this kind.
    """
    if request.screening is not None and request.screening.found:
        # What holds somebody's data is answered afresh, and its answer kept for nobody.
        return False
    fields = request.fields
    sampled = (fields.temperature or 0) > 0 and fields.seed is None
    return not sampled or fields.cache is not None
