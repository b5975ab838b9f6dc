"""`eval classify`: heads, heads that are trained for it, and a local model, on the same rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

from smallfirst.evals.calls import chosen
from smallfirst.evals.classification import (
    Guess,
    IntentRow,
    Trained,
    classification_report,
    guesses_of_model,
    guesses_of_trained,
    intent_rows,
    train_on_pool,
)
from smallfirst.router.cli.evaluate import evaluate
from smallfirst.router.errors import InvalidRequest
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import Settings, default_local_model
from smallfirst.router.training.files import DataError
from smallfirst.router.wire import ChatRequest, Reply, ReplyStream, Usage

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data"))
EXAMPLES = {
    "weather": [
        "will it rain tomorrow",
        "is it going to snow in Oslo",
        "what is the forecast",
        "is it windy today",
    ],
    "money": [
        "how much is in my account",
        "send 50 dollars to Ann",
        "what is my balance",
        "pay my electricity bill",
    ],
    "oos": [
        "who was the first king",
        "tell me about the moon",
        "how do magnets work",
        "explain a black hole",
    ],
}
DOMAINS = {"weather": "world", "money": "bank", "oos": "oos"}
TESTS = {
    "Will it  RAIN tomorrow": "weather",
    "what is my balance please": "money",
    "how do stars work": "oos",
}
LABELS = frozenset(EXAMPLES)


def row(text: str, label: str, subset: str = "intents", labels: Any = LABELS) -> dict[str, str]:
    """Return a row as the evaluation data has it: its columns are JSON text."""
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": sorted(labels)}},
        "required": ["label"],
        "additionalProperties": False,
    }
    request = {
        "messages": [
            {"role": "system", "content": f"Answer with one label of: {', '.join(sorted(labels))}"},
            {"role": "user", "content": text},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "label", "schema": schema}},
    }
    columns = {"request": request, "labels": sorted(labels), "expected": label}
    return {"id": f"{subset}/{text}", "subset": subset} | {k: json.dumps(v) for k, v in columns.items()}


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [row(text, label) for text, label in TESTS.items()]
    rows += [row(text, DOMAINS[label], "domains", DOMAINS.values()) for text, label in TESTS.items()]
    return write(tmp_path / "rows.jsonl", rows)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    rows = [
        {"text": text, "label": label, "source": "a", "domain": DOMAINS[label]}
        for label, texts in EXAMPLES.items()
        for text in texts
    ]
    rows += [{"text": f"x{at}", "label": "weather", "source": "b", "domain": "world"} for at in range(2)]
    return write(tmp_path / "pool.jsonl", rows)


@pytest.fixture
def trained(data: Path, pool: Path) -> dict[frozenset[str], Trained]:
    return train_on_pool(pool, intent_rows(data), [LABELS])


def guess(label: str | None, expected: str, sure: float | None = None, **more: Any) -> Guess:
    body = {"messages": [{"role": "user", "content": "x"}]}
    return Guess(IntentRow(f"{label}{expected}{sure}", "s", body, "x", LABELS, expected), label, sure, **more)


def command(*options: str) -> Result:
    def settings() -> Settings:
        return Settings(models=(default_local_model(),))

    return CliRunner().invoke(evaluate, ["classify", *options], obj=settings, catch_exceptions=False)


# --- heads ----------------------------------------------------------------------------------------------------


def test_no_test_text_is_learned_from(data: Path, pool: Path) -> None:
    steps: list[str] = []
    found = train_on_pool(pool, intent_rows(data), [LABELS], progress=steps.append)
    assert (found[LABELS].examples, found[LABELS].dropped) == (11, 1)
    assert found[LABELS].head.card["n"] == 11
    assert steps[-1] == "fitting the baseline"


def test_labels_that_the_pool_has_not_are_left_out(data: Path, pool: Path) -> None:
    rows = [*intent_rows(data)]
    found = train_on_pool(pool, rows, [frozenset({"a", "b"})])
    assert found == {}
    report = classification_report(rows, guesses_of_trained(rows, found), found)
    assert (report["n"], report["accuracy"], report["left_out"]) == (0, None, {"intents": 3, "domains": 3})


def test_the_head_and_the_baseline_label_the_same_rows(
    data: Path, trained: dict[frozenset[str], Trained]
) -> None:
    rows = intent_rows(data)
    guesses = guesses_of_trained(rows, trained)
    assert [g.row.text for g in guesses] == list(TESTS)
    assert all(g.sure is not None and 1 / 3 <= g.sure <= 1 for g in guesses)
    assert {g.baseline for g in guesses} <= LABELS
    figures = classification_report(rows, guesses, trained)["by_subset"]["intents"]
    assert figures["trained"] == {"examples": 11, "dropped": 1}
    assert figures["baseline"].keys() == {"accuracy", "in_scope_accuracy", "out_of_scope_recall"}


def test_the_command_trains_by_label_and_by_domain(data: Path, pool: Path) -> None:
    said = command("--data", str(data), "--train-pool", str(pool), "--json")
    report = json.loads(said.stdout)
    assert report["by"] == "trained on pool.jsonl"
    assert {name: of["n"] for name, of in report["by_subset"].items()} == {"intents": 3, "domains": 3}
    assert "fold 1 of 5" in said.stderr


def test_the_command_takes_the_head_that_has_the_rows_labels(
    data: Path, trained: dict[frozenset[str], Trained], tmp_path: Path
) -> None:
    trained[LABELS].head.save(tmp_path / "intents.npz")
    options = ["--data", str(data), "--classifier", str(tmp_path / "intents.npz"), "--per-subset", "2"]
    report = json.loads(command(*options, "--json").stdout)
    assert (report["by"], report["n"], report["left_out"]) == (["intents.npz"], 2, {"domains": 2})
    said = command(*options).stdout
    assert "domains: no classifier for its labels (2 rows)" in said
    assert said.splitlines()[1].startswith("intents ")


def test_a_parquet_pool_is_read_too(data: Path, pool: Path, tmp_path: Path) -> None:
    parquet = tmp_path / "pool.parquet"
    duckdb.read_json(str(pool), format="newline_delimited").write_parquet(str(parquet))
    assert train_on_pool(parquet, intent_rows(data), [LABELS])[LABELS].examples == 11


# --- a model --------------------------------------------------------------------------------------------------


async def test_the_real_model_tells_probabilities(local_model: LocalModel, data: Path) -> None:
    rows = chosen(intent_rows(data), subsets=["intents"])
    told: list[None] = []
    guesses = await guesses_of_model(local_model, rows, progress=lambda: told.append(None))
    assert [g.row for g in guesses] == rows
    assert all(g.label in LABELS and g.sure is not None and 1 / 3 <= g.sure <= 1 for g in guesses)
    assert len(told) == 3
    assert classification_report(rows, guesses)["expected_calibration_error"] is not None


class Answering:
    """Answers in words alone; refuses an empty text."""

    name = "answering"

    def __init__(self, content: str) -> None:
        self._content = content

    async def complete(self, request: ChatRequest) -> Reply:
        if not request.fields.messages[-1].text:
            raise InvalidRequest("too long", code="context_length_exceeded")
        return Reply({"choices": [{"message": {"content": self._content}}]}, Usage(3, 1))

    async def stream(self, request: ChatRequest) -> ReplyStream:
        raise NotImplementedError

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ('{"label": "money"}', "money"),
        ('"money"', "money"),
        ("money\n", "money"),
        ("[]", None),
        ('{"label": ', '{"label":'),
    ],
)
async def test_without_probabilities_the_words_count(tmp_path: Path, content: str, label: str | None) -> None:
    rows = intent_rows(write(tmp_path / "d.jsonl", [row("pay", "money"), row("", "oos")]))
    found, refused = await guesses_of_model(Answering(content), rows)
    assert (found.label, found.sure, found.right) == (label, None, label == "money")
    assert (refused.label, refused.error, refused.right) == (None, "context_length_exceeded", False)


# --- figures and rows -----------------------------------------------------------------------------------------


def test_in_scope_accuracy_leaves_out_what_is_out_of_scope() -> None:
    guesses = [
        guess("money", "money", 0.9, baseline="oos"),
        guess("weather", "money", 0.6, baseline="money"),
        guess("oos", "oos", 0.8, baseline="money"),
        guess(None, "oos", error="context_length_exceeded", baseline="oos"),
    ]
    report = classification_report([g.row for g in guesses], guesses)
    assert report["by_subset"]["s"] == {
        "n": 4,
        "accuracy": 0.5,
        "in_scope_accuracy": 0.5,
        "out_of_scope_recall": 0.5,
        "expected_calibration_error": pytest.approx((0.1 + 0.6 + 0.2) / 3),
        "unserved": {"context_length_exceeded": 1},
        "baseline": {"accuracy": 0.5, "in_scope_accuracy": 0.5, "out_of_scope_recall": 0.5},
    }


@pytest.mark.parametrize("column", ["id", "subset", "request", "labels", "expected"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    lines = [row("x", "oos")]
    del lines[0][column]
    with pytest.raises(DataError, match=rf"row (intents/x|1): column '{column}' is missing"):
        intent_rows(write(tmp_path / "d.jsonl", lines))


def test_a_broken_request_names_its_row(tmp_path: Path) -> None:
    lines = [row("x", "oos") | {"request": '{"messages": []}'}]
    with pytest.raises(DataError, match=r"row intents/x: column 'request': .*at least one message"):
        intent_rows(write(tmp_path / "d.jsonl", lines))


@pytest.mark.parametrize("options", [[], ["--model", "m", "--train-pool", "pool.jsonl"]])
def test_one_way_must_be_named(options: list[str]) -> None:
    said = command("--data", "rows.jsonl", *options)
    assert said.exit_code == 2
    assert "Give one of" in said.stderr


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set SMALLFIRST_DATA")
def test_the_evaluation_data_is_read() -> None:
    rows = intent_rows(DATA / "classification_intent_dev.parquet")
    assert len(rows) == 4023
    assert all(r.text and r.expected in r.labels for r in rows)
