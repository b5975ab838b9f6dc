"""What a body may hold: each bound is a clear refusal in the caller's own words that names the field."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fixtures.bounded_server import BoundedServer, OpenServer
from fixtures.faulty_upstream import OpenHouse

from smallfirst.router.errors import RequestError
from smallfirst.router.server.content import check_content
from smallfirst.router.settings import Limits
from smallfirst.router.wire import DEEPEST, decode_object
from smallfirst.router.wires.parts import Part

USER = {"role": "user", "content": "Hi"}
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
# Every path that reads a body, with one that it takes.
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "big", "messages": [USER]},
    "/v1/route": {"model": "big", "messages": [USER]},
    MESSAGES: {"model": "big", "max_tokens": 9, "messages": [USER]},
    "/v1/messages/count_tokens": {"model": "big", "messages": [USER]},
    RESPONSES: {"model": "big", "input": "Hi"},
    "/v1/completions": {"model": "big", "prompt": "Hi"},
    "/v1/embeddings": {"model": "big", "input": "Hi"},
    "/v1/moderations": {"input": "Hi"},
    "/v1/classify": {"model": "big", "text": "Hi", "labels": ["a", "b"]},
    "/v1/feedback": {"request_id": "req_1", "score": 1},
}
MOST_TOOLS, MOST_IMAGES = Limits().max_tools, Limits().max_images
TOOL = {"type": "function", "function": {"name": "f"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SCHEMA = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(50_000)}}


@pytest.fixture
async def server(open_house: OpenHouse, bounded_server: OpenServer) -> AsyncIterator[BoundedServer]:
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(open_house())
        yield await stack.enter_async_context(bounded_server(house.gateway))


def nested(depth: int, inside: str = "[]") -> str:
    opening, closing = inside[0], inside[1]
    key = '"a":' if opening == "{" else ""
    end = f"{opening}{closing}"
    return f"{opening}{key}" * (depth - 1) + end + closing * (depth - 1)


def with_field(path: str, field: str, raw: str) -> bytes:
    return f'{json.dumps(BODIES[path])[:-1]}, "{field}": {raw}}}'.encode()


# --- depth --------------------------------------------------------------------------------------------------------


async def test_a_hundred_thousand_levels_are_refused_everywhere(server: BoundedServer) -> None:
    for path in BODIES:
        for inside in ("[]", "{}"):
            answer = await server.ask(path, with_field(path, "more", nested(100_000, inside)))
            assert answer.status == 400, path
            assert "JSON" in answer.error["message"] or "nested" in answer.error["message"]


async def test_a_few_hundred_levels_are_refused_where_they_could_be_decoded(server: BoundedServer) -> None:
    # Of embeddings only the known fields are decoded.
    for path in BODIES.keys() - {"/v1/embeddings"}:
        for depth in (DEEPEST, 300, 900):
            answer = await server.ask(path, with_field(path, "more", nested(depth)))
            assert answer.status == 400, path
            assert answer.error["message"] == f"The body is nested deeper than {DEEPEST} levels."


@pytest.mark.parametrize("field", ["more", "metadata", "tools", "response_format", "text", "cache"])
async def test_the_most_levels_that_are_taken_break_nothing(server: BoundedServer, field: str) -> None:
    """Everything that reads bodies by recursion manages them."""
    for path in BODIES:
        answer = await server.ask(path, with_field(path, field, nested(DEEPEST - 1, "{}")))
        assert answer.status != 500, path


async def test_the_most_levels_in_every_place_of_a_tool_break_nothing(server: BoundedServer) -> None:
    deep = json.loads(nested(DEEPEST - 12, "{}"))
    properties: dict[str, Any] = {"type": "object"}
    for _ in range(50):
        properties = {"type": "object", "properties": {"a": properties}}
    for schema in (deep, properties, {"properties": {"a": deep}}):
        function = {"name": "f", "parameters": schema}
        for more in (
            {"tools": [{"type": "function", "function": function}]},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}},
        ):
            assert (await server.ask(CHAT, {**BODIES[CHAT], **more})).status != 500


def test_arguments_of_calls_are_texts_that_may_be_nested_as_well() -> None:
    """A model may write them, and nobody decodes them without end."""
    part = Part("call", "c", "f", [nested(100_000)])
    assert part.arguments(cut=True) == {}
    with pytest.raises(RequestError, match="not a JSON object"):
        part.arguments()


def test_brackets_in_texts_are_no_levels() -> None:
    text = "[" * 100_000
    body = decode_object(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())
    assert body["messages"][0]["content"] == text


# --- numbers ------------------------------------------------------------------------------------------------------


def many(count: int, of: Any) -> list[Any]:
    return [of] * count


TOO_MUCH: list[tuple[str, dict[str, Any], str, str]] = [
    (CHAT, {"tools": many(MOST_TOOLS + 1, TOOL)}, "tools", "array_above_max_length"),
    (CHAT, {"functions": many(MOST_TOOLS + 1, {"name": "f"})}, "functions", "array_above_max_length"),
    (CHAT, {"messages": many(10_001, USER)}, "messages", "array_above_max_length"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": many(10_001, {"type": "text", "text": "a"})}]},
        "messages[0]",
        "array_above_max_length",
    ),
    (
        CHAT,
        {"messages": [USER, {"role": "user", "content": many(MOST_IMAGES + 1, PICTURE)}]},
        "messages[1]",
        "array_above_max_length",
    ),
    (CHAT, {"stop": many(65, "a")}, "stop", "array_above_max_length"),
    (CHAT, {"stop": ["a" * 1001]}, "stop", "string_above_max_length"),
    (CHAT, {"logit_bias": {str(at): 1 for at in range(1025)}}, "logit_bias", "object_above_max_properties"),
    (CHAT, {"metadata": {str(at): "a" for at in range(65)}}, "metadata", "object_above_max_properties"),
    (CHAT, {"metadata": {"a": "b" * 20_000}}, "metadata", "string_above_max_length"),
    (CHAT, {"user": "a" * 501}, "user", "string_above_max_length"),
    (CHAT, {"model": "a" * 501}, "model", "string_above_max_length"),
    (CHAT, {"n": 129}, "n", "out_of_range"),
    (
        CHAT,
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
        "tools",
        "schema_too_large",
    ),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
        "response_format.json_schema.schema",
        "schema_too_large",
    ),
    (
        RESPONSES,
        {"tools": many(MOST_TOOLS + 1, {"type": "function", "name": "f"})},
        "tools",
        "array_above_max_length",
    ),
    (RESPONSES, {"input": many(10_001, USER)}, "input", "array_above_max_length"),
    (
        RESPONSES,
        {
            "input": [
                {
                    "role": "user",
                    "content": many(MOST_IMAGES + 1, {"type": "input_image", "image_url": "data:,a"}),
                }
            ]
        },
        "input[0]",
        "array_above_max_length",
    ),
    (
        RESPONSES,
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}},
        "text.format.schema",
        "schema_too_large",
    ),
    (RESPONSES, {"metadata": {"a": "b" * 20_000}}, "metadata", "string_above_max_length"),
    ("/v1/route", {"tools": many(MOST_TOOLS + 1, TOOL)}, "tools", "array_above_max_length"),
    ("/v1/completions", {"stop": many(65, "a")}, "stop", "array_above_max_length"),
    ("/v1/completions", {"prompt": many(65, "a")}, "prompt", "invalid_value"),
    ("/v1/embeddings", {"input": many(2049, "a")}, "input", "invalid_value"),
    ("/v1/moderations", {"input": many(10_001, "a")}, "input", "array_above_max_length"),
    ("/v1/classify", {"labels": [str(at) for at in range(1001)]}, "labels", "invalid_value"),
    ("/v1/classify", {"metadata": {"a": "b" * 20_000}}, "metadata", "string_above_max_length"),
    ("/v1/feedback", {"metadata": {"a": "b" * 20_000}}, "metadata", "string_above_max_length"),
    ("/v1/feedback", {"comment": "a" * 2001}, "comment", "invalid_value"),
]


async def test_too_much_of_something_is_refused_by_name(server: BoundedServer) -> None:
    for path, fields, param, code in TOO_MUCH:
        answer = await server.ask(path, {**BODIES[path], **fields})
        assert (answer.status, answer.error["param"], answer.error["code"]) == (400, param, code)
        assert f"'{param}'" in answer.error["message"]


PICTURE_BLOCK = {"type": "image", "source": {"type": "url", "url": "http://x"}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": many(MOST_IMAGES + 1, PICTURE_BLOCK)}
TOO_MUCH_FOR_ANTHROPIC: list[tuple[dict[str, Any], str]] = [
    ({"tools": many(MOST_TOOLS + 1, {"name": "f", "input_schema": {}})}, "tools"),
    ({"stop_sequences": many(65, "a")}, "stop_sequences"),
    ({"system": many(10_001, {"type": "text", "text": "a"})}, "system"),
    ({"messages": many(10_001, USER)}, "messages"),
    ({"messages": [{"role": "user", "content": [RESULT]}]}, "messages[0]"),
    ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "output_config.format.schema"),
    ({"metadata": {"user_id": "a" * 20_000}}, "metadata"),
]


async def test_anthropics_clients_are_told_by_anthropics_names(server: BoundedServer) -> None:
    for fields, named in TOO_MUCH_FOR_ANTHROPIC:
        answer = await server.ask(MESSAGES, {**BODIES[MESSAGES], **fields})
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
        assert f"'{named}'" in answer.error["message"]


def test_pictures_that_are_too_large_together_are_refused() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 600}}
    body = {"messages": [USER, {"role": "user", "content": [picture, picture]}]}
    with pytest.raises(RequestError) as refused:
        check_content(body, 2000, Limits(max_image_bytes=1000))
    assert (refused.value.status, refused.value.param, refused.value.code) == (
        413,
        "messages[1]",
        "images_too_large",
    )
    check_content(body, 2000, Limits(max_image_bytes=2000))


def test_what_is_just_within_the_bounds_is_taken() -> None:
    body = {
        "model": "m" * 500,
        "messages": [*many(9400, USER), {"role": "user", "content": many(MOST_IMAGES, PICTURE)}],
        "tools": many(MOST_TOOLS, TOOL),
        "stop": many(64, "a"),
        "metadata": {str(at): "a" for at in range(64)},
        "logit_bias": {str(at): 1 for at in range(1024)},
    }
    check_content(body, len(json.dumps(body)), Limits())


def test_what_has_a_wrong_type_is_left_to_who_reads_it() -> None:
    odd: Any = [
        None,
        1,
        "a",
        [],
        {},
        [None],
        [{"content": 1}],
        [{"content": [1, None, {"type": 2}]}],
        {"a": 1},
    ]
    for name in (
        "messages",
        "input",
        "tools",
        "stop",
        "metadata",
        "logit_bias",
        "response_format",
        "text",
        "user",
    ):
        for value in odd:
            check_content({name: value}, 10**9, Limits())


@pytest.mark.parametrize("kind", [[], {}, 7, None])
def test_a_part_of_an_odd_type_is_left_to_whoever_reads_it(kind: object) -> None:
    """What fuzzing found: no set takes a list or an object."""
    text = {"type": "text", "text": "x" * 100_000}
    body = {
        "messages": [{"role": "user", "content": [{"type": kind}, text]}, {"type": kind, "content": "Hi"}]
    }
    check_content(body, 20 * 1024 * 1024, Limits())
