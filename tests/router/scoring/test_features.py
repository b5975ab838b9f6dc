"""What is read of a request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.scoring.features import NAMES, STRUCTURE, FeatureReader, Features
from smallfirst.router.wire import ChatRequest


@pytest.fixture(scope="module")
def reader() -> FeatureReader:
    return FeatureReader(TokenEmbedding.load())


def read(reader: FeatureReader, *messages: Any, **body: Any) -> Features:
    wire = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
    return reader.read(ChatRequest.parse({"messages": wire, **body}))


def value(features: Features, name: str) -> float:
    return float(features.structure[NAMES.index(name)])


def test_every_column_is_named_once_and_described() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(meaning for _, meaning in STRUCTURE)


def test_there_is_a_value_for_every_column(reader: FeatureReader) -> None:
    assert read(reader, "What is the capital of France?").structure.shape == (len(NAMES),)


def test_roles_tools_and_schema_are_seen(reader: FeatureReader) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]}}}  # fmt: skip
    schema = {"type": "object", "properties": {"label": {"type": "string", "enum": ["x", "y", "z"]}}}
    features = read(
        reader,
        {"role": "system", "content": "Be brief."},
        "Which label?",
        tools=[tool],
        tool_choice="required",
        response_format={"type": "json_schema", "json_schema": {"name": "l", "schema": schema}},
    )
    seen = {
        n: value(features, n)
        for n in ("has_system", "has_tools", "choice_required", "json_schema", "few_labels")
    }
    assert seen == dict.fromkeys(seen, 1.0)
    assert value(features, "log_parameters") == pytest.approx(np.log(3))
    assert value(features, "log_labels") == pytest.approx(np.log(4))


def test_a_tool_result_at_the_end_is_an_agents_step(reader: FeatureReader) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    features = read(
        reader,
        "list the files",
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "a.txt"},
    )
    assert value(features, "last_is_tool") == 1
    assert value(features, "log_tool_calls") == pytest.approx(np.log(2))


def test_the_conversation_counts_beside_the_last_message(reader: FeatureReader) -> None:
    alone = read(reader, "commit it")
    later = read(reader, "Refactor the parser module", {"role": "assistant", "content": "Done."}, "commit it")
    assert np.array_equal(alone.focus, later.focus)
    assert not np.allclose(alone.context, later.context)
    assert value(later, "log_context_tokens") > value(alone, "log_context_tokens")


def test_of_a_few_shot_prompt_the_last_question_is_the_focus(reader: FeatureReader) -> None:
    shots = "".join(f"Which is {n}?\nAnswer:\n{n}\n\n" for n in ("red", "green", "blue"))
    features = read(reader, f"{shots}What is the capital of France?\nAnswer:")
    assert value(features, "few_shot") == 1
    assert np.array_equal(features.focus, read(reader, "What is the capital of France?\nAnswer:").focus)


def test_a_short_prompts_tokens_are_counted_and_a_long_ones_estimated(reader: FeatureReader) -> None:
    short = read(reader, "hello world").input_tokens
    long = read(reader, "hello world " * 100_000).input_tokens
    assert short == 2 + 4
    assert long == pytest.approx(200_000, rel=0.02)
    assert reader.count_tokens("hello world " * 100_000) == pytest.approx(200_000, rel=0.02)


def test_tools_cost_tokens(reader: FeatureReader) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 3500}}
    assert read(reader, "hi", tools=[tool]).input_tokens > 1000


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\n", "🙂" * 50, "你好" * 3000, "\ud800", "a" * 2_000_000, "Answer:\n\n" * 5000, "\x00\x07"],
    ids=["empty", "space", "lines", "emoji", "chinese", "surrogate", "huge", "marks", "control"],
)
def test_no_text_breaks_it(reader: FeatureReader, text: str) -> None:
    features = read(reader, text)
    assert np.isfinite(features.structure).all()
    assert np.isfinite(features.focus).all()
    assert features.input_tokens >= 0
