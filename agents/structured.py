"""Structured output: what a request asks for, and what reads the answer."""

from __future__ import annotations

import re
from typing import Any, Literal

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

Method = Literal["json_schema", "json_mode"]


def asking_for(schema: dict[str, Any] | type, method: Method, strict: bool | None) -> dict[str, Any]:
    """Return the fields of a request whose answer is to have a schema, and what traces say of it."""
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


def reading(
    bound: Runnable[Any, Any], schema: dict[str, Any] | type, *, include_raw: bool
) -> Runnable[Any, Any]:
    """Return a runnable that parses what `bound` answers.

    Args:
        bound: A model whose answers are JSON.
        schema: What they are parsed to: a Pydantic class, else to a dictionary.
        include_raw: Return `{"raw", "parsed", "parsing_error"}` and do not raise on what cannot be parsed.
    """
    parser: Any = JsonOutputParser()
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        parser = PydanticOutputParser(pydantic_object=schema)
    if not include_raw:
        parsing: Runnable[Any, Any] = bound | parser
        return parsing
    parsed = RunnablePassthrough.assign(
        parsed=lambda x: parser.invoke(x["raw"]), parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")
