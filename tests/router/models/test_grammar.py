"""Constraints over the real model's vocabulary: whatever way a reply takes through one, it comes out right."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from smallfirst.router.models.local.calls import CALL_CLOSE, CALL_OPEN, CallReader
from smallfirst.router.models.local.constrain import Constraint, constraint_of
from smallfirst.router.models.local.engine import GrammarError, Grammars, Matcher, NativeModel
from smallfirst.router.models.local.schemas import has_pattern
from smallfirst.router.wire import ChatRequest

# So many ways through each grammar are tried, none longer than so many tokens.
WALKS = 8
MOST_TOKENS = 400


class Language:
    """A model's vocabulary, and random ways through grammars over it."""

    def __init__(self, model: NativeModel) -> None:
        self.model = model
        self.grammars = Grammars(model)

    def constraint(self, **fields: Any) -> Constraint:
        request = ChatRequest.parse({"messages": [{"role": "user", "content": "Hi"}], **fields})
        return constraint_of(request.fields, self.grammars)

    def answer(self, schema: dict[str, Any]) -> Constraint:
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return self.constraint(response_format=form)

    @cache  # noqa: B019 - there is one language a module
    def tokens_of(self, characters: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens that have no other characters."""
        wanted = set(characters.encode())
        pieces = ((token, self.model.piece(token)) for token in range(self.model.n_vocab))
        return np.array([token for token, piece in pieces if piece and wanted.issuperset(piece)], np.int64)

    def walk(self, matcher: Matcher, random: Random, *, likes: str = "") -> bytes | None:
        """Go a random way; None where it is too long.

        Half of the tokens are such that JSON ends soon, or have characters that are liked.
        """
        liked = self.tokens_of('"}], :' + likes)
        text: list[bytes] = []

        def go(token: int) -> None:
            assert matcher.allows(token)
            matcher.accept(token)
            text.append(self.model.piece(token))

        while not matcher.complete and len(text) < MOST_TOKENS:
            if random.random() < 0.5:
                for token in matcher.forced():
                    go(token)
                if matcher.complete:
                    break
            if matcher.satisfied and random.random() < 0.5:
                return b"".join(text)
            mask = matcher.mask()
            soon = liked[mask[liked]]
            token = int(random.choice(soon if len(soon) and random.random() < 0.5 else np.flatnonzero(mask)))
            if token in self.model.end_tokens:
                assert matcher.satisfied
                return b"".join(text)
            go(token)
        return b"".join(text) if matcher.complete else None

    def write(self, matcher: Matcher, text: str) -> bool:
        """Write a text as the model tokenises it; returns whether it is allowed."""
        for token in self.model.tokenize(text, parse_special=False):
            if not matcher.allows(token):
                return False
            matcher.accept(token)
        return True


@pytest.fixture(scope="module")
def language(native_model: NativeModel) -> Language:
    return Language(native_model)


def fresh(constraint: Constraint) -> Matcher:
    assert constraint.words is not None
    return constraint.words


NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
    },
    "required": ["value", "next"],
}
ODD_NAMES = ['quo"te', "back\\slash", "line\nbreak", "tab\t", "é 🎉", " ", "", "</tool_call>", "$ref"]

# By name: a schema that a grammar holds wholly, and characters by which its texts end soon.
SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "enum": ({"enum": ["a", 'b"c', "d\\e", "é🎉", "", 1, -2.5, None, True, {"x": [1, "y"]}]}, ""),
    "const": ({"const": {"a": [None, "\u2028"]}}, ""),
    "boolean": ({"type": "boolean"}, ""),
    "text": ({"type": "string"}, ""),
    "text of some length": ({"type": "string", "minLength": 3, "maxLength": 5}, ""),
    "pattern": ({"type": "string", "pattern": r"^[A-Z]{2}-\d{3,5}$"}, ""),
    "pattern of quotes": ({"type": "string", "pattern": r'^"\w{0,3}\\$'}, "\\"),
    "pattern anywhere": ({"type": "string", "pattern": r"\d[A-Z]"}, "1A"),
    "pattern of choices": ({"type": "string", "pattern": r"^(yes|no|maybe \w+)$"}, ""),
    "date": ({"type": "string", "format": "date"}, ""),
    "email": ({"type": "string", "format": "email"}, "@a"),
    "uuid": ({"type": "string", "format": "uuid"}, ""),
    "ipv4": ({"type": "string", "format": "ipv4"}, ""),
    "ipv6": ({"type": "string", "format": "ipv6"}, ""),
    "integer": ({"type": "integer"}, ""),
    "integer within bounds": ({"type": "integer", "minimum": -17, "maximum": 2345}, ""),
    "integer between": ({"type": "integer", "exclusiveMinimum": -1, "exclusiveMaximum": 10}, ""),
    "integer from on": ({"type": "integer", "minimum": 1000}, ""),
    "multiple": ({"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 1000}, ""),
    "number": ({"type": "number"}, ""),
    "number within bounds": ({"type": "number", "minimum": -1.5, "maximum": 0.25}, ""),
    "array": ({"type": "array", "items": {"type": "boolean"}}, ""),
    "array of some length": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
        "",
    ),
    "array of one": ({"type": "array", "items": {"enum": ["x"]}, "minItems": 1, "maxItems": 1}, ""),
    "tuple": (
        {
            "type": "array",
            "prefixItems": [{"type": "string"}, {"type": "integer"}],
            "items": False,
            "minItems": 2,
        },
        "",
    ),
    "text or null": ({"type": ["string", "null"]}, ""),
    "enum or null": ({"type": ["string", "null"], "enum": ["a", None]}, ""),
    "nested": (
        {
            "type": "object",
            "properties": {
                "a": {
                    "type": "object",
                    "properties": {
                        "b": {"type": "string"},
                        "c": {"type": "array", "items": {"type": "object", "properties": {"d": {}}}},
                    },
                    "required": ["b", "c"],
                },
                "n": {"type": "number"},
            },
            "required": ["a"],
        },
        "",
    ),
    "any of": (
        {
            "anyOf": [
                {"type": "integer"},
                {"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]},
                {
                    "type": "object",
                    "properties": {"kind": {"const": "y"}, "z": {}},
                    "required": ["kind", "z"],
                },
                {"type": "null"},
            ]
        },
        "",
    ),
    "all of": (
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]},
            ]
        },
        "",
    ),
    "recursion": ({"$defs": {"node": NODE}, "$ref": "#/$defs/node"}, ""),
    "recursion to the root": (
        {"type": "object", "properties": {"items": {"type": "array", "items": {"$ref": "#"}}}},
        "",
    ),
    "odd names": (
        {
            "type": "object",
            "properties": {name: {"type": "integer"} for name in ODD_NAMES},
            "required": ODD_NAMES,
        },
        "",
    ),
    "none required": ({"type": "object", "properties": {name: {"type": "null"} for name in "abc"}}, ""),
    "other properties": (
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "additionalProperties": {"type": "boolean"},
        },
        "",
    ),
    "properties by pattern": (
        {
            "type": "object",
            "patternProperties": {"^x": {"type": "integer"}},
            "additionalProperties": False,
        },
        "",
    ),
    "any object": ({"type": "object"}, ""),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_way_through_a_schema_makes_a_text_that_follows_it(language: Language, name: str) -> None:
    schema, likes = SCHEMAS[name]
    # A pattern is checked once more when the answer is there: JSON's escapes slip through the grammar's reading of it.
    assert language.answer(schema).check == ({"": schema} if has_pattern(schema) else {})
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    found = [
        language.walk(fresh(language.answer(schema)), Random(seed), likes=likes) for seed in range(WALKS)
    ]
    texts = [text.decode() for text in found if text is not None]
    assert texts
    for text in texts:
        value = json.loads(text, parse_constant=pytest.fail)
        validator.validate(value)
        assert msgspec.json.encode(value)  # no halves of surrogate pairs


@pytest.mark.parametrize(
    ("schema", "text", "allowed"),
    [
        ({"type": "object", "properties": {"a": {}}}, '{"a": 1}', True),
        ({"type": "object", "properties": {"a": {}}}, '{"b": 1}', False),
        ({"type": "object", "properties": {"a": {}}}, '{"a":1}', False),  # one way of writing is enough
        ({"type": "object", "properties": {"b": {}, "a": {}}}, '{"b": 1, "a": 1}', True),
        ({"type": "object", "properties": {"b": {}, "a": {}}}, '{"a": 1, "b": 1}', False),
        ({"type": "string"}, '"Grüße 🎉 東京"', True),
        ({"type": "string"}, r'"a \"quote\" and a \\"', True),
        ({"type": "string"}, '"line\nbreak"', False),
        ({"type": "integer"}, "01", False),
        ({"type": "integer", "maximum": 12}, "13", False),
    ],
)
def test_texts_are_allowed_by_their_schema(
    language: Language, schema: dict[str, Any], text: str, allowed: bool
) -> None:
    matcher = fresh(language.answer(schema))
    assert (language.write(matcher, text) and matcher.satisfied) is allowed


def test_any_json_object_is_one(language: Language) -> None:
    constraint = language.constraint(response_format={"type": "json_object"})
    text = '{"a": [1, {"b": null}], "c": "d"}'
    assert constraint == Constraint(words=constraint.words)
    assert language.write(fresh(constraint), text)
    assert fresh(constraint).complete


@pytest.mark.parametrize(
    ("schema", "held"),
    [
        ({"type": "string", "format": "regex"}, '"x"'),
        ({"type": "object", "properties": {"a": {"not": {"type": "null"}}}}, '{"a": 1}'),
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "[1, 2]"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, '"abcd"'),
    ],
)
def test_what_a_grammar_cannot_hold_is_left_to_check(
    language: Language, schema: dict[str, Any], held: str
) -> None:
    constraint = language.answer(schema)
    assert constraint.check == {"": schema}
    assert language.write(fresh(constraint), held)


# --- tools -------------------------------------------------------------------------------------------------

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city"],
    },
    "now": {"type": "object", "properties": {}},
    'odd "name" \\ é🎉': {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in ODD_NAMES},
        "required": ODD_NAMES[:3],
    },
    "tree": {"type": "object", "properties": {"node": {"$ref": "#/$defs/node"}}, "$defs": {"node": NODE}},
    "untyped": {"properties": {"a": {"type": ["boolean", "null"]}}, "required": ["a"]},
}
TOOL_FIELDS = [
    {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in TOOLS.items()
]


def read_calls(text: bytes) -> list[tuple[str, Any]]:
    """Read calls as the gateway does; there must be nothing else in the text."""
    reader = CallReader()
    calls = reader.feed(text.decode())
    assert (reader.calling, reader.pending.strip()) == (True, "")
    return [(call.name, msgspec.json.decode(call.arguments)) for call in calls]


def walked_calls(language: Language, **fields: Any) -> list[list[tuple[str, Any]]]:
    """The calls of many ways through the grammar of all tools."""
    found = []
    for seed in range(5 * WALKS):
        constraint = language.constraint(tools=TOOL_FIELDS, **fields)
        assert constraint.calls is not None
        assert constraint.check == {}
        text = language.walk(constraint.calls, Random(seed))
        if text is not None:
            found.append(read_calls(text))
    return found


@pytest.mark.parametrize("choice", ["auto", "required", None])
def test_every_way_through_the_tools_makes_calls_of_them(language: Language, choice: str | None) -> None:
    found = walked_calls(language, tool_choice=choice)
    for calls in found:
        assert calls
        for name, arguments in calls:
            Draft202012Validator(TOOLS[name]).validate(arguments)
            assert set(arguments) <= set(TOOLS[name]["properties"])
    assert {name for calls in found for name, _ in calls} == set(TOOLS)
    assert {len(calls) > 1 for calls in found} == {False, True}


def test_a_named_function_is_called_once(language: Language) -> None:
    choice = {"type": "function", "function": {"name": "now"}}
    assert walked_calls(language, tool_choice=choice) == [[("now", {})]] * (5 * WALKS)


def test_without_parallel_calls_there_is_one(language: Language) -> None:
    found = walked_calls(language, tool_choice="required", parallel_tool_calls=False)
    assert {len(calls) for calls in found} == {1}


def test_a_call_without_choices_is_forced_from_its_beginning_to_its_end(language: Language) -> None:
    choice = {"type": "function", "function": {"name": "now"}}
    matcher = language.constraint(tools=TOOL_FIELDS, tool_choice=choice).calls
    assert matcher is not None
    forced = matcher.forced()
    for token in forced:
        assert matcher.allows(token)
        matcher.accept(token)
    text = b"".join(map(language.model.piece, forced))
    assert text.decode() == f'{CALL_OPEN}\n{{"name": "now", "arguments": {{}}}}\n{CALL_CLOSE}'
    assert matcher.complete


@pytest.mark.parametrize(
    ("fields", "has"),
    [
        ({}, (False, False, False, False)),
        ({"tools": TOOL_FIELDS}, (True, False, False, True)),
        ({"tools": TOOL_FIELDS, "tool_choice": "none"}, (False, False, False, False)),
        ({"tools": TOOL_FIELDS, "tool_choice": "required"}, (True, True, False, True)),
        ({"tools": TOOL_FIELDS, "response_format": {"type": "json_object"}}, (True, False, True, True)),
        (
            {"tools": TOOL_FIELDS, "tool_choice": "none", "response_format": {"type": "json_object"}},
            (False, False, True, False),
        ),
        ({"response_format": {"type": "text"}}, (False, False, False, False)),
    ],
)
def test_a_request_says_whether_there_may_be_calls_or_words(
    language: Language, fields: dict[str, Any], has: tuple[bool, bool, bool, bool]
) -> None:
    found = language.constraint(**fields)
    assert has == (
        found.calls is not None,
        found.must_call,
        found.words is not None,
        found.no_call is not None,
    )


OPENINGS = (CALL_OPEN, "```", "{", "[")


def test_no_way_through_words_begins_as_a_call(language: Language) -> None:
    for seed in range(10 * WALKS):
        random, matcher = Random(seed), no_call(language)
        tempting = language.tokens_of(" \n\t<tool_call>`{[")
        text = b""
        for _ in range(12):
            mask = matcher.mask()
            likely = tempting[mask[tempting]]
            token = int(
                random.choice(likely if len(likely) and random.random() < 0.8 else np.flatnonzero(mask))
            )
            if token in language.model.end_tokens:
                assert text
                break
            matcher.accept(token)
            text += language.model.piece(token)
            assert not text.decode(errors="replace").lstrip(" \r\n\t").startswith(OPENINGS)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("Paris is the capital of France.\n\nIt has {many} [parks].", True),
        ("  Hello", True),
        ("<b>bold</b>", True),
        ("<tool>", True),
        ("`x` is a name", True),
        ("日本語 🎉", True),
        ("Say <tool_call>", True),
        ("<tool_call>", False),
        ("\n <tool_call>\n{", False),
        ("```json\n{}", False),
        ('{"name": "now"}', False),
        (" [1]", False),
    ],
)
def test_words_are_what_does_not_begin_as_a_call(language: Language, text: str, allowed: bool) -> None:
    matcher = no_call(language)
    assert (language.write(matcher, text) and matcher.satisfied) is allowed


def test_words_are_not_nothing(language: Language) -> None:
    assert not no_call(language).satisfied


def no_call(language: Language) -> Matcher:
    matcher = language.constraint(tools=TOOL_FIELDS).no_call
    assert matcher is not None
    return matcher


# --- matchers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string", "maxLength": 3}, '"abc'),
        (NODE | {"$defs": {"node": NODE}}, '{"value": 12, "next": {'),
    ],
)
def test_a_mask_says_of_each_token_whether_it_is_allowed(
    language: Language, schema: dict[str, Any], text: str
) -> None:
    matcher = fresh(language.answer(schema))
    for token in language.model.tokenize(text):
        mask = matcher.mask()
        allowed = [matcher.allows(token) for token in range(language.model.n_vocab)]
        if not (forced := matcher.forced()):
            assert mask.tolist() == allowed
        else:  # of several ways to cut the same text into tokens, a mask knows the model's own
            assert [mask[forced[0]], allowed[forced[0]]] == [True, True]
            assert not (mask & ~np.array(allowed)).any()
        matcher.accept(token)


def test_a_token_that_is_not_allowed_is_not_accepted(language: Language) -> None:
    matcher = fresh(language.answer({"type": "boolean"}))
    with pytest.raises(GrammarError):
        matcher.accept(language.model.tokenize("maybe")[0])


def test_matchers_of_one_grammar_do_not_know_of_each_other(language: Language) -> None:
    first, second = (language.grammars.compile('start: "one two"') for _ in range(2))
    assert language.write(first, "one two")
    assert (first.complete, second.complete, second.satisfied) == (True, False, False)
    assert language.grammars.compile('start: "one two"').forced() == second.forced()


def test_more_grammars_than_are_kept_can_be_used(language: Language) -> None:
    matchers = [language.grammars.compile(f'start: "word {number}"') for number in range(150)]
    again = language.grammars.compile('start: "word 0"')
    assert all(language.write(matcher, f"word {number}") for number, matcher in enumerate(matchers))
    assert language.write(again, "word 0")


def test_grammars_may_be_compiled_in_several_threads(language: Language) -> None:
    def compile_and_write(number: int) -> bool:
        return language.write(
            language.grammars.compile(f'start: "thread {number % 40}"'), f"thread {number % 40}"
        )

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(compile_and_write, range(200))) == [True] * 200


@pytest.mark.parametrize("grammar", ["start: nothing", "start: /(/", "", 'start: %json {"type": 5}'])
def test_what_is_no_grammar_is_an_error(language: Language, grammar: str) -> None:
    with pytest.raises(GrammarError):
        language.grammars.compile(grammar)


@pytest.mark.parametrize(
    ("name", "special"),
    [("<|im_end|>", True), ("<tool_call>", False), ("word", False), ("<|im_end|>x", False)],
)
def test_it_knows_which_marks_are_tokens_of_their_own(language: Language, name: str, special: bool) -> None:
    assert language.grammars.has_special(name) is special


def test_text_cannot_spell_a_special_token(language: Language) -> None:
    matcher = fresh(language.answer({"type": "string"}))
    [end] = language.model.tokenize("<|im_end|>", parse_special=True)
    matcher.accept(language.model.tokenize('"')[0])
    assert not matcher.allows(end)
    assert language.write(matcher, '<|im_end|>"')
