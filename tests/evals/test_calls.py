"""`eval calls`: what counts as a call, a valid one and a right one, and the figures that are made of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smallfirst.evals.calls import (
    CallOutcome,
    CallRow,
    auc,
    call_rows,
    calls_report,
    chosen,
    confidence_report,
    run_calls,
)
from smallfirst.evals.checkers import Answer
from smallfirst.router.cli.evaluate import evaluate
from smallfirst.router.confidence import Confidence
from smallfirst.router.errors import InvalidRequest, ModelUnavailable, SettingsError
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import Settings, default_local_model
from smallfirst.router.training.files import DataError
from smallfirst.router.wire import ChatRequest, Reply, ReplyStream

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data"))
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
RIGHT = [{"get_weather": {"city": ["Oslo"]}}]
NO_CALL = {"type": "bfcl_no_call"}


def ast(language: str = "python") -> dict[str, Any]:
    doc = {
        "name": "get_weather",
        "parameters": {"properties": {"city": {"type": "String"}}, "required": ["city"]},
    }
    return {"type": "bfcl_ast", "language": language, "category": f"simple_{language}", "func_doc": [doc]}


def row(
    name: str, subset: str, spec: dict[str, Any], text: str = "Will it rain in Oslo?", **body: Any
) -> dict[str, str]:
    """Return a row as the evaluation data has it: its columns are JSON text."""
    request = {"messages": [{"role": "user", "content": text}], "tools": [TOOL], **body}
    expected = [] if spec == NO_CALL else RIGHT
    columns = {"request": request, "expected": expected, "checker": spec}
    return {"id": name, "subset": subset} | {key: json.dumps(value) for key, value in columns.items()}


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings() -> Settings:
    return Settings(models=(default_local_model(),))


class Scripted:
    """Streams the deltas that it is given."""

    name = "scripted"

    def __init__(self, *deltas: dict[str, Any], confidence: Confidence | None = None) -> None:
        self._deltas = deltas
        self._confidence = confidence
        self.sent = 0
        self.closed = False

    async def stream(self, request: ChatRequest) -> ReplyStream:
        stream = ReplyStream(self._chunks())
        stream.confidence = self._confidence
        return stream

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            for delta in self._deltas:
                self.sent += 1
                yield json.dumps({"choices": [{"delta": delta, "finish_reason": None}]}).encode()
            yield json.dumps({"choices": [{"delta": {}, "finish_reason": "length"}]}).encode()
            yield json.dumps({"choices": [], "usage": {}}).encode()
        finally:
            self.closed = True

    async def complete(self, request: ChatRequest) -> Reply:
        raise NotImplementedError

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...


class Refusing(Scripted):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def stream(self, request: ChatRequest) -> ReplyStream:
        raise self._error


def one_row(check: Any = lambda answer: bool(answer.calls)) -> list[CallRow]:
    body = {"messages": [{"role": "user", "content": "Will it rain in Oslo?"}], "tools": [TOOL]}
    return [CallRow("r", "s", body, check)]


def part(index: int, name: str | None, arguments: str) -> dict[str, Any]:
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"tool_calls": [{"index": index, "function": function}]}


# --- asking ---------------------------------------------------------------------------------------------------


async def test_the_real_model_is_asked(local_model: LocalModel, tmp_path: Path) -> None:
    rows = [
        row("call", "simple_python", ast(), tool_choice="required"),
        row("words", "irrelevance", NO_CALL, "Describe the sea at length.", tool_choice="none"),
        row("long", "irrelevance", NO_CALL, "word " * 6000),
    ]
    told: list[None] = []
    found = await run_calls(
        local_model, call_rows(write(tmp_path / "d.jsonl", rows)), progress=lambda: told.append(None)
    )
    call, words, long = found
    assert (call.calls, call.valid, call.finish_reason) == (1, 1, "tool_calls")
    assert call.confidence is not None
    assert call.ok is not None
    assert (words.ok, words.calls, words.finish_reason, words.confidence) == (True, 0, None, None)
    # Who routes there gets no answer, even where none is right.
    assert (long.ok, long.error) == (False, "context_length_exceeded")
    assert len(told) == 3


async def test_words_are_read_no_further_than_needed() -> None:
    model = Scripted(*({"content": "ten chars "} for _ in range(30)))
    (found,) = await run_calls(model, one_row())
    assert (model.sent, model.closed) == (7, True)
    assert (found.ok, found.calls, found.finish_reason) == (False, 0, None)


async def test_a_call_in_parts_is_put_together_however_many_words_came_before() -> None:
    sure = Confidence(-0.1, -0.2, 3.0, 4)
    model = Scripted(
        {"role": "assistant", "content": "Let me see."},
        part(0, "get_weather", '{"city"'),
        part(0, None, ': "Oslo"}'),
        part(1, "get_weather", '{"city": "Rome"}'),
        confidence=sure,
    )
    both = (("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"}))
    (found,) = await run_calls(model, one_row(lambda answer: answer.calls == both))
    assert found == CallOutcome("s", True, calls=2, valid=2, finish_reason="length", confidence=sure)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_rain", '{"city": "Oslo"}'),
        ("get_weather", '{"city": "Oslo"'),
        ("get_weather", '{"city": "Paris"}'),
        ("get_weather", "{}"),
    ],
)
async def test_a_call_that_does_not_follow_its_tool_is_not_valid(name: str, arguments: str) -> None:
    (found,) = await run_calls(Scripted(part(0, name, arguments)), one_row())
    assert (found.calls, found.valid) == (1, 0)


async def test_a_refused_row_is_wrong_unless_it_cannot_be_checked() -> None:
    model = Refusing(InvalidRequest("no", code="unsupported_schema"))
    found = await run_calls(model, [*one_row(), *one_row(check=None)])
    assert [(outcome.ok, outcome.error) for outcome in found] == [
        (False, "unsupported_schema"),
        (None, "unsupported_schema"),
    ]


async def test_a_model_that_is_gone_ends_it() -> None:
    with pytest.raises(ModelUnavailable):
        await run_calls(Refusing(ModelUnavailable("gone")), one_row())


# --- the figures ----------------------------------------------------------------------------------------------


def test_the_aggregates_are_bfcls() -> None:
    found = [
        CallOutcome("simple_python", True, calls=1, valid=1),
        CallOutcome("simple_python", False, calls=1),
        CallOutcome("simple_javascript", True, calls=1, valid=1),
        CallOutcome("simple_java", None, calls=1, valid=1),
        CallOutcome("multiple", True, calls=2, valid=2),
        CallOutcome("parallel", False, finish_reason="length"),
        CallOutcome("parallel_multiple", False, error="unsupported_schema"),
        CallOutcome("irrelevance", True),
        CallOutcome("live_irrelevance", False, calls=1),
        CallOutcome("live_irrelevance", False, calls=1),
    ]
    report = calls_report(found)
    assert report["simple"] == 0.75
    assert report["simple_languages"] == ["python", "javascript"]
    assert report["non_live"] == (0.75 + 1) / 4
    assert report["irrelevance"] == {"all": 1 / 3, "irrelevance": 1.0, "live_irrelevance": 0.0}
    assert report["by_subset"]["simple_java"] == {
        "n": 1, "checked": 0, "correct": None, "accuracy": None, "called": 1.0, "valid": 1.0, "unserved": {}, "cut": 0,
    }  # fmt: skip
    assert (report["n"], report["checked"], report["correct"]) == (10, 9, 4)
    assert (report["called"], report["valid"], report["cut"]) == (0.7, 5 / 8, 1)
    assert report["unserved"] == {"unsupported_schema": 1}


def test_without_one_of_its_parts_there_is_no_non_live_score() -> None:
    report = calls_report([CallOutcome("multiple", True), CallOutcome("parallel", True)])
    assert (report["simple"], report["non_live"], report["irrelevance"]["all"]) == (None, None, None)
    assert calls_report([])["accuracy"] is None


def test_confidence_is_of_rows_with_calls_that_can_be_checked() -> None:
    def outcome(ok: bool | None, mean: float, least: float, margin: float) -> CallOutcome:
        return CallOutcome("s", ok, calls=1, valid=1, confidence=Confidence(mean, least, margin, 5))

    report = confidence_report(
        [
            outcome(True, -0.01, -3.0, 1.0),
            outcome(True, -0.2, -1.0, 1.0),
            outcome(False, -0.3, -2.0, 1.0),
            outcome(None, -0.1, -0.1, 1.0),
            CallOutcome("s", True),
        ]
    )
    assert (report["n"], report["auc_mean"], report["auc_min"], report["auc_margin"]) == (3, 1.0, 0.5, 0.5)
    by_threshold = {line["threshold"]: (line["kept"], line["accuracy"]) for line in report["thresholds"]}
    assert by_threshold[0.5] == (1.0, pytest.approx(2 / 3))
    assert by_threshold[0.8] == (pytest.approx(2 / 3), 1.0)
    assert by_threshold[0.99] == (pytest.approx(1 / 3), 1.0)


def test_area_under_the_curve() -> None:
    assert auc([3, 2, 1, 0], [True, False, True, False]) == 0.75
    assert auc([1, 1], [True, False]) == 0.5
    assert auc([1, 2], [True, True]) is None
    assert auc([], []) is None


# --- rows -----------------------------------------------------------------------------------------------------


def test_the_order_is_fixed_and_more_rows_begin_with_the_fewer(tmp_path: Path) -> None:
    lines = [row(str(at), f"s{at % 2}", NO_CALL) for at in range(20)]
    one, same = (
        call_rows(write(tmp_path / name, order))
        for name, order in (("a.jsonl", lines), ("b.jsonl", lines[::-1]))
    )
    assert [r.id for r in chosen(one)] == [r.id for r in chosen(same)] != sorted(r.id for r in one)
    assert [r.id for r in chosen(one, 9, ["s1"])][:4] == [r.id for r in chosen(one, 4, ["s1"])]
    assert {r.subset for r in chosen(one, 2)} == {"s0", "s1"}
    with pytest.raises(DataError, match="no subset 's9'; there are s0, s1"):
        chosen(one, subsets=["s9"])


@pytest.mark.parametrize("column", ["id", "subset", "request", "expected", "checker"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    lines = [row("r1", "s", NO_CALL)]
    del lines[0][column]
    with pytest.raises(DataError, match=rf"d\.jsonl: row (r1|1): column '{column}' is missing"):
        call_rows(write(tmp_path / "d.jsonl", lines))


def test_java_cannot_be_checked_without_bfcls_own_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)
    data = write(tmp_path / "d.jsonl", [row("p", "s", ast()), row("j", "s", ast("java"))])
    assert [r.check is None for r in call_rows(data)] == [False, True]


def test_bfcls_own_package_checks_java(tmp_path: Path) -> None:
    pytest.importorskip("bfcl_eval", reason="pip install --no-deps bfcl-eval==2026.3.23")
    (java,) = call_rows(write(tmp_path / "d.jsonl", [row("j", "s", ast("java"))]))
    assert java.check is not None
    assert java.check(Answer("", (("get_weather", {"city": "Oslo"}),)))
    assert not java.check(Answer("", (("get_weather", {"city": "Rome"}),)))
    assert not java.check(Answer("", (("get_weather", {"city": 3}),)))
    assert not java.check(Answer(""))
    assert "bfcl_eval.constants.model_config" not in sys.modules


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set SMALLFIRST_DATA")
def test_all_but_java_and_javascript_of_the_evaluation_data_can_be_checked() -> None:
    bfcl, snips = (call_rows(DATA / f"function_call_{name}_dev.parquet") for name in ("bfcl", "snips"))
    open_subsets = {r.subset for r in [*bfcl, *snips] if r.check is None}
    assert open_subsets <= {"simple_java", "simple_javascript"}
    assert (len(bfcl), len(snips)) == (1489, 2077)


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_prints_one_object_last(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "d.jsonl", [row(str(at), "snips", NO_CALL, tool_choice="required") for at in range(3)])
    monkeypatch.setenv("SMALLFIRST_DATA", str(folder))
    options = ["calls", "--gguf", str(model_path), "--data", "d.jsonl", "--per-subset", "1", "--json"]
    said = CliRunner().invoke(evaluate, options, obj=settings, catch_exceptions=False)
    assert said.exit_code == 0, said.output
    report = json.loads(said.stdout)
    assert (report["model"], report["data"], report["n"]) == (model_path.stem, "d.jsonl", 1)
    assert (report["called"], report["valid"], report["accuracy"]) == (1.0, 1.0, 0.0)
    assert report["confidence"]["n"] == 1
    assert model_path.stem in said.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [([], "either --gguf or --model"), (["--gguf", "x.gguf", "--model", "m"], "either --gguf or --model")],
)
def test_one_model_must_be_named(options: list[str], problem: str) -> None:
    said = CliRunner().invoke(evaluate, ["calls", "--data", "d.jsonl", *options], obj=settings)
    assert said.exit_code == 2
    assert problem in said.stderr


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", [row("r", "s", NO_CALL)])
    with pytest.raises(SettingsError, match="no local model is named 'gpt-5'"):
        CliRunner().invoke(
            evaluate, ["calls", "--data", str(data), "--model", "gpt-5"], obj=settings, catch_exceptions=False
        )
