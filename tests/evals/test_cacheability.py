"""The report on whether answers keep, by hand-written rows and the artefact that ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smallfirst.evals.cacheability import cacheability_report
from smallfirst.evals.page import render
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.semantic.volatility import Volatility
from smallfirst.router.training.files import DataError

ROWS = {
    "what is the capital of france": "static",
    "who wrote war and peace": "static",
    # Said to be static, so that one is wrongly refused.
    "what's the weather like today": "static",
    "what time is it": "time_dependent",
    "what's my balance": "user_state",
    "book a table for two": "action",
    # Said to be an action, so that one is wrongly kept.
    "how many legs does a spider have": "action",
}


@pytest.fixture(scope="module")
def volatility() -> Volatility:
    return Volatility.load(TokenEmbedding.load())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for text, label in ROWS.items():
            request = {"messages": [{"role": "user", "content": text}]}
            file.write(json.dumps({"request": json.dumps(request), "expected": label}) + "\n")
    return path


def test_the_report_counts_what_is_kept_and_refused(path: Path, volatility: Volatility) -> None:
    report = cacheability_report(path, volatility)

    assert report["n"] == 7
    assert report["accuracy"] == pytest.approx(5 / 7)
    assert (report["kept"]["n"], report["kept"]["right"]) == (3, 2)
    assert (report["refused"]["n"], report["refused"]["right"]) == (4, 3)
    assert {label: of["share"] for label, of in report["refused"]["by_class"].items()} == {
        "time_dependent": 1.0,
        "user_state": 1.0,
        "action": 0.5,
    }
    assert report["confusion"]["static"] == {"static": 2, "time_dependent": 1, "user_state": 0, "action": 0}
    assert report["recall"]["action"] == 0.5
    assert report["threshold"] == volatility.threshold


def test_the_share_has_an_interval(path: Path, volatility: Volatility) -> None:
    low, high = cacheability_report(path, volatility)["kept"]["share_95"]

    assert 0 < low < 2 / 3 < high < 1


def test_a_class_without_rows_has_no_share(path: Path, volatility: Volatility) -> None:
    report = cacheability_report(path, volatility, limit=3)

    assert report["n"] == 3
    assert report["recall"]["action"] is None
    assert report["refused"]["by_class"]["action"] == {"n": 0, "right": 0, "share": None, "share_95": None}


def test_the_report_is_json_and_a_page(path: Path, volatility: Volatility) -> None:
    report = cacheability_report(path, volatility)

    assert json.loads(json.dumps(report)) == report
    assert "Whether answers keep" in render(report["page"])


def test_a_file_without_rows_is_refused(tmp_path: Path, volatility: Volatility) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()

    with pytest.raises(DataError, match="no rows"):
        cacheability_report(empty, volatility)
