"""A risk budget on rows that its thresholds were not chosen on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from smallfirst.evals.metrics import draws
from smallfirst.evals.out_of_fold import predicted
from smallfirst.evals.outcome_files import read_outcomes
from smallfirst.evals.risk import cross_fitted, splits, sweep
from smallfirst.policies.risk import CalibrationRows
from smallfirst.router.scoring import Scorer

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data"))


def calibration(n: int, *, fails: float | None = None) -> CalibrationRows:
    """Rows whose gap says how likely the local model is to fail; `fails` is the same for all rows."""
    rng = np.random.default_rng(0)
    gap = rng.random(n) if fails is None else np.full(n, fails)
    right = rng.random(n) >= gap
    return CalibrationRows(gap, np.full(n, np.nan), right.astype(float), np.ones(n), np.zeros(n), np.ones(n))


def test_what_is_tested_was_not_chosen_on_and_keeps_the_budget() -> None:
    rows = calibration(3000)
    found = cross_fitted(rows, 0.05, 0.95, drawn=draws(3000, samples=50, seed=0))
    assert found["met"] is True
    assert found["loss_95"][0] < found["loss"] < found["loss_95"][1]
    assert found["loss"] <= found["bound"] <= 0.05
    assert found["saved_share"] == pytest.approx(found["local_share"])
    assert found["quality"] == pytest.approx(1 - found["loss"])
    assert found["thresholds"]["max_gap"] == pytest.approx(0.28, abs=0.05)


def test_a_budget_that_cannot_be_met_sends_everything_to_the_baseline() -> None:
    found = cross_fitted(calibration(1000, fails=0.8), 0.02, 0.95, drawn=draws(1000, samples=5, seed=0))
    assert found["thresholds"] is None
    assert "loses more than 0.02" in found["reason"]
    assert (found["loss"], found["met"], found["strong_share"], found["saved_share"]) == (0.0, True, 1.0, 0.0)


def test_too_few_rows_are_not_tested() -> None:
    found = cross_fitted(calibration(6), 0.02, 0.95, drawn=draws(6, samples=5, seed=0))
    assert found["loss"] is None
    assert found["met"] is None
    assert splits(calibration(1), 0.02, 0.95, count=3) is None


def test_splits_count_the_halves_that_lose_more_than_the_budget() -> None:
    found = splits(calibration(2000), 0.05, 0.95, count=40)
    assert found is not None
    assert (found["count"], found["to_baseline"]) == (40, 0)
    assert found["over_share"] == found["over"] / 40 <= 0.15
    assert found["loss"] < found["bound"] <= 0.05
    assert found == splits(calibration(2000), 0.05, 0.95, count=40)


def test_a_larger_budget_saves_more() -> None:
    saved = [entry["saved_share"] for entry in sweep(calibration(2000), 0.95, budgets=(0.02, 0.05, 0.1))]
    assert saved == sorted(saved)
    assert saved[0] < saved[-1]


@pytest.fixture(scope="module")
def published() -> CalibrationRows:
    """The published pair's outcomes with out-of-fold scores."""
    if not DATA.is_dir():
        pytest.skip(f"no evaluation data in {DATA}: set SMALLFIRST_DATA")
    outcomes = read_outcomes(DATA / "router_outcomes_dev.parquet")
    scorer = Scorer.load()
    success, _ = predicted(outcomes, scorer, [scorer.abilities["weak"], scorer.abilities["strong"]])
    quality = np.array([(outcome.weak, outcome.strong) for outcome in outcomes])
    n = len(outcomes)
    nothing_told = np.full(n, np.nan)
    return CalibrationRows(
        success[:, 1] - success[:, 0], nothing_told, quality[:, 0], quality[:, 1], np.zeros(n), np.ones(n)
    )


@pytest.mark.parametrize("budget", [0.01, 0.02, 0.05])
def test_published_outcomes_keep_the_budget_in_nearly_all_halves(
    published: CalibrationRows, budget: float
) -> None:
    found = splits(published, budget, 0.95, count=60)
    assert found is not None
    # 5 % of 60 is 3; more than 7 are likelier than 1 in 50 at that rate.
    assert found["over"] <= 7
    assert found["saved_share"] > 2 * budget
