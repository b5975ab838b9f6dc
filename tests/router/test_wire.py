"""Parsing a request: what is kept, what is refused and how the error names it."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.errors import InvalidRequest
from smallfirst.router.wire import ChatRequest, Usage

USER = {"role": "user", "content": "Hi"}


def parse(**fields: Any) -> ChatRequest:
    return ChatRequest.parse(msgspec.json.encode({"messages": [USER], **fields}))


def test_unknown_fields_reach_the_upstream_untouched() -> None:
    request = parse(
        model="auto", verbosity="low", nested={"a": [1, 2.5, None]}, messages=[{**USER, "weight": 1}]
    )
    assert request.upstream_body("gpt") == {
        "messages": [{"role": "user", "content": "Hi", "weight": 1}],
        "model": "gpt",
        "verbosity": "low",
        "nested": {"a": [1, 2.5, None]},
    }


def test_fields_for_the_gateway_alone_stay_here() -> None:
    request = parse(cache={"no-store": True}, metadata={"agent": "a", "session": "s", "purpose": "p"})
    assert request.upstream_body("gpt") == {"messages": [USER], "model": "gpt", "metadata": {"purpose": "p"}}


def test_integers_beyond_64_bits_survive() -> None:
    assert parse(seed=7, big=2**80).upstream_body("gpt")["big"] == 2**80


def test_text_of_parts_is_joined() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "b"},
    ]
    assert parse(messages=[{"role": "user", "content": parts}]).text == "a\nb"


@pytest.mark.parametrize(
    ("raw", "param", "code"),
    [
        (b"{", None, "invalid_json"),
        (b"\xff\xfe", None, "invalid_json"),
        (b"[" * 100_000, None, "invalid_json"),
        (b"[]", None, "invalid_json"),
        (b"{}", "messages", "missing_field"),
        (b'{"messages": []}', "messages", "empty_array"),
        (b'{"messages": "hi"}', "messages", "invalid_type"),
        (b'{"messages": [{"content": "x"}]}', "messages[0].role", "missing_field"),
        (b'{"messages": [{"role": "wizard"}]}', "messages[0].role", "invalid_type"),
        (b'{"messages": [{"role": "user", "content": 3}]}', "messages[0].content", "invalid_type"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}',
            "messages[0].content[0].type",
            "unsupported_content_part",
        ),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}',
            "messages[0].content[0].text",
            "missing_field",
        ),
    ],
)
def test_a_bad_body_is_refused_naming_the_field(raw: bytes, param: str | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ChatRequest.parse(raw)
    error = caught.value.body()["error"]
    assert (caught.value.status, error["param"], error["code"]) == (400, param, code)
    assert param is None or param in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"cache": {"ttl": "long"}}, "cache.ttl"),
        ({"metadata": {"privacy": "maybe"}}, "metadata.privacy"),
    ],
)
def test_a_bad_field_is_refused_naming_it(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert param in caught.value.message


def test_usage_survives_the_wire() -> None:
    usage = Usage(input_tokens=10, output_tokens=5, cached_tokens=4, reasoning_tokens=2)
    assert Usage.from_wire(usage.to_wire()) == usage


@pytest.mark.parametrize("wire", [None, {}, {"prompt_tokens": None}])
def test_missing_usage_is_missing_and_not_zero(wire: dict[str, Any] | None) -> None:
    assert Usage.from_wire(wire) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(extra=st.dictionaries(st.text(min_size=1).map(lambda key: f"x_{key}"), json_values, max_size=4))
def test_any_unknown_field_survives_to_the_upstream(extra: dict[str, Any]) -> None:
    sent = ChatRequest.parse(msgspec.json.encode({"messages": [USER], **extra})).upstream_body("m")
    assert sent == {"messages": [USER], "model": "m", **extra}


@given(raw=st.binary() | json_values.map(msgspec.json.encode))
def test_no_body_can_make_parsing_fail_in_another_way(raw: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        ChatRequest.parse(raw)
