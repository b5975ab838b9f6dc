"""The risk budget: what is promised of the expected loss, and what is said where nothing can be promised."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallfirst.policies.risk import CalibrationRows, Thresholds, apply, control, upper_bound

# More than this many misses of 200 are likelier than 1 in 100 at an error of 0.05: the binomial's upper end.
MOST_OF_200 = 18


def calibration(n: int, seed: int = 0, /, **given: Any) -> CalibrationRows:
    """Rows whose gap says exactly how likely the local model is to fail; the baseline is always right."""
    rng = np.random.default_rng(seed)
    gap = rng.random(n)
    values: dict[str, Any] = {
        "gap": gap,
        "confidence": np.full(n, np.nan),
        "local": (rng.random(n) >= gap).astype(float),
        "baseline": np.ones(n),
        "local_usd": np.zeros(n),
        "baseline_usd": np.ones(n),
    }
    values |= {name: np.broadcast_to(np.asarray(value, float), n).copy() for name, value in given.items()}
    return CalibrationRows(**values)


def true_loss(max_gap: float) -> float:
    """Expected loss of `calibration`'s requests: the integral of the gap up to the threshold."""
    return float(np.clip(max_gap, 0, 1) ** 2 / 2)


@pytest.mark.parametrize("budget", [0.01, 0.02, 0.05])
def test_the_expected_loss_stays_under_the_budget_in_nearly_all_draws(budget: float) -> None:
    over, found = 0, 0
    for seed in range(200):
        thresholds = control(calibration(1500, seed), budget).thresholds
        found += thresholds is not None
        over += thresholds is not None and true_loss(thresholds.max_gap) > budget
    assert over <= MOST_OF_200
    assert found > 190


def test_the_bound_covers_the_expected_loss_in_nearly_all_draws() -> None:
    rng = np.random.default_rng(1)
    chances = [0.03, 0.9, 0.07]
    bounds = [upper_bound(rng.choice([-1.0, 0.0, 1.0], 800, p=chances), 0.05) for _ in range(200)]
    assert sum(bound < 0.04 for bound in bounds) <= MOST_OF_200
    # It is worth having, too: the mean of 800 such losses has a standard deviation of 0.011.
    assert np.mean(bounds) < 0.04 + 4 * 0.011


def test_the_bound_comes_closer_with_more_rows() -> None:
    rng = np.random.default_rng(2)
    losses = (rng.random(4000) < 0.05).astype(float)
    bounds = [upper_bound(losses[:n], 0.05) for n in (250, 1000, 4000)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < 0.07


def test_the_bound_of_the_chosen_thresholds_is_within_the_budget_and_over_the_mean_loss() -> None:
    found = control(calibration(2000), 0.05)
    assert found.loss < found.bound <= 0.05


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), small=st.floats(0.01, 0.1), times=st.floats(1.0, 4.0))
def test_a_larger_budget_never_costs_more(seed: int, small: float, times: float) -> None:
    rows = calibration(600, seed)
    assert control(rows, small * times).cost_usd <= control(rows, small).cost_usd


def test_the_order_of_rows_changes_nothing() -> None:
    rows = calibration(700)
    turned = rows.take(np.random.default_rng(5).permutation(700))
    found, again = control(rows, 0.05), control(turned, 0.05)
    assert (found.thresholds, found.bound) == (again.thresholds, again.bound)


def test_gains_make_up_for_losses() -> None:
    rng = np.random.default_rng(3)
    # Each of the two is right on nine requests of ten, by chance: many single losses, and as many gains.
    each = {"local": rng.random(4000) < 0.9, "baseline": rng.random(4000) < 0.9}
    found = control(calibration(4000, **each), 0.05)
    assert found.local_share > 0.99
    assert found.bound <= 0.05
    alone = control(calibration(4000, local=each["local"]), 0.05)
    assert alone.local_share < 0.7


def test_a_hopeless_local_model_gets_nothing_and_the_reason_is_told() -> None:
    found = control(calibration(2000, local=0.0, gap=0.5), 0.02)
    assert found.thresholds is None
    assert found.reason == "the local model loses more than 0.02 even where it is most likely to be right"
    assert (found.loss, found.bound, found.local_share, found.cost_usd) == (0.0, 0.0, 0.0, 1.0)


def test_too_few_rows_say_how_many_more_are_needed_and_these_are_enough() -> None:
    found = control(calibration(100, local=1.0), 0.02)
    assert found.thresholds is None
    said = re.fullmatch(r"100 calibration rows are too few to show it: needs about (\d+) more", found.reason)
    assert said is not None
    more = int(said[1])
    assert control(calibration(100 + more + 20, local=1.0), 0.02).local_share == 1.0
    assert control(calibration(100 + more - 40, local=1.0), 0.02).thresholds is None


def test_without_rows_everything_goes_to_the_baseline() -> None:
    found = control(calibration(0), 0.02)
    assert (found.thresholds, found.reason) == (None, "there are no calibration rows")


def test_a_local_model_as_dear_as_the_baseline_is_not_asked() -> None:
    found = control(calibration(2000, local=1.0, local_usd=1.0), 0.05)
    assert (found.thresholds, found.reason) == (None, "the settings that keep the budget save nothing")


def test_a_telling_confidence_makes_a_cascade_that_saves_more() -> None:
    rng = np.random.default_rng(4)
    # The gap says nothing; the confidence of the answer nearly everything.
    right = (rng.random(3000) < 0.7).astype(float)
    sure = np.clip(0.75 + 0.2 * right + rng.normal(0, 0.05, 3000), 0, 1)
    common = {"gap": 0.3, "local": right, "local_usd": 0.05}
    alone = control(calibration(3000, **common), 0.02)
    cascade = control(calibration(3000, **common, confidence=sure), 0.02)
    assert alone.thresholds is None
    assert cascade.thresholds is not None
    assert cascade.thresholds.max_gap < 0.3 < cascade.thresholds.cascade_gap
    assert cascade.local_share > 0.5
    assert cascade.escalated_share == pytest.approx(1 - cascade.local_share)
    assert cascade.cost_usd == pytest.approx(0.05 + cascade.escalated_share)
    assert cascade.bound <= 0.02


@pytest.mark.parametrize("budget", [0.02, 0.05])
def test_a_cascade_keeps_its_budget_in_nearly_all_draws(budget: float) -> None:
    over = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sure = rng.random(4000)
        right = (rng.random(4000) < sure).astype(float)
        rows = calibration(4000, seed, local=right, confidence=sure)
        thresholds = control(rows.take(np.arange(1000)), budget).thresholds
        # The other 3,000 rows stand for the traffic; 0.003 is half of their own standard deviation.
        loss = apply(rows.take(np.arange(1000, 4000)), thresholds).loss.mean()
        over += loss > budget + 0.003
    assert over <= 8


def test_each_zone_of_the_rule_answers_and_costs_as_it_says() -> None:
    rows = CalibrationRows(
        gap=np.array([0.1, 0.2, 0.3, 0.3, 0.3, 0.5]),
        confidence=np.array([0.0, np.nan, 0.9, 0.8, np.nan, 1.0]),
        local=np.array([0.0, 1.0, 0.5, 1.0, 1.0, 1.0]),
        baseline=np.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0]),
        local_usd=np.full(6, 1.0),
        baseline_usd=np.full(6, 10.0),
    )
    done = apply(rows, Thresholds(max_gap=0.2, cascade_gap=0.4, min_confidence=0.9))
    assert done.local.tolist() == [True, True, True, False, False, False]
    assert done.escalated.tolist() == [False, False, False, True, True, False]
    assert done.usd.tolist() == [1, 1, 1, 11, 11, 10]
    assert done.loss.tolist() == [1, -1, 0.5, 0, 0, 0]
    nothing = apply(rows, None)
    assert nothing.usd.tolist() == [10] * 6
    assert not nothing.local.any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gap", 1.5),
        ("gap", np.nan),
        ("local", -0.1),
        ("baseline", 2),
        ("confidence", 1.1),
        ("local_usd", np.inf),
    ],
)
def test_a_value_out_of_its_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected numbers"):
        calibration(3, **{name: value})


def test_columns_of_other_lengths_and_impossible_budgets_are_refused() -> None:
    rows = calibration(3)
    with pytest.raises(ValueError, match="baseline: expected 3 values"):
        replace(rows, baseline=np.ones(2))
    with pytest.raises(ValueError, match="the budget must lie between 0 and 1"):
        control(rows, 0.0)
    with pytest.raises(ValueError, match="the confidence must lie between 0 and 1"):
        control(rows, 0.02, 1.0)
