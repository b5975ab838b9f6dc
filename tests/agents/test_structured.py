"""What reads structured output: whole answers, cut ones, and what is no JSON."""

from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from smallfirst.agents.structured import Method, asking_for, parser_of


class City(BaseModel):
    """A city."""

    name: str


METHODS: list[Method] = ["json_schema", "json_mode", "function_calling"]
SCHEMAS = [City, City.model_json_schema()]


def said(text: str, finish: str = "stop", **fields: Any) -> AIMessage:
    return AIMessage(text, response_metadata={"finish_reason": finish}, **fields)


@pytest.mark.parametrize("text", ['{"name": "Oslo"}', '```json\n{"name": "Oslo"}\n```'])
def test_json_is_read_as_the_class_or_as_a_dictionary(text: str) -> None:
    found = [parser_of(schema, "json_mode").invoke(said(text)) for schema in SCHEMAS]
    assert found == [City(name="Oslo"), {"name": "Oslo"}]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_cut_answer_is_not_completed_by_guesses(schema: Any) -> None:
    """LangChain's own parser makes `{"name": "Os"}` of it."""
    with pytest.raises(OutputParserException, match="cut off"):
        parser_of(schema, "json_schema").invoke(said('{"name": "Os', "length"))
    with pytest.raises(OutputParserException, match="Invalid json"):
        parser_of(schema, "json_schema").invoke(said('{"name": "Os'))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_cut_call_is_an_error_and_an_answer_in_words_is_none(schema: Any) -> None:
    parser = parser_of(schema, "function_calling")
    with pytest.raises(OutputParserException, match="cut off"):
        parser.invoke(said("", "length"))
    assert not parser.invoke(said("Which one?"))
    call = {"name": "City", "args": {"name": "Oslo"}, "id": "c1", "type": "tool_call"}
    assert parser.invoke(said("", tool_calls=[call])) in (City(name="Oslo"), {"name": "Oslo"})


def test_a_list_is_no_object() -> None:
    with pytest.raises(OutputParserException, match="no object"):
        parser_of(City.model_json_schema(), "json_mode").invoke(said("[1]"))


def test_a_method_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'yaml' is none of"):
        asking_for(City, "yaml", None)  # type: ignore[arg-type]
