"""Placing the published models: an ability for each, and the prior for those to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..scoring.abilities import Ability, AbilityPrior, place
from ..scoring.classifier import Classifier
from ..scoring.embedding import FloatArray
from .rows import TrainingRow

# A model is placed where it was run on so many rows.
LEAST_ROWS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """The models that were measured, and what they say of others.

    Attributes:
        names: Shape (M).
        abilities: By model, placed on all of its rows.
        by_fold: By fold, by model: placed on its rows outside the fold.
        prior: Over them.
    """

    names: tuple[str, ...]
    abilities: tuple[Ability, ...]
    by_fold: tuple[tuple[Ability, ...], ...]
    prior: AbilityPrior


def place_models(
    rows: Sequence[TrainingRow],
    skills: FloatArray,
    fold: npt.NDArray[np.int32],
    *,
    without: Sequence[str] = (),
) -> Placed:
    """Place every model of the rows' scores.

    Args:
        rows: The training rows.
        skills: Theirs, out of fold: of what a classifier says of its own training rows, abilities would learn to
            trust too much. Shape (rows, K).
        fold: Of each row.
        without: Models to leave out.
    """
    answered: dict[str, tuple[list[int], list[float]]] = {}
    for at, row in enumerate(rows):
        for name, value in row.scores.items():
            places, values = answered.setdefault(name, ([], []))
            places.append(at)
            values.append(value)
    names = sorted(n for n, (at, _) in answered.items() if len(at) >= LEAST_ROWS and n not in without)
    data = {name: (np.array(answered[name][0]), np.array(answered[name][1])) for name in names}
    prior = AbilityPrior.wide(skills.shape[1])
    # Twice: the first round's spread is the second one's prior.
    for _ in range(2):
        abilities = tuple(place(name, skills[at], values, prior) for name, (at, values) in data.items())
        prior = AbilityPrior.over(abilities)
    by_fold = []
    for number in np.unique(fold):
        outside = {name: fold[at] != number for name, (at, _) in data.items()}
        by_fold.append(
            tuple(
                place(name, skills[at][outside[name]], values[outside[name]], prior)
                if outside[name].any()
                else Ability(name, prior.mean[1:], float(prior.mean[0]), 0)
                for name, (at, values) in data.items()
            )
        )
    return Placed(tuple(names), abilities, tuple(by_fold), prior)


def with_models(model: Classifier, placed: Placed) -> Classifier:
    """Return the classifier with the models' abilities in it."""
    return replace(
        model,
        models=np.array(placed.names, np.str_),
        abilities=figures_of(placed.abilities),
        placed_with=np.array([ability.rows for ability in placed.abilities], np.int32),
        prior_mean=placed.prior.mean,
        prior_precision=placed.prior.precision,
    )


def figures_of(abilities: Sequence[Ability]) -> FloatArray:
    """Return bias and weights, a row each."""
    return np.array([[ability.bias, *ability.weights] for ability in abilities], np.float32)
