"""Routing figures, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from smallfirst.evals.metrics import (
    aiq,
    apgr_interval,
    cost_of_quality,
    curve,
    draws,
    expected_calibration_error,
    hull,
    interval,
    percentiles,
    reliability,
)


def apgr(score: list[float], weak: list[float], strong: list[float]) -> float:
    line = curve(score, weak, strong)
    assert line is not None
    return line.apgr


def test_an_oracle_recovers_the_gap_at_once() -> None:
    # One of two rows gains: PGR rises to 1 at f = 0.5 and stays: 0.25 + 0.5.
    assert apgr([1, 0], [0, 1], [1, 1]) == pytest.approx(0.75)


def test_the_worst_order_mirrors_the_oracle() -> None:
    assert apgr([0, 1], [0, 1], [1, 1]) == pytest.approx(0.25)


def test_equal_scores_are_a_random_router() -> None:
    line = curve([0.3] * 5, [0, 0, 1, 0, 1], [1, 1, 1, 1, 0])
    assert line is not None
    assert (line.apgr, line.cpt(0.5), line.cpt(0.8)) == pytest.approx((0.5, 0.5, 0.8))


def test_a_tie_counts_by_expectation() -> None:
    # First a pair of which one gains, then nothing: (0,0) (0.5,1) (1,1).
    assert apgr([2, 2, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]) == pytest.approx(0.25 + 0.5)


def test_calls_to_reach_a_part_of_the_gap() -> None:
    line = curve([4, 3, 2, 1], [0, 0, 1, 1], [1, 1, 1, 1])
    assert line is not None
    assert (line.cpt(0), line.cpt(0.5), line.cpt(0.8), line.cpt(1)) == pytest.approx((0, 0.25, 0.4, 0.5))


def test_a_strong_call_that_hurts_lowers_the_curve() -> None:
    line = curve([3, 2, 1], [1, 0, 0], [0, 1, 1])
    assert line is not None
    assert line.recovered.tolist() == [0, -1, 0, 1]
    assert line.cpt(0.5) == pytest.approx(2.5 / 3)


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    score, weak, strong = rng.integers(0, 9, 200), rng.integers(0, 2, 200), rng.integers(0, 2, 200) | 1
    order = rng.permutation(200)
    first, second = curve(score, weak, strong), curve(score[order], weak[order], strong[order])
    assert first is not None
    assert second is not None
    assert first.apgr == pytest.approx(second.apgr)


def test_a_random_score_gives_a_half() -> None:
    rng = np.random.default_rng(1)
    weak = rng.integers(0, 2, 20_000)
    assert apgr(list(rng.random(20_000)), list(weak), [1.0] * 20_000) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("weak", "strong"), [([1, 1], [1, 1]), ([1, 1], [0, 1]), ([], [])])
def test_without_a_gap_there_is_no_curve(weak: list[float], strong: list[float]) -> None:
    assert curve([0.0] * len(weak), weak, strong) is None


def test_calibration_error_is_the_distance_of_claim_and_truth() -> None:
    assert expected_calibration_error([0.85, 0.85, 0.25, 0.25], [1, 1, 0, 1]) == pytest.approx(
        (2 * 0.15 + 2 * 0.25) / 4
    )
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0


def test_an_interval_holds_the_figure_and_repeats_with_its_seed() -> None:
    values = np.arange(100.0)

    def mean(drawn: npt.NDArray[np.intp]) -> float:
        return float(values[drawn].mean())

    first = interval(mean, 100, samples=200, seed=3)
    assert first == interval(mean, 100, samples=200, seed=3)
    assert first is not None
    assert first[0] < values.mean() < first[1]
    assert interval(lambda drawn: None, 10, samples=5, seed=0) is None


def test_all_bootstrap_samples_at_once_give_the_interval_that_one_by_one_gives() -> None:
    rng = np.random.default_rng(4)
    score, weak = rng.integers(0, 20, 80), rng.integers(0, 2, 80)
    strong = np.maximum(weak, rng.integers(0, 2, 80))

    def figure(drawn: npt.NDArray[np.intp]) -> float | None:
        line = curve(score[drawn], weak[drawn], strong[drawn])
        return line.apgr if line else None

    one_by_one = interval(figure, 80, samples=60, seed=7)
    assert one_by_one is not None
    assert apgr_interval(score, weak, strong, draws(80, samples=60, seed=7)) == pytest.approx(one_by_one)
    assert apgr_interval([1.0], [1], [0], draws(1, samples=3, seed=0)) is None
    assert percentiles([np.nan]) is None


def test_reliability_tells_of_each_bin_that_has_rows() -> None:
    assert reliability([0.05, 0.95, 0.85, 1.0], [0, 1, 0, 1]) == [
        (0.05, 0.0, 1),
        (0.85, 0.0, 1),
        (0.975, 1.0, 2),
    ]


def test_a_hull_leaves_out_what_a_mix_of_two_settings_beats() -> None:
    line = hull([3, 1, 2, 2, 4], [0.7, 0.2, 0.3, 0.6, 0.65])
    assert line.tolist() == [[1, 0.2], [2, 0.6], [3, 0.7]]
    assert hull([1, 2, 3], [0.0, 0.1, 0.6]).tolist() == [[1, 0.0], [3, 0.6]]


def test_the_area_is_a_mean_quality_over_the_range_of_cost() -> None:
    line = hull([1, 2], [0.2, 0.6])
    assert aiq(line, 1, 2) == pytest.approx(0.4)
    assert aiq(line, 1, 3) == pytest.approx((0.4 + 0.6) / 2)
    assert aiq(line, 2, 2) == 0.6


def test_the_cost_of_a_quality_lies_on_the_hull() -> None:
    line = hull([1, 2], [0.2, 0.6])
    assert cost_of_quality(line, 0.4) == pytest.approx(1.5)
    assert cost_of_quality(line, 0.1) == 1
    assert cost_of_quality(line, 0.7) is None
