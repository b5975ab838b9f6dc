"""What an answer must look like, as a grammar for llama.cpp (GBNF); and tool calls read back out of the text."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from ...errors import InvalidRequest
from ...wire import ChatFields, FunctionDef, NamedToolChoice

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"

# Grammars are made once per schema; an agent sends the same ones over and over.
_KEPT = 256

_ANY_OBJECT: dict[str, Any] = {"type": "object"}

_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer must look like.

    Attributes:
        grammar: In GBNF; None for free text.
        param: The request's field that the grammar was made of; None for free text.
        calls: Whether the answer may be tool calls, written as `<tool_call>{…}</tool_call>`.
    """

    grammar: str | None = None
    calls: bool = False
    param: str | None = None


def constraint_of(fields: ChatFields) -> Constraint:
    """Return the constraint that a request's tools and `response_format` make.

    Raises:
        InvalidRequest: A schema cannot be expressed as a grammar; names the field.
    """
    functions = [tool.function for tool in fields.tools or () if tool.function is not None]
    if functions and fields.tool_choice != "none":
        return Constraint(_tools_grammar(fields, functions), calls=True, param="tools")
    form = fields.response_format
    if form is None or form.type == "text":
        return Constraint()
    if form.type == "json_object" or form.json_schema is None or form.json_schema.definition is None:
        return Constraint(_schema_grammar(_encode(_ANY_OBJECT)), param="response_format")
    param = "response_format.json_schema.schema"
    try:
        return Constraint(_schema_grammar(_encode_in_order(form.json_schema.definition)), param=param)
    except UnsupportedSchema as exc:
        raise unsupported(param, exc) from exc


class UnsupportedSchema(ValueError):
    """A JSON schema that llama.cpp's converter cannot express."""


def unsupported(param: str | None, exc: UnsupportedSchema) -> InvalidRequest:
    """Return the error for a schema that cannot be followed; `param` is the field that has it."""
    message = f"Invalid value for '{param}': the local model cannot follow this schema ({exc})."
    return InvalidRequest(message, param=param, code="unsupported_schema")


def _encode_in_order(schema: Mapping[str, Any]) -> bytes:
    # Not sorted: the order of properties is the order in which they are written.
    return msgspec.json.encode(schema)


@lru_cache(maxsize=_KEPT)
def _schema_grammar(schema: bytes) -> str:
    converter = _converter()
    _visit(converter, msgspec.json.decode(schema), "", "response")
    return str(converter.format_grammar())


def _tools_grammar(fields: ChatFields, functions: Sequence[FunctionDef]) -> str:
    choice = fields.tool_choice
    if isinstance(choice, NamedToolChoice) and choice.function is not None:
        functions = [function for function in functions if function.name == choice.function.name]
    must_call = choice == "required" or isinstance(choice, NamedToolChoice)
    # A named function is called once; more calls of it would be guesses.
    many = fields.parallel_tool_calls is not False and not isinstance(choice, NamedToolChoice)
    schemas = tuple((function.name, _encode_in_order(function.parameters or {})) for function in functions)
    try:
        return _calls_grammar(schemas, must_call, many)
    except UnsupportedSchema as exc:
        raise unsupported("tools", exc) from exc


@lru_cache(maxsize=_KEPT)
def _calls_grammar(functions: tuple[tuple[str, bytes], ...], must_call: bool, many: bool) -> str:
    """Return a grammar for one or more calls, or (unless `must_call`) text without a call in it."""
    converter = _converter()
    calls: list[str] = []
    for at, (name, parameters) in enumerate(functions):
        schema = msgspec.json.decode(parameters)
        arguments = f'"{{" {SPACE} "}}"'
        if (
            schema.get("properties")
            or schema.get("additionalProperties")
            or not set(schema)
            <= {
                "type",
                "properties",
                "required",
                "additionalProperties",
            }
        ):
            arguments = _visit(converter, schema, f"tool{at}-args", f"tool{at}")
        calls.append(f'{_literal(_json({"name": name})[:-1] + ", ")} "\\"arguments\\": " {arguments} "}}"')
    one = f'"{CALL_OPEN}\\n" ({" | ".join(calls)}) space "{CALL_CLOSE}"'
    rules = [f"call ::= {one}", "calls ::= call" + (' ("\\n" call)*' if many else "")]
    rules.append("root ::= calls" if must_call else "root ::= calls | text")
    if not must_call:
        rules += _text_rules()
    return "\n".join([str(converter.format_grammar()), *rules])


SPACE = "space"


def _text_rules() -> list[str]:
    """Text that has no call in it: after `<`, anything but the rest of `<tool_call`."""
    rest = CALL_OPEN[1:-1]
    rules = ["text ::= (char | open0)+", "char ::= [^<]"]
    for at, letter in enumerate(rest):
        following = f'"{letter}" open{at + 1}' if at + 1 < len(rest) else '"" '
        start = '"<" ' if at == 0 else ""
        tail = f"([^{letter}<] | {following})?" if at + 1 < len(rest) else f"[^{letter}<]?"
        rules.append(f"open{at} ::= {start}{tail}")
    return rules


def _converter() -> Any:
    from llama_cpp.llama_grammar import SchemaConverter

    class Converter(SchemaConverter):  # type: ignore[misc,unused-ignore]
        """Escapes backslashes in names and values too; the original's grammar does not parse then."""

        def _format_literal(self, literal: str) -> str:
            return _literal(literal)

    return Converter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)


def _visit(converter: Any, schema: Any, name: str, url: str) -> str:
    """Add a schema's rules; returns the name of the first."""
    try:
        schema = _bounded(copy.deepcopy(schema))  # the converter writes into it
        return str(converter.visit(converter.resolve_refs(schema, url), name))
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as exc:
        # What llama-cpp-python's converter raises, by chance or on purpose, for schemas that it does not know.
        raise UnsupportedSchema(str(exc)[:200] or type(exc).__name__) from exc


# llama.cpp reads a repetition by recursion, one level each: tens of thousands of them overflow the thread's stack,
# which ends the process.
_MOST_REPEATS = 500
_DEEPEST = 64
_REPEATS = ("minLength", "maxLength", "minItems", "maxItems")
_QUANTIFIER = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")


def _bounded(schema: Any, depth: int = 0) -> Any:
    """Return a schema with repetitions that a grammar can hold; an upper bound beyond that is dropped.

    Raises:
        UnsupportedSchema: It needs more repetitions, or is nested too deep.
    """
    if depth > _DEEPEST:
        raise UnsupportedSchema(f"nested deeper than {_DEEPEST} levels")
    if isinstance(schema, list):
        return [_bounded(item, depth + 1) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _bounded(value, depth + 1) for key, value in schema.items()}
    for key in _REPEATS:
        if isinstance(kept.get(key), int) and kept[key] > _MOST_REPEATS:
            if key.startswith("min"):
                raise UnsupportedSchema(f"{key} over {_MOST_REPEATS}")
            del kept[key]
    pattern = kept.get("pattern")
    if isinstance(pattern, str):
        counts = [int(count) for pair in _QUANTIFIER.findall(pattern) for count in pair if count]
        if max(counts, default=0) > _MOST_REPEATS:
            raise UnsupportedSchema(f"a pattern that repeats over {_MOST_REPEATS} times")
    return kept


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A call as the model wrote it: arguments are JSON text."""

    name: str
    arguments: str


class CallReader:
    """Finds tool calls in text as it arrives."""

    def __init__(self) -> None:
        self._text = ""
        self._begun = False

    @property
    def calling(self) -> bool | None:
        """Whether the answer is calls; None while that cannot be told yet."""
        if self._begun:
            return True
        start = self._text.lstrip()
        if start.startswith(CALL_OPEN):
            return True
        return None if CALL_OPEN.startswith(start) else False

    def feed(self, text: str) -> list[ParsedCall]:
        """Take more text; returns the calls that it completes."""
        self._text += text
        found: list[ParsedCall] = []
        while self.calling and (read := self._first()) is not None:
            self._begun = True
            call, self._text = read
            found.append(call)
        return found

    def _first(self) -> tuple[ParsedCall, str] | None:
        """Return the first whole call and what follows it. A closing mark inside an argument does not end a call."""
        end = self._text.find(CALL_CLOSE)
        while end >= 0:
            call = _read_call(self._text[:end].partition(CALL_OPEN)[2])
            if call is not None:
                return call, self._text[end + len(CALL_CLOSE) :]
            end = self._text.find(CALL_CLOSE, end + 1)
        return None

    @property
    def pending(self) -> str:
        """Text that is no call so far."""
        return self._text


def _read_call(text: str) -> ParsedCall | None:
    try:
        call = msgspec.json.decode(text.strip().encode())
        return ParsedCall(call["name"], _json(call["arguments"]))
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
