"""What may be read and what may be kept."""

from typing import Any

import pytest

from smallfirst.router.cache.rules import entry_ttl, may_read, may_store
from smallfirst.router.errors import InvalidRequest
from smallfirst.router.wire import ChatRequest


def request(headers: dict[str, str] | None = None, **fields: Any) -> ChatRequest:
    return ChatRequest.parse({"messages": [{"role": "user", "content": "Hi"}], **fields}, headers=headers)


def body(*reasons: str | None) -> dict[str, Any]:
    return {"choices": [{"message": {"content": "x"}, "finish_reason": reason} for reason in reasons]}


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({}, True),
        ({"temperature": 0}, True),
        ({"temperature": 0.7}, False),
        ({"temperature": 0.7, "seed": 1}, True),
        ({"temperature": 0.7, "cache": {}}, True),
        ({"temperature": 0.7, "cache": {"ttl": 60}}, True),
        ({"cache": {"no-cache": True}}, False),
        ({"headers": {"x-smallfirst-cache": "bypass"}}, False),
        ({"headers": {"x-smallfirst-cache": "Bypass "}}, False),
    ],
)
def test_what_may_be_read(fields: dict[str, Any], allowed: bool) -> None:
    assert may_read(request(**fields)) is allowed


@pytest.mark.parametrize(
    ("fields", "reply", "allowed"),
    [
        ({}, body("stop"), True),
        ({}, body("tool_calls"), True),
        ({"n": 2}, body("stop", "stop"), True),
        ({"n": 2}, body("stop", "length"), False),
        ({"n": 2}, body("stop"), False),
        ({}, body("length"), False),
        ({}, body("content_filter"), False),
        ({}, body(None), False),
        ({}, {"choices": []}, False),
        ({}, {"error": {"message": "x"}}, False),
        ({"temperature": 1}, body("stop"), False),
        ({"cache": {"no-store": True}}, body("stop"), False),
        ({"cache": {"no-cache": True}}, body("stop"), True),
    ],
)
def test_what_may_be_kept(fields: dict[str, Any], reply: dict[str, Any], allowed: bool) -> None:
    assert may_store(request(**fields), reply) is allowed


@pytest.mark.parametrize(
    ("function", "allowed"),
    [
        ({"name": "f", "arguments": '{"x": 1}'}, True),
        ({"name": "f", "arguments": ""}, True),
        ({"name": "f", "arguments": '{"x": '}, False),
        ({"name": "f", "arguments": "[]"}, False),
        ({"name": "f", "arguments": {"x": 1}}, False),
        ({"name": "", "arguments": "{}"}, False),
        (None, False),
    ],
)
def test_a_call_that_no_client_can_read_is_not_kept(function: Any, allowed: bool) -> None:
    message = {"content": None, "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    reply = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    assert may_store(request(), reply) is allowed


def test_the_request_says_how_long_within_reason() -> None:
    assert entry_ttl(request(), 99) == 99
    assert entry_ttl(request(cache={"ttl": 5}), 99) == 5
    assert entry_ttl(request(cache={"ttl": 1e12}), 99) == 30 * 24 * 3600


@pytest.mark.parametrize("ttl", [0, -1])
def test_a_time_that_is_none_is_refused(ttl: float) -> None:
    with pytest.raises(InvalidRequest, match=r"cache\.ttl"):
        request(cache={"ttl": ttl})
