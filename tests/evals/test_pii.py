"""What is found of marked personal data is counted by type, and what is found in ordinary texts."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smallfirst.evals.pii import ordinary_report, ordinary_texts, pii_report, pii_rows
from smallfirst.router.cli import cli
from smallfirst.router.privacy import find_spans

KINDS = ("email", "phone", "birth_date", "card")


def row(text: str, subset: str = "structured", **marked: str) -> dict[str, Any]:
    spans = [
        {"type": label, "start": text.index(value), "end": text.index(value) + len(value)}
        for label, value in marked.items()
    ]
    request = {"messages": [{"role": "user", "content": text}]}
    return {"subset": subset, "request": json.dumps(request), "expected": json.dumps(spans)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        row("Mail a@b.de, born 12/1/1981", EMAIL_ADDRESS="a@b.de", DATE_TIME="12/1/1981"),
        row("Jane, founded 1981, +49 30 1234567", PERSON="Jane", DATE_TIME="1981", PHONE_NUMBER="30 1234567"),
        row("Write to c@d.de", "none"),
        row("Card 1234", CREDIT_CARD="1234"),
    ]
    path = tmp_path / "pii.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_recall_and_precision_are_by_type(data: Path) -> None:
    report = pii_report(pii_rows(data), find_spans, kinds=KINDS)
    assert report["by_type"] == {
        "birth_date": {"gold": 1, "recall": 1.0, "recall_exact": 1.0, "found": 1, "precision": 1.0},
        "card": {"gold": 1, "recall": 0.0, "recall_exact": 0.0, "found": 0, "precision": None},
        "email": {"gold": 1, "recall": 1.0, "recall_exact": 1.0, "found": 2, "precision": 0.5},
        "phone": {"gold": 1, "recall": 1.0, "recall_exact": 0.0, "found": 1, "precision": 1.0},
    }
    assert report["not_looked_for"] == {"PERSON": 1, "DATE_TIME": 1}
    assert report["by_subset"]["none"] == {"n": 1, "flagged": 1.0}


def test_ordinary_texts_are_counted_once_each(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": "a@b.de and c@d.de"}, {"text": "nothing"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = ordinary_report(ordinary_texts(path), find_spans)
    assert (report["n"], report["flagged"], report["by_type"]) == (2, 0.5, {"email": 1})


def test_the_command_prints_a_table_or_json(data: Path) -> None:
    command = ["eval", "pii", "--data", str(data), "--ordinary", str(data)]
    printed = CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False)
    report = json.loads(printed.output.splitlines()[-1])
    assert report["by_type"]["email"]["found"] == 2
    assert report["ordinary"]["pii.jsonl"]["n"] == 4
    assert report["page"]["tables"][0]["columns"][0] == "type"
    table = CliRunner().invoke(cli, command, catch_exceptions=False).output
    assert "4 texts" in table
    assert "Ordinary texts" in table
