"""Structured output: what a request asks for, and what reads the answer."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    JsonOutputToolsParser,
    PydanticToolsParser,
)
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.json import parse_json_markdown
from langchain_core.utils.pydantic import is_basemodel_subclass

Method = Literal["json_schema", "function_calling", "json_mode"]
Parser = JsonOutputParser | JsonOutputToolsParser

_CUT = "The answer is cut off: it reached its limit of tokens. Give it more (`max_tokens`)."
# Models put line breaks into texts.
_loads = partial(json.loads, strict=False)


def asking_for(schema: dict[str, Any] | type, method: Method, strict: bool | None) -> dict[str, Any]:
    """Return the fields of a request whose answer is to have a schema, and what traces say of it.

    Raises:
        ValueError: There is no such method, or the schema has no name.
    """
    if method not in ("json_schema", "json_mode"):
        raise ValueError(f"method {method!r} is none of 'json_schema', 'function_calling' and 'json_mode'")
    traced = {"kwargs": {"method": method}, "schema": convert_to_openai_tool(schema)}
    if method == "json_mode":
        return {"response_format": {"type": "json_object"}, "ls_structured_output_format": traced}
    json_schema = convert_to_json_schema(schema)
    # OpenAI's names have no blanks; a schema's title may.
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(json_schema.get("title", "response")))[:64]
    named: dict[str, Any] = {"name": name, "schema": json_schema}
    if strict is not None:
        named["strict"] = strict
    form = {"type": "json_schema", "json_schema": named}
    return {"response_format": form, "ls_structured_output_format": traced}


def parser_of(schema: Any, method: Method) -> Parser:
    """Return what reads an answer: as a Pydantic object where the schema is such a class, else as a dictionary."""
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    if method == "function_calling":
        if is_class:
            return _CalledObject(tools=[schema], first_tool_only=True)
        name = convert_to_openai_tool(schema)["function"]["name"]
        return _CalledDict(key_name=name, first_tool_only=True)
    return _WholeObject(pydantic_object=schema) if is_class else _WholeDict()


def reading(bound: Runnable[Any, Any], parser: Parser, *, include_raw: bool) -> Runnable[Any, Any]:
    """Return a runnable that parses what `bound` answers.

    Args:
        bound: A model.
        parser: Of its answers.
        include_raw: Return `{"raw", "parsed", "parsing_error"}` and do not raise on what cannot be parsed.
    """
    if not include_raw:
        parsing: Runnable[Any, Any] = bound | parser
        return parsing
    parsed = RunnablePassthrough.assign(
        parsed=lambda x: parser.invoke(x["raw"]), parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _is_cut(result: list[Generation]) -> bool:
    first = result[0]
    return (
        isinstance(first, ChatGeneration) and first.message.response_metadata.get("finish_reason") == "length"
    )


class _WholeJson(JsonOutputParser):
    """Reads JSON that is all there: LangChain's own parser closes what is open in an answer that was cut."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """See `JsonOutputParser`."""
        if partial:
            return super().parse_result(result, partial=True)
        text = result[0].text
        try:
            return parse_json_markdown(text.strip(), parser=_loads)
        except json.JSONDecodeError as exc:
            message = _CUT if _is_cut(result) else f"Invalid json output: {text}"
            raise OutputParserException(message, llm_output=text) from exc


class _WholeDict(_WholeJson):
    """Reads a JSON object."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """See `JsonOutputParser`."""
        found = super().parse_result(result, partial=partial)
        if not partial and not isinstance(found, dict):
            raise OutputParserException(
                f"Invalid json output: no object: {result[0].text}", llm_output=result[0].text
            )
        return found


class _WholeObject(PydanticOutputParser[Any], _WholeJson):
    """Reads a JSON object as one of a Pydantic class."""


class _Called(JsonOutputToolsParser):
    """Reads a call. LangChain's convention is None where there is none; a call that was cut is an error."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """See `JsonOutputToolsParser`."""
        found = super().parse_result(result, partial=partial)
        if found is None and not partial and _is_cut(result):
            raise OutputParserException(_CUT)
        return found


class _CalledObject(_Called, PydanticToolsParser):
    """Reads a call's arguments as an object of a Pydantic class."""


class _CalledDict(_Called, JsonOutputKeyToolsParser):
    """Reads a call's arguments as a dictionary."""
