"""JSON schemas: what is one, what follows one, and what a model may write by one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from smallfirst.router.models.local.schemas import (
    DEEPEST,
    NotASchema,
    check_schema,
    closed,
    follows,
)

REFERENCES = "a '$ref' that leads nowhere inside the schema; others are not fetched"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Listens, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def url(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"


def was_asked(server: socket.socket) -> bool:
    """Whether anyone connected."""
    server.setblocking(False)
    with suppress(BlockingIOError):
        server.accept()[0].close()
        return True
    return False


def nested(levels: int, keyword: str) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {keyword: schema}
    return schema


# --- what is a schema --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]},
        {"enum": [None, [], {"enum": []}]},
        {"const": {"enum": []}},
        {"default": {"$ref": "#/missing"}},
        {"properties": {"$ref": {"type": "string"}, "enum": {"type": "string"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {}}},
        {"$ref": "#a", "$defs": {"b": {"$anchor": "a"}}},
        {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {}}},
        {"$id": "http://x.example/s", "$ref": "http://x.example/s#/$defs/a", "$defs": {"a": {}}},
        {"type": "array", "items": {"$ref": "#"}},
        {"anyOf": [{"type": "null"}, {"properties": {"next": {"$ref": "#"}}}]},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]},
        {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True},
        {"$schema": "http://x.example/unknown", "type": "string"},
        {"unknown": None, "x-note": ["anything"]},
        nested(DEEPEST - 2, "items"),
    ],
)
def test_schemas_are_schemas(schema: dict[str, Any]) -> None:
    check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "thing"}, "'type' is not valid: anyOf"),
        ({"type": ["string", "thing"]}, "'type' is not valid: anyOf"),
        ({"properties": {"a": 1}}, "'properties.a' is not valid: type"),
        ({"properties": {"a": {"minimum": "3"}}}, "'properties.a.minimum' is not valid: type"),
        ({"anyOf": [{}, {"required": "a"}]}, "'anyOf.1.required' is not valid: type"),
        ({"required": ["a", "a"]}, "'required' is not valid: uniqueItems"),
        ({"pattern": "("}, "'pattern' is not valid: format"),
        ({"items": [{"type": "string"}]}, "'items' is not valid: type"),  # as it was in earlier drafts
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "exclusiveMinimum": True},
            "'exclusiveMinimum' is not valid: type",
        ),
        ({"enum": []}, "an empty 'enum', which no value follows"),
        ({"items": {"anyOf": [{"enum": []}]}}, "an empty 'enum', which no value follows"),
        ({"$ref": "#/$defs/missing"}, REFERENCES),
        ({"$ref": "#missing"}, REFERENCES),
        ({"$ref": "other.json"}, REFERENCES),
        ({"$ref": "http://["}, REFERENCES),
        ({"$ref": "#/allOf/x", "allOf": [{}]}, REFERENCES),
        ({"$ref": "#/allOf/1", "allOf": [{}]}, REFERENCES),
        ({"$ref": "#/minimum/x", "minimum": 3}, REFERENCES),
        ({"items": {"not": {"$ref": "#/missing"}}}, REFERENCES),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/missing"}}}, REFERENCES),
        ({"$ref": "#"}, "a '$ref' that leads back to itself"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "a '$ref' that leads back to itself"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
            "a '$ref' that leads back to itself",
        ),
        (nested(DEEPEST, "items"), f"nested deeper than {DEEPEST} levels"),
        (nested(100_000, "items"), f"nested deeper than {DEEPEST} levels"),
        ({"const": nested(DEEPEST, "a")}, f"nested deeper than {DEEPEST} levels"),
    ],
)
def test_what_is_no_schema_is_refused_and_told_why(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(NotASchema) as caught:
        check_schema(schema)
    assert str(caught.value) == why


def test_a_schema_is_refused_without_quoting_what_it_holds() -> None:
    with pytest.raises(NotASchema) as caught:
        check_schema({"properties": {"a": {"maxLength": "a secret", "description": "another"}}})
    assert str(caught.value) == "'properties.a.maxLength' is not valid: type"


# --- what follows one --------------------------------------------------------------------------------------

LIST = {
    "$defs": {
        "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["v"]}
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("text", "schema", "follows_it"),
    [
        ('{"a": 1}', {"properties": {"a": {"type": "integer"}}}, True),
        ('{"a": "1"}', {"properties": {"a": {"type": "integer"}}}, False),
        (' "x"\n', {"type": "string"}, True),
        ("1.0", {"type": "integer"}, True),
        ("[1, 1]", {"uniqueItems": True}, False),
        ('{"v": 1, "next": {"v": 2}}', LIST, True),
        ('{"v": 1, "next": {}}', LIST, False),
        ("", {}, False),
        ("{", {}, False),
        ("1 2", {}, False),
        ("NaN", {}, False),
        ("1e999", {}, False),
        (r'"\ud800"', {}, False),
        ("[" * 10_000 + "]" * 10_000, {}, False),
        ("[" * 900 + "]" * 900, {"items": {"$ref": "#"}}, False),  # too deep to be checked
        (
            "5",
            {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 5, "exclusiveMinimum": True},
            False,
        ),
    ],
)
def test_a_text_follows_a_schema_or_does_not(text: str, schema: dict[str, Any], follows_it: bool) -> None:
    assert follows(text, schema) is follows_it


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_a_schema_elsewhere_is_never_fetched(server: socket.socket, keyword: str) -> None:
    schema = {"type": "object", "properties": {"a": {keyword: url(server)}}}
    with suppress(NotASchema):
        check_schema(schema)
    assert (follows('{"a": 1}', schema), was_asked(server)) == (False, False)


def test_a_schema_elsewhere_is_no_part_of_one(server: socket.socket) -> None:
    with pytest.raises(NotASchema, match="others are not fetched"):
        check_schema({"items": {"$ref": url(server)}})
    assert not was_asked(server)


@pytest.mark.parametrize("keyword", ["$schema", "$id"])
def test_names_of_schemas_are_never_fetched(server: socket.socket, keyword: str) -> None:
    schema = {keyword: url(server), "type": "string"}
    check_schema(schema)
    assert (follows('"x"', schema), follows("1", schema), was_asked(server)) == (True, False, False)


def test_the_server_of_these_tests_does_listen(server: socket.socket) -> None:
    with socket.create_connection(server.getsockname()):
        assert was_asked(server)


# --- what a model may write --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "result"),
    [
        ({"type": "string"}, {"type": "string"}),
        ({"type": "object"}, {"type": "object"}),
        ({"properties": {"a": {}}}, {"properties": {"a": {}}, "additionalProperties": False}),
        (
            {"properties": {"a": {}}, "additionalProperties": True},
            {"properties": {"a": {}}, "additionalProperties": True},
        ),
        (
            {"properties": {"a": {}}, "additionalProperties": {"properties": {"b": {}}}},
            {
                "properties": {"a": {}},
                "additionalProperties": {"properties": {"b": {}}, "additionalProperties": False},
            },
        ),
        (
            {"items": {"properties": {"a": {"properties": {}}}}},
            {
                "items": {
                    "properties": {"a": {"properties": {}, "additionalProperties": False}},
                    "additionalProperties": False,
                }
            },
        ),
        (
            {"anyOf": [{"properties": {"a": {}}}, {"type": "null"}]},
            {"anyOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"type": "null"}]},
        ),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"a": {}}}}},
            {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"a": {}}, "additionalProperties": False}}},
        ),
        (True, True),
    ],
)
def test_an_object_has_no_properties_but_the_listed_ones(schema: Any, result: Any) -> None:
    assert closed(schema) == result


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [{"properties": {"a": 1}}]},
        {"const": {"properties": {"a": 1}}},
        {"default": {"properties": {}}, "examples": [{"properties": {}}]},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"properties": {"a": {}}, "$ref": "#/$defs/b", "$defs": {"b": {"type": "object"}}},
        {"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    ],
)
def test_data_and_parts_of_a_whole_are_left_as_they_are(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_closing_leaves_the_original_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {"properties": {"b": {}}}}}
    result = closed(schema)
    assert (closed(result), schema) == (
        result,
        {"type": "object", "properties": {"a": {"properties": {"b": {}}}}},
    )


def test_properties_keep_their_order() -> None:
    schema = {"properties": {name: {} for name in "cab"}, "type": "object"}
    assert (list(closed(schema)), list(closed(schema)["properties"])) == (
        ["properties", "type", "additionalProperties"],
        ["c", "a", "b"],
    )
