"""Schemas of a caller's that would keep a validator, or a grammar, busy for ever."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smallfirst.router.models.local.bounded_check import tries
from smallfirst.router.models.local.schemas import (
    LONGEST_PATTERN,
    MOST_PARTS,
    MOST_PATTERNS,
    NotASchema,
    check_schema,
    follows,
    parts_in,
)
from smallfirst.router.validity import flaw
from smallfirst.router.wire import ChatRequest


def doubling(keyword: str, levels: int) -> dict[str, Any]:
    """Each level asks twice for the next one: 2 ** levels ways through it."""
    definitions: dict[str, Any] = {
        f"d{at}": {keyword: [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(levels)
    }
    return {"$defs": {**definitions, f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_a_schema_with_a_billion_ways_through_it_is_given_up(keyword: str) -> None:
    schema = doubling(keyword, 30)
    check_schema(schema)
    assert follows('{"a": 1}', schema)


@pytest.mark.parametrize(
    "dialect", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
def test_a_dialect_that_is_named_inside_a_schema_is_no_way_around(dialect: str) -> None:
    schema = doubling("anyOf", 30)
    for part in schema["$defs"].values():
        part["$schema"] = dialect
    check_schema(schema)
    assert follows('{"a": 1}', schema)
    inner: dict[str, Any] = {"properties": {"a": {"$schema": dialect, "type": "integer"}}}
    assert follows('{"a": 1}', inner)
    assert not follows('{"a": "b"}', inner)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": [{"a": at} for at in range(5000)]},
        {"$schema": "http://json-schema.org/draft-04/schema#", "enum": [{"a": at} for at in range(5000)]},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "dependencies": {"a": [{"a": at} for at in range(5000)]},
        },
    ],
)
def test_a_list_in_a_schema_that_takes_long_to_look_at_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(NotASchema, match="takes too long"):
        check_schema(schema)


@pytest.mark.parametrize("key", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize(
    "hidden", [{"minimum": "a"}, {"type": "strin"}, {"items": 5}, {"pattern": "("}, {"$ref": "#/no"}, 5]
)
def test_what_only_a_reference_leads_to_is_checked_as_well(key: str, hidden: Any) -> None:
    with pytest.raises(NotASchema):
        check_schema({"elsewhere": {"here": hidden}, key: "#/elsewhere/here"})


def test_a_reference_may_lead_to_any_place() -> None:
    components = {"schemas": {"City": {"type": "string"}, "Trip": {"$ref": "#/components/schemas/City"}}}
    schema = {"components": components, "properties": {"to": {"$ref": "#/components/schemas/Trip"}}}
    check_schema(schema)
    assert follows('{"to": "Rome"}', schema)
    assert not follows('{"to": 1}', schema)


def test_a_schema_that_names_another_dialect_inside_is_read_by_its_own() -> None:
    legacy = {"$schema": "http://json-schema.org/draft-03/schema#", "extends": 5}
    schema = {"properties": {"a": legacy}}
    check_schema(schema)
    assert follows('{"a": 1}', schema)


def test_a_long_list_of_names_is_no_long_look() -> None:
    names = [f"value {at}" for at in range(20_000)]
    check_schema({"$schema": "http://json-schema.org/draft-04/schema#", "enum": names})
    assert not follows(json.dumps([*names, names[0]]), {"uniqueItems": True})


def test_what_can_be_told_in_time_is_told() -> None:
    schema = doubling("anyOf", 5)
    assert follows('"text"', schema)
    assert not follows('{"a": 1}', schema)


def test_references_that_lead_back_by_way_of_others_end() -> None:
    around = {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}
    assert not follows("1", {**around, "$ref": "#/$defs/a"})


def test_a_list_in_which_each_is_compared_with_each_is_given_up() -> None:
    items = json.dumps([{"a": at} for at in range(3000)])
    assert follows(items, {"type": "array", "uniqueItems": True})
    assert not follows('[{"a": 1}, {"a": 1}]', {"type": "array", "uniqueItems": True})


@pytest.mark.parametrize(
    "pattern", [r"^(a+)+$", r"^(a|aa)*b*(a|aa)*b*(a|aa)*$", r"(x+x+)+y", r"^(\w+\s?)*$", r"(a*)*\1*"]
)
def test_a_regular_expression_that_takes_for_ever_is_not_looked_at(pattern: str) -> None:
    assert follows(json.dumps("a" * 5000 + "!"), {"type": "string", "pattern": pattern})


EVIL: dict[str, Any] = {"patternProperties": {"^(a+)+$": {}}}


@pytest.mark.parametrize(
    "schema",
    [
        {**EVIL, "additionalProperties": False},
        {"elsewhere": {"here": {**EVIL, "additionalProperties": False}}, "$ref": "#/elsewhere/here"},
        {**EVIL, "unevaluatedProperties": False},
        {"allOf": [EVIL], "unevaluatedProperties": False},
    ],
)
def test_what_is_additional_to_an_endless_expression_is_not_looked_at(schema: dict[str, Any]) -> None:
    check_schema(schema)
    assert follows(json.dumps({"a" * 60 + "!": 1}), schema)


def test_many_short_looks_are_no_long_one() -> None:
    """Each of these takes a tenth of a second."""
    texts = ["a" * 100 + "!"] * 1000
    assert follows(json.dumps(texts), {"items": {"pattern": "^a*a*a*$"}})


def test_what_is_additional_to_other_expressions_is_told() -> None:
    schema = {"patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False}
    assert follows('{"n_a": 1}', schema)
    assert not follows('{"n_a": 1, "b": 1}', schema)


def test_other_regular_expressions_are_looked_at() -> None:
    address = {"type": "string", "pattern": r"^[a-z.]+@[a-z]+\.[a-z]+$"}
    assert follows('"jo@example.org"', address)
    assert not follows('"jo at example.org"', address)
    named = {"type": "object", "patternProperties": {"^n_": {"type": "integer"}}}
    assert follows('{"n_a": 1, "b": "x"}', named)
    assert not follows('{"n_a": "x"}', named)


def test_tries_grow_with_what_is_repeated() -> None:
    assert tries("abc", 100) == 100
    assert tries("a{1,5}", 100) == 100
    assert tries("a*b", 100) == 100**2
    assert tries("a*a*b", 100) == 100**3
    assert tries("(a+)+", 10) == 2**10
    assert tries("(a+)+", 100) == float("inf")
    assert tries("a*" * 200, 5000) == float("inf")


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": {str(at): {} for at in range(MOST_PARTS)}}, "schemas are in it"),
        ({"anyOf": [{"pattern": "a"}] * (MOST_PATTERNS + 1)}, "regular expressions"),
        ({"patternProperties": {str(at): {} for at in range(MOST_PATTERNS + 1)}}, "regular expressions"),
        ({"pattern": "a" * (LONGEST_PATTERN + 1)}, "regular expressions"),
        ({"pattern": "a{99999999999999999999}"}, "cannot be compiled"),
    ],
)
def test_a_schema_that_takes_long_to_look_at_is_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(NotASchema, match=why):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "items": {}, "minItems": 10**12},
        {"type": "integer", "maximum": 10**300},
        {"enum": [f"value {at}" for at in range(20_000)]},
    ],
)
def test_large_numbers_in_a_schema_are_only_numbers(schema: dict[str, Any]) -> None:
    check_schema(schema)
    assert not follows('{"a": 1}', schema)


def test_parts_are_counted_no_further_than_needed() -> None:
    assert parts_in({"properties": {"a": {}, "b": {"items": {}}}}) == 4
    assert parts_in({"anyOf": [{}] * 10_000}) == MOST_PARTS + 1


@pytest.mark.parametrize(
    ("schema", "checked"),
    [
        ({"type": "object", "properties": {str(at): {} for at in range(size)}}, size < 200)
        for size in (50, 500)
    ],
)
def test_an_answer_is_not_held_against_a_large_schema_on_the_way(
    schema: dict[str, Any], *, checked: bool
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    fields = ChatRequest.parse(
        {"messages": [{"role": "user", "content": "a"}], "response_format": form}
    ).fields
    answer = {"choices": [{"message": {"content": "[]"}, "finish_reason": "stop"}]}
    assert (flaw(answer, fields) is not None) == checked
