"""Calibrating a model: which rows, and what becomes of its outcomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.calibrations import scorer, simulated

from smallfirst.evals.calibration import (
    calibration_of_file,
    calibration_of_run,
    calibration_report,
    calibration_rows,
)
from smallfirst.evals.out_of_fold import out_of_fold_skills
from smallfirst.evals.outcomes import Row
from smallfirst.router.training.files import DataError
from smallfirst.router.training.keys import row_key
from smallfirst.router.wire import ChatRequest

NEW = "Which of the two bridges over the Zwettl was built first, said the baker?"


def outcome(row: Row, *, ok: bool = True, confidence: float | None = None) -> dict[str, Any]:
    told = {"ok": ok, "confidence": confidence, "input_tokens": 3, "output_tokens": 7}
    return {"file": row.file, "id": row.id, "subset": row.subset, "model": "m", **told}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return calibration_rows(["simple"], tmp_path_factory.mktemp("none"), limit=60)


def test_rows_are_drawn_from_every_suite_and_subset(rows: list[Row], tmp_path: Path) -> None:
    assert len({row.id for row in rows}) == len(rows) == 60
    assert len({row.subset for row in rows}) > 10
    assert [row.id for row in calibration_rows(["simple"], tmp_path, limit=60)] == [row.id for row in rows]
    other = calibration_rows(["simple"], tmp_path, limit=60, seed=1)
    assert {row.id for row in other} != {row.id for row in rows}


def test_rows_whose_answers_cannot_be_checked_are_left_out(tmp_path: Path) -> None:
    lines = [
        {
            "id": str(at),
            "subset": "s",
            "request": {"messages": [{"role": "user", "content": "?"}]},
            "checker": {"type": "contains" if at < 30 else "judged"},
            "expected": ["x"],
        }
        for at in range(45)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(calibration_rows([str(path)], tmp_path, limit=None)) == 30
    with pytest.raises(DataError, match="29 rows are too few to calibrate on; give at least 30"):
        calibration_rows([str(path)], tmp_path, limit=29)


def test_a_run_becomes_a_row_for_each_outcome(rows: list[Row]) -> None:
    told = [outcome(row, ok=at % 2 == 0, confidence=None if at else 0.7) for at, row in enumerate(rows[:40])]
    made = calibration_of_run("m", rows, told, scorer())
    assert (made.model, made.baseline, made.artefact, len(made)) == ("m", None, scorer().version, 40)
    assert made.success.tolist() == [1, 0] * 20
    assert made.confidence[0] == pytest.approx(0.7)
    assert np.isnan(made.confidence[1:]).all()
    assert made.baseline_success.tolist() == [1] * 40
    assert made.output_tokens.tolist() == [7] * 40
    assert (made.input_tokens > 0).all()


def test_only_rows_that_both_models_answered_are_compared(rows: list[Row]) -> None:
    mine = [outcome(row) for row in rows[:35]]
    theirs = [outcome(row, ok=at != 31) for at, row in enumerate(rows)][30:]
    made = calibration_of_run("m", rows, mine, scorer(), baseline=("b", theirs))
    assert (made.baseline, made.baseline_success.tolist()) == ("b", [1, 0, 1, 1, 1])


def test_rows_that_the_classifier_was_trained_on_are_scored_by_one_that_was_not(rows: list[Row]) -> None:
    made = calibration_of_run("m", rows, [outcome(row) for row in rows], scorer())
    unseen = out_of_fold_skills()
    assert made.skills == pytest.approx(np.stack([unseen[row_key(row.body)] for row in rows]), abs=1e-6)
    for row, skills in zip(rows, made.skills, strict=True):
        seen = scorer().classifier.predict(scorer().features(ChatRequest.parse(dict(row.body)))).skills
        assert not np.allclose(skills, seen, atol=1e-4), row.id


def test_other_rows_are_scored_as_requests_will_be(tmp_path: Path) -> None:
    lines = [
        {
            "id": str(at),
            "subset": "s",
            "request": {"messages": [{"role": "user", "content": f"{NEW} {at}"}]},
            "scores": {"m": 0.25, "b": at % 2},
        }
        for at in range(30)
    ]
    path = tmp_path / "o.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = calibration_of_file(path, "m", scorer(), baseline="b")
    request = ChatRequest.parse({"messages": [{"role": "user", "content": f"{NEW} 3"}]})
    features = scorer().features(request)
    prediction = scorer().classifier.predict(features)
    assert made.skills[3] == pytest.approx(prediction.skills)
    assert made.known[3] == scorer().is_known(features, prediction)
    assert made.input_tokens[3] == features.input_tokens
    assert made.success.tolist() == [0.25] * 30
    assert made.baseline_success.tolist() == [0, 1] * 15
    assert np.isnan(made.confidence).all()


def test_the_report_says_how_good_the_model_is_and_what_budgets_come_to() -> None:
    made = simulated(2000, baseline="b")
    told = calibration_report(made, scorer(), scorer().abilities["strong"], confidence=0.95)
    assert json.loads(json.dumps(told)) == told
    assert (told["model"], told["baseline"], told["n"]) == (made.model, "b", 2000)
    assert told["accuracy"] == pytest.approx(made.success.mean())
    assert told["baseline_accuracy"] == pytest.approx(0.95, abs=0.02)
    assert told["expected_calibration_error"] < 0.05
    assert (told["confidence_told"], told["known_share"]) == (1, 1)
    shares = [of["local_share"] for of in told["budgets"]]
    assert shares == sorted(shares)
    for of in told["budgets"]:
        assert of["met"] == (of["max_gap"] is not None)
        assert of["loss"] <= of["budget"]
    assert told["budgets"][-1]["met"]


def test_what_was_never_run_has_no_accuracy() -> None:
    told = calibration_report(
        simulated(60, told=False), scorer(), scorer().abilities["strong"], confidence=0.95
    )
    assert (told["baseline_accuracy"], told["confidence_told"]) == (None, 0)
