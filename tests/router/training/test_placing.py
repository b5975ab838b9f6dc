"""Placing the published models."""

from __future__ import annotations

import numpy as np
import pytest

from smallfirst.router.scoring.abilities import Ability, place
from smallfirst.router.scoring.classifier import Classifier
from smallfirst.router.scoring.embedding import FloatArray
from smallfirst.router.scoring.scorer import packaged_artefact
from smallfirst.router.training.placing import LEAST_ROWS, Placed, figures_of, place_models, with_models
from smallfirst.router.training.rows import TrainingRow

BIAS = {"good": 1.5, "fair": 0.0, "poor": -1.5}
ROWS, SKILLS, FOLDS = 900, 3, 3


@pytest.fixture(scope="module")
def skills() -> FloatArray:
    return np.random.default_rng(0).normal(size=(ROWS, SKILLS)).astype(np.float32)


@pytest.fixture(scope="module")
def fold() -> np.ndarray:
    return (np.arange(ROWS) % FOLDS).astype(np.int32)


def made(skills: FloatArray, **other: dict[int, float]) -> list[TrainingRow]:
    """Rows with simulated scores; `other` models have only the given ones, by row."""
    random = np.random.default_rng(1)
    body = {"messages": [{"role": "user", "content": "?"}]}
    rows = []
    for at in range(ROWS):
        scores = {
            name: float(
                random.random() < Ability(name, np.ones(SKILLS, np.float32), bias, 0).success(skills[at])
            )
            for name, bias in BIAS.items()
        }
        scores |= {name: answered[at] for name, answered in other.items() if at in answered}
        rows.append(TrainingRow("f", str(at), "s", body, "t", "chat", scores=scores))
    return rows


def test_models_are_placed_by_what_they_got_right(skills: FloatArray, fold: np.ndarray) -> None:
    placed = place_models(made(skills), skills, fold)
    assert placed.names == ("fair", "good", "poor")
    assert [a.bias for a in placed.abilities] == pytest.approx([0.0, 1.5, -1.5], abs=0.3)
    assert [a.rows for a in placed.abilities] == [ROWS] * 3
    assert placed.prior.mean.tolist() == pytest.approx([0, 1, 1, 1], abs=0.3)


def test_an_ability_for_a_fold_has_not_seen_the_fold(skills: FloatArray, fold: np.ndarray) -> None:
    # In fold 0 this model is always right, elsewhere always wrong.
    two_faced = {at: float(fold[at] == 0) for at in range(ROWS)}
    rows = made(skills, two_faced=two_faced)
    placed = place_models(rows, skills, fold)
    at = placed.names.index("two_faced")
    outside = fold != 0
    expected = place(
        "two_faced", skills[outside], np.array([two_faced[n] for n in range(ROWS)])[outside], placed.prior
    )
    assert figures_of([placed.by_fold[0][at]]) == pytest.approx(figures_of([expected]), abs=1e-5)
    inside = [float(of[at].success(skills).mean()) for of in placed.by_fold]
    assert inside[0] < 0.1
    assert min(inside[1:]) > 0.3
    assert [of[at].rows for of in placed.by_fold] == [600, 600, 600]


def test_a_model_with_few_rows_or_left_out_is_not_placed(skills: FloatArray, fold: np.ndarray) -> None:
    rare = dict.fromkeys(range(LEAST_ROWS - 1), 1.0)
    assert place_models(made(skills, rare=rare), skills, fold, without=["poor"]).names == ("fair", "good")
    enough = dict.fromkeys(range(LEAST_ROWS), 1.0)
    assert "enough" in place_models(made(skills, enough=enough), skills, fold).names


def test_a_model_all_of_whose_rows_lie_in_one_fold_is_taken_for_an_average_one_there(
    skills: FloatArray, fold: np.ndarray
) -> None:
    only = {at: 1.0 for at in range(ROWS) if fold[at] == 1}
    placed = place_models(made(skills, only=only), skills, fold)
    at = placed.names.index("only")
    assert placed.by_fold[1][at].rows == 0
    assert figures_of([placed.by_fold[1][at]])[0] == pytest.approx(placed.prior.mean)
    assert placed.abilities[at].bias > placed.prior.mean[0]


def test_a_classifier_takes_the_models_along(skills: FloatArray, fold: np.ndarray) -> None:
    placed: Placed = place_models(made(skills), skills, fold)
    model = with_models(Classifier.load(packaged_artefact()), placed)
    assert model.models.tolist() == ["fair", "good", "poor"]
    assert model.abilities == pytest.approx(figures_of(placed.abilities))
    assert model.placed_with.tolist() == [ROWS] * 3
    assert model.prior_mean == pytest.approx(placed.prior.mean)
    assert model.prior_precision == pytest.approx(placed.prior.precision)
