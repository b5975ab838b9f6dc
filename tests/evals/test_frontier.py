"""Cost-quality frontiers, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from smallfirst.evals.frontier import (
    Models,
    areas,
    fixed_mix,
    many_models,
    many_report,
    nearest,
    single_models,
    two_models,
)
from smallfirst.evals.metrics import draws

# Of four rows the cheap model gets two right, the dear one all.
PAIR = Models(
    ("cheap", "dear"),
    np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]),
    np.tile([1.0, 3.0], (4, 1)),
)


def test_a_router_between_two_models_goes_from_the_cheap_to_the_dear_one() -> None:
    points = two_models([4, 3, 2, 1], PAIR).points()
    assert points[0] == [1.0, 0.5]
    assert points[50] == [2.0, 1.0]
    assert points[100] == [3.0, 1.0]


def test_equal_scores_share_the_strong_calls() -> None:
    points = two_models([0, 0, 0, 0], PAIR).points()
    assert points[25] == pytest.approx([1.5, 0.625])


def test_points_can_be_told_for_a_thousand_requests() -> None:
    assert two_models([4, 3, 2, 1], PAIR).points(1000)[0] == [1000.0, 0.5]


def test_area_and_quality_neutral_cost_of_an_oracle_and_of_chance() -> None:
    replays = {"router": two_models([4, 3, 2, 1], PAIR), "random": two_models([0] * 4, PAIR)}
    found = areas(replays, PAIR, draws(4, samples=20, seed=0))
    # Up from 0.5 to 1 on the first half of the range, level on the second.
    assert found["router"]["aiq"] == pytest.approx((0.75 + 1) / 2)
    assert found["router"]["qnc"] == pytest.approx(2 / 3)
    assert found["random"]["aiq"] == pytest.approx(0.75)
    assert found["random"]["qnc"] == pytest.approx(1)
    assert found["random"]["below_router"] == pytest.approx(0.125)
    assert "below_router" not in found["router"]


def test_a_router_that_never_is_as_good_has_no_quality_neutral_cost() -> None:
    found = areas({"router": fixed_mix(PAIR, ["cheap"])}, PAIR, draws(4, samples=5, seed=0))
    assert found["router"]["qnc"] is None
    assert found["router"]["aiq"] == 0.5


def test_a_router_over_many_models_pays_for_what_it_gains() -> None:
    # Each model is right on its own row; the third one is dear and right on both of its rows alone.
    quality = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
    models = Models(("a", "b", "c"), quality, np.tile([1.0, 2.0, 9.0], (4, 1)))
    oracle = many_models(quality, models)
    assert oracle.points()[0] == [(1 + 2 + 9 + 9) / 4, 1.0]
    assert oracle.points()[-1] == [1.0, 0.25]
    costs = [cost for cost, _ in oracle.points()]
    assert costs == sorted(costs, reverse=True)


def test_of_equally_good_models_the_cheapest_answers() -> None:
    models = Models(("dear", "cheap"), np.ones((3, 2)), np.tile([5.0, 1.0], (3, 1)))
    assert many_models(np.ones((3, 2)), models).points()[0] == [1.0, 1.0]


def test_single_models_are_told_with_what_the_router_has_above_them() -> None:
    found = single_models(PAIR, two_models([4, 3, 2, 1], PAIR), draws(4, samples=5, seed=0))
    assert [(of["name"], of["quality"], of["usd_per_1000"]) for of in found] == [
        ("cheap", 0.5, 1000.0),
        ("dear", 1.0, 3000.0),
    ]
    assert [of["router_above"] for of in found] == pytest.approx([0, 0])
    # The dear model alone has no frontier: it is mixed with the cheap one.
    assert [of["aiq"] for of in found] == pytest.approx([0.5, 0.75])


def test_a_good_router_is_above_every_model_and_a_blind_one_is_not() -> None:
    drawn = draws(4, samples=5, seed=0)
    good, _ = many_report(PAIR, {"router": PAIR.quality}, drawn)
    assert good["above_every_model"] is True
    assert good["routers"]["oracle"]["aiq"] == good["routers"]["router"]["aiq"]
    blind, _ = many_report(PAIR, {"router": np.zeros((4, 2))}, drawn)
    assert blind["above_every_model"] is False


# Numbers in words: texts that differ by digits alone are near-duplicates.
DIGITS = str.maketrans({"0": "nought ", "1": "one "})


def clusters(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around two centres; what is right depends on the centre."""
    rng = np.random.default_rng(0)
    side = np.arange(n) % 2
    vectors = np.eye(8, dtype=np.float32)[side] + rng.normal(0, 0.05, (n, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, np.column_stack((side == 0, side == 1)).astype(float)


def test_nearest_neighbours_tell_clusters_apart() -> None:
    vectors, success = clusters()
    found = nearest(vectors, success, [f"{at:b}".translate(DIGITS) for at in range(200)])
    assert found is not None
    assert np.abs(found.success - success).max() < 0.01
    assert len(found.count) == 5


def test_a_row_is_no_neighbour_of_its_own_copies() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(100, 8)).astype(np.float32).repeat(2, axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Each text stands there twice with the same outcome, a coin's: only a copy could tell it.
    texts = [" ".join(rng.choice(["red", "blue", "green", "white", "black"], 12)) for _ in range(100)]
    success = (rng.random((100, 1)) < 0.5).astype(float).repeat(2, axis=0)
    found = nearest(vectors, success, [text for text in texts for _ in range(2)])
    assert found is not None
    assert np.corrcoef(found.success[:, 0], success[:, 0])[0, 1] < 0.25


def test_too_few_rows_have_no_neighbours() -> None:
    vectors, success = clusters(10)
    assert nearest(vectors, success, [str(at) for at in range(10)]) is None
