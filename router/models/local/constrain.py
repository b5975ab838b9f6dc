"""What an answer must look like, as a grammar over the model's tokens (llguidance's variant of Lark).

llguidance is the engine that llama.cpp itself can be built with in place of its own grammars. It expresses what these
cannot (bounds of numbers, recursive references, patterns), refuses what it does not know instead of ending the process,
answers in microseconds, and knows which tokens are forced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from ...errors import InvalidRequest
from ...wire import ChatFields, FunctionDef, NamedToolChoice
from .calls import CALL_CLOSE, CALL_OPEN, call_opening
from .engine import GrammarError, Grammars, Matcher
from .schemas import NotASchema, check_schema, closed, has_pattern

# Schemas whose grammar is remembered: an agent sends the same ones over and over.
_KEPT = 256

# As small models write JSON; without room for white space they cannot lose themselves in it.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


# Any text that does not begin as a call does, in whichever form.
_NO_CALL = "start: WORDS\n" rf"WORDS: /(?s:.+)/ & ~/\s*({CALL_OPEN}|```|\{{|\[)(?s:.*)/"


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer must look like. All matchers are at their grammar's beginning; None is free text.

    Attributes:
        calls: For tool calls, written as `<tool_call>{…}</tool_call>`; None where there may be none.
        must_call: Whether the answer must be calls; else it may be words, too.
        words: For an answer that is no call: the wanted JSON, or anything.
        no_call: For words of a model that would rather have called: not what calls begin with.
        check: Schemas that the grammar does not hold wholly, by function (`""`: the whole answer): to be checked
            when the answer is there.
    """

    calls: Matcher | None = None
    must_call: bool = False
    words: Matcher | None = None
    no_call: Matcher | None = None
    check: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def constraint_of(fields: ChatFields, grammars: Grammars) -> Constraint:
    """Return the constraint that a request's tools and `response_format` make.

    Raises:
        InvalidRequest: A schema is none; names the field.
    """
    answer, check = _answer(fields, grammars)
    words = None if answer is None else _compile(grammars, answer)
    functions = _callable(fields)
    if not functions:
        return Constraint(words=words, check=check)
    rules, check_calls = _calls(fields, functions, grammars)
    calls = _compile(grammars, f"start: calls\n{rules}")
    no_call = _compile(grammars, answer or _NO_CALL)
    return Constraint(calls, _must_call(fields), words, no_call, check | check_calls)


def _answer(fields: ChatFields, grammars: Grammars) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """Return the grammar that `response_format` makes, and what is left to check."""
    form = fields.response_format
    if form is None or form.type == "text":
        return None, {}
    schema = form.json_schema.definition if form.type == "json_schema" and form.json_schema else None
    if schema is None:
        return _json_rule("start", _ANY_OBJECT), {}
    rule, whole = _schema_rule("start", schema, grammars, "response_format.json_schema.schema")
    return rule, {} if whole else {"": schema}


def _callable(fields: ChatFields) -> list[tuple[int, FunctionDef]]:
    """Return the functions that may be called, each with its place in `tools`."""
    if fields.tool_choice == "none":
        return []
    found = [(at, tool.function) for at, tool in enumerate(fields.tools or ()) if tool.function is not None]
    choice = fields.tool_choice
    if isinstance(choice, NamedToolChoice) and choice.function is not None:
        found = [(at, function) for at, function in found if function.name == choice.function.name]
    return found


def _must_call(fields: ChatFields) -> bool:
    return fields.tool_choice == "required" or isinstance(fields.tool_choice, NamedToolChoice)


def _calls(
    fields: ChatFields, functions: Sequence[tuple[int, FunctionDef]], grammars: Grammars
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the rules for `calls`, and the schemas that are left to check."""
    rules: list[str] = []
    check: dict[str, dict[str, Any]] = {}
    for at, function in functions:
        schema = function.parameters or {"type": "object", "properties": {}}
        where = f"tools[{at}].function.parameters"
        if "type" not in schema and "$ref" not in schema:
            schema = {"type": "object", **schema}
        rule, whole = _schema_rule(f"arguments{at}", schema, grammars, where)
        rules.append(rule)
        if not whole:
            check[function.name] = schema
    names = " | ".join(f"call{at}" for at, _ in functions)
    for at, function in functions:
        rules.append(f"call{at}: {_json(call_opening(function.name))} arguments{at}")
    # A named function is called once; more calls of it would be guesses.
    many = fields.parallel_tool_calls is not False and not isinstance(fields.tool_choice, NamedToolChoice)
    opens, closes = (_mark(grammars, mark) for mark in (CALL_OPEN, CALL_CLOSE))
    # A line break may follow without another call: whether one does is then the model's choice, and not the grammar's.
    more = r' ("\n" call)* "\n"?' if many else ""
    head = [f"calls: call{more}", rf'call: {opens} "\n" ({names}) "}}\n" {closes}']
    return "\n".join([*head, *rules]), check


def _mark(grammars: Grammars, mark: str) -> str:
    """Return how a grammar names a mark: as the token that some models have for it, or as text."""
    return mark if grammars.has_special(mark) else _json(mark)


def _schema_rule(name: str, schema: dict[str, Any], grammars: Grammars, where: str) -> tuple[str, bool]:
    """Return the rule for a schema, and whether it holds the whole of it."""
    encoded = msgspec.json.encode(schema)  # not sorted: properties are written in their order
    try:
        rule, whole = _rule_for(encoded, grammars)
    except NotASchema as exc:
        message = f"Invalid value for '{where}': not a JSON schema ({exc})."
        raise InvalidRequest(message, param=where, code="invalid_schema") from exc
    return f"{name}: {rule}", whole


@lru_cache(maxsize=_KEPT)
def _rule_for(encoded: bytes, grammars: Grammars) -> tuple[str, bool]:
    schema = msgspec.json.decode(encoded)
    check_schema(schema)
    candidates = [
        (_json_rule("start", closed(schema)), not has_pattern(schema)),
        (_json_rule("start", closed(schema), lenient=True), False),
        (_json_rule("start", _ANY_OBJECT), False),
    ]
    for rule, whole in candidates:
        try:
            grammars.compile(rule)
        except GrammarError:
            continue
        return rule.removeprefix("start: "), whole
    raise AssertionError("the grammar of any object compiles")


def _json_rule(name: str, schema: Any, *, lenient: bool = False) -> str:
    options = _STYLE | {"lenient": True} if lenient else _STYLE
    return f"{name}: %json {_json(schema | {'x-guidance': options})}"


def _compile(grammars: Grammars, rules: str) -> Matcher:
    try:
        return grammars.compile(rules)
    except GrammarError as exc:
        message = "Invalid value for 'tools': together they are too large to be followed."
        raise InvalidRequest(message, param="tools", code="unsupported_schema") from exc


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
