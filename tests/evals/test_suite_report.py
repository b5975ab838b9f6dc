"""Figures of a live run, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from smallfirst.evals.page import render
from smallfirst.evals.suite_report import figures, runs_page, suite_report


def line(outcome: str, at: int = 0, *, task: str = "t", **fields: Any) -> dict[str, Any]:
    about = {"task": task, "subset": "s", "id": str(at), "model": "auto", "outcome": outcome}
    if "error" in fields:
        return about | fields
    answer = {
        "answered_by": "m", "route": "local", "reason": "r", "cost_usd": 0.001, "input_tokens": 10, "output_tokens": 2,
        "latency_ms": 100.0, "finish_reason": "stop",
    }  # fmt: skip
    return about | answer | fields


def test_unscored_rows_and_errors_are_not_wrong_but_refusals_are() -> None:
    found = figures(
        [
            line("right"),
            line("right", finish_reason="length"),
            line("wrong"),
            line("wrong", error="context_length_exceeded"),
            line("unscored"),
            line("error", error="http_500"),
        ]
    )
    counts = ("n", "right", "wrong", "unscored", "errors", "refused", "cut", "accuracy")
    assert [found[name] for name in counts] == [6, 2, 2, 1, 1, 1, 1, 0.5]


def test_the_interval_holds_the_accuracy_and_a_seed_repeats_it() -> None:
    lines = [line("right" if at % 4 else "wrong", at) for at in range(200)]
    low, high = figures(lines)["accuracy_95"]
    assert 0.67 < low < 0.75 < high < 0.83
    assert figures(lines, seed=0) == figures(lines, seed=0)
    assert figures([line("unscored")])["accuracy_95"] is None


def test_latencies_tokens_routes_and_models() -> None:
    lines = [line("right", latency_ms=float(at), route="cloud" if at > 60 else "local") for at in range(101)]
    found = figures(
        [*lines, line("right", latency_ms=50.0, route=None, answered_by="other", input_tokens=None)]
    )
    assert (found["latency_p50_ms"], found["latency_p95_ms"]) == (50.0, pytest.approx(94.95))
    assert found["routes"] == {"local": 61, "cloud": 40, "cache": 0}
    assert found["models"] == {"m": 101, "other": 1}
    assert (found["input_tokens"], found["output_tokens"]) == (1010, 204)


def test_a_cost_that_is_partly_unknown_is_no_price_of_a_request() -> None:
    known, unknown = line("right", cost_usd=0.0), line("right", cost_usd=None)
    found = figures([known, known, unknown])
    assert (found["cost_usd"], found["cost_known_share"]) == (0.0, pytest.approx(2 / 3))
    assert found["usd_per_1000"] is None
    assert figures([line("right"), line("right", cost_usd=0.003)])["usd_per_1000"] == pytest.approx(2.0)
    nothing = figures([unknown])
    assert (nothing["cost_usd"], nothing["cost_known_share"]) == (None, 0.0)
    assert figures([line("error", error="x")])["cost_known_share"] is None


def test_a_report_has_the_same_figures_by_task_and_subset_and_each_rows_outcome() -> None:
    lines = [line("right", 1), line("wrong", 2, task="u"), line("unscored", 3, task="u", cost_usd=None)]
    report = suite_report(lines, model="auto", server="http://h/v1")
    assert (report["report"], report["model"], report["server"]) == ("suite", "auto", "http://h/v1")
    assert report["by_task"] == {"t": figures(lines[:1]), "u": figures(lines[1:])}
    assert list(report["by_subset"]) == ["t/s", "u/s"]
    assert report["outcomes"] == {"t/s/1": True, "u/s/2": False, "u/s/3": None}
    assert report["costs"] == {"t/s/1": 0.001, "u/s/2": 0.001, "u/s/3": None}


def run(right: int, cost: float | None) -> dict[str, Any]:
    outcomes = ["right"] * right + ["wrong"] * (10 - right)
    return suite_report([line(of, at, cost_usd=cost) for at, of in enumerate(outcomes)], model="auto")


def test_one_run_is_shown_with_its_tasks() -> None:
    page = run(5, 0.002)["page"]
    assert [(mark["name"], mark["x"], mark["y"]) for mark in page["marks"]] == [
        ("auto", 2.0, 0.5),
        ("t", 2.0, 0.5),
    ]
    assert [table["title"] for table in page["tables"]] == ["The bill", "By task", "By subset"]


def test_several_runs_are_marks_with_the_best_mix_and_a_run_of_unknown_cost_is_in_the_tables_only() -> None:
    runs = {"local": run(4, 0.0), "dull": run(4, 0.003), "strong": run(9, 0.004), "free": run(7, None)}
    page = runs_page(runs, title="four")
    assert [mark["name"] for mark in page["marks"]] == ["local", "dull", "strong"]
    assert page["frontiers"] == [{"name": "best mix of these runs", "points": [[0.0, 0.4], [4.0, 0.9]]}]
    bill, by_task = page["tables"]
    assert [(row[0], row[4]) for row in bill["rows"]] == [
        ("local", "$0"), ("dull", "$3.0000"), ("strong", "$4.0000"), ("free", "unknown"),
    ]  # fmt: skip
    assert by_task["columns"] == ["task", "local", "dull", "strong", "free"]
    assert "<svg" in render(page)


def test_a_run_without_any_scored_row_or_cost_has_a_page_too() -> None:
    report = suite_report([line("error", error="x")], model="auto")
    assert report["page"]["marks"] == []
    assert "The bill" in render(report["page"])
