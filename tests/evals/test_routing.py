"""`eval routing`: the figures, and what is wrong with a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from smallfirst.evals.outcome_files import read_outcomes
from smallfirst.evals.routing import Asked, routing_report
from smallfirst.router.cli.evaluate import evaluate
from smallfirst.router.training.files import DataError

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data"))
PROMPTS = ["Name a colour.", "What is 17 * 23?", "Prove that e is irrational.", "Is water wet?"]


def row(at: int = 0, **other: Any) -> dict[str, Any]:
    request = {"messages": [{"role": "user", "content": PROMPTS[at % 4]}]}
    return {
        "id": f"r{at}",
        "subset": "s",
        "request": request,
        "weak_correct": at % 2 == 0,
        "strong_correct": 1,
        **other,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set SMALLFIRST_DATA")
def test_the_shipped_router_beats_the_bar_out_of_fold() -> None:
    result = CliRunner().invoke(
        evaluate,
        ["routing", "--data", str(DATA / "router_outcomes_dev.parquet"), "--json", "--bootstrap", "20"],
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.output.splitlines()[-1])
    assert report["out_of_fold"] is True
    assert (report["n"], report["out_of_fold_rows"], report["held_out_rows"]) == (6079, 6079, 0)
    assert report["by_subset"]["mmlu"]["apgr"] >= 0.65
    assert report["by_subset"]["gsm8k"]["apgr"] >= 0.55
    assert report["expected_calibration_error"] <= 0.03
    assert report["by_subset"]["mmlu"]["baselines"]["length"] == pytest.approx(0.584, abs=0.003)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set SMALLFIRST_DATA")
def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    import duckdb

    source = DATA / "router_outcomes_dev.parquet"
    for name, order in (("up", "ASC"), ("down", "DESC")):
        rows = f"SELECT * FROM read_parquet('{source}') WHERE subset = 'gsm8k' ORDER BY id {order}"  # noqa: S608
        duckdb.sql(f"COPY ({rows}) TO '{tmp_path / name}.parquet'")
    up, down = (routing_report(tmp_path / f"{name}.parquet", samples=2) for name in ("up", "down"))
    assert up["apgr"] == pytest.approx(down["apgr"])


def test_rows_that_were_not_trained_on_are_held_out(tmp_path: Path) -> None:
    report = routing_report(write(tmp_path / "o.jsonl", [row(at) for at in range(4)]), samples=5)
    assert (report["out_of_fold"], report["held_out_rows"]) == (False, 4)
    assert report["by_subset"]["s"]["n"] == 4
    assert report["baselines"]["oracle"] == pytest.approx(0.75)


def test_scores_of_named_models_are_read(tmp_path: Path) -> None:
    rows = [
        {
            "id": str(at),
            "subset": "s",
            "request": row(at)["request"],
            "scores": json.dumps({"a": at % 2, "b": 1.0}),
        }
        for at in range(4)
    ]
    report = routing_report(write(tmp_path / "o.jsonl", rows), weak="a", strong="b", samples=5)
    assert report["quality"] == {"weak": 0.5, "strong": 1.0}


def test_an_unscored_row_is_left_out_and_a_model_that_no_row_has_is_named(tmp_path: Path) -> None:
    bare = {key: value for key, value in row().items() if not key.endswith("correct")}
    path = write(
        tmp_path / "o.jsonl", [{**bare, "scores": {"a": 1, "b": 0}}, {**bare, "scores": {"a": 1, "b": None}}]
    )
    assert [(o.weak, o.strong) for o in read_outcomes(path, weak="a", strong="b")] == [(1.0, 0.0)]
    with pytest.raises(DataError, match="no rows with scores of 'a' and 'c'"):
        read_outcomes(path, weak="a", strong="c")


def test_without_a_gap_there_are_no_figures(tmp_path: Path) -> None:
    rows = [row(at, weak_correct=True) for at in range(3)]
    report = routing_report(write(tmp_path / "o.jsonl", rows), samples=5)
    assert (report["apgr"], report["cpt80"], report["apgr_95"]) == (None, None, None)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"request": None}, r"row 2 \(r1\): column 'request' is missing or empty"),
        ({"request": "{"}, r"row 2 \(r1\): column 'request' is not valid JSON"),
        ({"request": {"messages": []}}, r"row 2 \(r1\): column 'request': .*at least one message"),
        ({"id": ""}, r"row 2: column 'id' is missing or empty"),
        (
            {"weak_correct": "yes"},
            r"row 2 \(r1\): 'weak_correct': expected true, false or a number from 0 to 1",
        ),
        ({"strong_correct": None}, r"row 2 \(r1\): 'strong_correct': expected"),
    ],
)
def test_a_broken_row_names_row_and_column(tmp_path: Path, broken: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_outcomes(write(tmp_path / "o.jsonl", [row(0), row(1, **broken)]))


def test_scores_without_names_say_which_there_are(tmp_path: Path) -> None:
    bare = {key: value for key, value in row().items() if not key.endswith("correct")}
    with pytest.raises(DataError, match=r"--weak and --strong; there are a, b"):
        read_outcomes(write(tmp_path / "o.jsonl", [{**bare, "scores": {"a": 1, "b": 0}}]))
    with pytest.raises(DataError, match="expected columns 'weak_correct'"):
        read_outcomes(write(tmp_path / "p.jsonl", [bare]))


def test_a_missing_an_unknown_and_a_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_outcomes(tmp_path / "none.jsonl")
    (tmp_path / "x.csv").write_text("id")
    with pytest.raises(DataError, match=r"\.parquet or a \.jsonl"):
        read_outcomes(tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_outcomes(tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text(json.dumps(row()) + "\n{oops\n")
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        read_outcomes(tmp_path / "x.jsonl")
    (tmp_path / "e.jsonl").write_text("")
    with pytest.raises(DataError, match="there are no rows"):
        read_outcomes(tmp_path / "e.jsonl")


def test_the_table_says_where_the_scores_come_from(tmp_path: Path) -> None:
    path = write(tmp_path / "o.jsonl", [row(at) for at in range(4)])
    result = CliRunner().invoke(evaluate, ["routing", "--data", str(path), "--bootstrap", "2"])
    assert result.exit_code == 0, result.output
    assert "none of its 4 rows was trained on" in result.output


def many(n: int = 60) -> list[dict[str, Any]]:
    """Rows of three models: 'small' gets even numbers right, 'middle' three of four, 'large' all but one of six."""
    rows = []
    for at in range(n):
        # In words: texts that differ by digits alone are near-duplicates.
        question = f"{at:06b}".translate({48: "nought ", 49: "one "})
        scores = {"small": at % 2 == 0, "middle": at % 4 != 3, "large": at % 6 != 1}
        rows.append(
            {
                "id": f"m{at}",
                "subset": "even" if at % 2 == 0 else "odd",
                "request": {"messages": [{"role": "user", "content": question}]},
                "scores": scores,
                "costs": {"small": 0.001, "middle": 0.002, "large": 0.02},
            }
        )
    return rows


def test_a_report_says_what_each_way_of_routing_gets_for_what_it_costs(tmp_path: Path) -> None:
    path = write(tmp_path / "o.jsonl", many())
    report = routing_report(path, weak="small", strong="large", samples=20)
    assert report["costs"] == "the file's"
    assert report["usd_per_1000"] == pytest.approx({"weak": 1.0, "strong": 20.0})
    assert set(report["baselines"]) == {"random", "length", "oracle", "knn"}
    assert report["baselines"]["random"] == 0.5
    assert report["baselines_95"]["random"] is None
    low, high = report["baselines_95"]["oracle"]
    assert low <= report["baselines"]["oracle"] <= high
    assert report["baselines_areas"]["random"]["aiq"] == pytest.approx(
        (0.5 + report["quality"]["strong"]) / 2
    )
    assert report["baselines_areas"]["oracle"]["qnc"] < 1
    assert sum(n for *_, n in report["reliability"]["weak"]) == 60
    assert [of["budget"] for of in report["risk"]] == [0.01, 0.02, 0.05]
    assert all(of["reason"] for of in report["risk"])


def test_many_models_are_routed_by_predicted_success_and_price(tmp_path: Path) -> None:
    path = write(tmp_path / "o.jsonl", many())
    asked = Asked(models=("all",), budgets=(0.05,))
    report = routing_report(
        path,
        samples=5,
        asked=asked,
        predict=lambda rows, models: np.array([[row.scores[name] for name in models] for row in rows]),
    )
    assert (report["weak"], report["strong"]) == ("small", "large")
    found = report["many_models"]
    assert [of["name"] for of in found["models"]] == ["large", "middle", "small"]
    # It was told the truth: it is the oracle.
    assert found["routers"]["oracle"]["below_router"] == 0
    assert found["routers"]["knn"]["below_router"] > 0
    assert found["above_every_model"] is True


def test_models_without_scores_or_costs_cannot_be_routed(tmp_path: Path) -> None:
    path = write(tmp_path / "o.jsonl", many(6))
    with pytest.raises(DataError, match="--models needs two or more models"):
        routing_report(path, weak="small", strong="large", asked=Asked(models=("small", "other")))


def test_stated_prices_and_confidences_are_used_where_they_are_given(tmp_path: Path) -> None:
    rows = [row(at, weak_confidence=0.9) for at in range(12)]
    path = write(tmp_path / "o.jsonl", rows)
    assert read_outcomes(path)[0].confidence == 0.9
    report = routing_report(path, samples=2, asked=Asked(price_strong=10.0, budgets=(0.1,)))
    assert report["costs"] == "prompt tokens at 0 and 10 US dollars per million"
    assert report["usd_per_1000"]["weak"] == 0
    assert 0 < report["usd_per_1000"]["strong"] < 0.5
    assert report["risk"][0]["cost_unit"] == "US dollars"
    assert routing_report(path, samples=2)["risk"][0]["cost_unit"] == "strong calls"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"costs": {"small": -1}}, "column 'costs': 'small': expected a number of at least 0"),
        ({"costs": [1]}, "column 'costs': expected a JSON object"),
        ({"scores": {"small": 1, "large": 1, "middle": 7}}, "'middle': expected a number from 0 to 1"),
        ({"confidences": {"small": 2}}, "column 'confidences': 'small': expected a number from 0 to 1"),
    ],
)
def test_broken_costs_and_confidences_are_named(tmp_path: Path, broken: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "o.jsonl", [many(1)[0] | broken])
    with pytest.raises(DataError, match=message):
        read_outcomes(path, weak="small", strong="large")


def test_the_command_prints_budgets_and_models_and_writes_a_page(tmp_path: Path) -> None:
    path = write(tmp_path / "o.jsonl", many())
    options = ["--models", "small,large", "--budget", "0.3", "--splits", "4", "--bootstrap", "5"]
    page = tmp_path / "page.html"
    result = CliRunner().invoke(evaluate, ["routing", "--data", str(path), *options, "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert "risk budgets at confidence 0.95; cost in US dollars a request" in result.output
    assert "random halves: over budget in " in result.output
    assert "routers over 2 models, 60 rows" in result.output
    assert "within a risk budget" in page.read_text(encoding="utf-8")


def test_the_printed_object_is_strict_json(tmp_path: Path) -> None:
    path = write(tmp_path / "o.jsonl", many())
    result = CliRunner().invoke(
        evaluate, ["routing", "--data", str(path), "--models", "all", "--bootstrap", "5", "--json"]
    )
    assert result.exit_code == 0, result.output

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    report = json.loads(result.output.splitlines()[-1], parse_constant=refuse)
    assert set(report["page"]) == {"title", "x", "frontiers", "marks", "reliability", "tables"}
    assert report["page"]["x"] == "US dollars per 1,000 requests"
    for table in report["page"]["tables"]:
        assert {len(line) for line in table["rows"]} == {len(table["columns"])}
