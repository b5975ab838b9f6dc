"""How able a model is: a few figures that turn what the classifier says of a request into P(this model succeeds).

In the words of item response theory the classifier measures the item (its difficulty by several yardsticks, and which
skills it needs) and an ability is the model's intercept and its slopes on these: logit P = bias + weights . skills.
Abilities of published models start from the mean and spread over all of them, which is why a hundred scored prompts
are enough to place one more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic.plain import logistic
from .embedding import FloatArray

Floats = npt.NDArray[np.floating[Any]]

# From so many rows on, whether the published models' spread fits is asked of the rows; and what is added to it then.
_ENOUGH, _FOLDS, _WIDER = 300, 5, (0.05, 0.5)
# Newton's steps; it has converged to single precision long before.
_STEPS = 25


@dataclass(frozen=True, slots=True, eq=False)
class Ability:
    """Where a model stands.

    Attributes:
        model: The one that was measured.
        weights: Slopes on the skills, shape (K).
        bias: Intercept.
        rows: Scored prompts that it was placed with.
    """

    model: str
    weights: FloatArray
    bias: float
    rows: int

    def success(self, skills: Floats) -> FloatArray:
        """Return P(success) for skills of shape (K), or (n, K)."""
        odds = np.clip(skills @ self.weights + self.bias, -30, 30)
        return np.asarray(1 / (1 + np.exp(-odds)), np.float32)

    def chance(self, skills: Floats) -> float:
        """Return P(success) for skills of shape (K): as `success`, faster for one request."""
        return logistic(float(skills @ self.weights) + self.bias)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        weights = np.round(self.weights.astype(float), 4).tolist()
        return {"model": self.model, "bias": round(self.bias, 4), "weights": weights, "rows": self.rows}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Ability:
        """Read what `to_dict` gave."""
        weights = np.array(values["weights"], np.float32)
        return cls(str(values["model"]), weights, float(values["bias"]), int(values["rows"]))


def plain_name(name: str) -> str:
    """Reduce a model's name to what identifies its weights: `HF/SmolLM2-135M-Instruct.Q4_1.gguf` to `smollm2-135m`."""
    bare = name.lower().rsplit("/", 1)[-1].removesuffix(".gguf")
    bare = re.sub(r"-(?:20\d{2}-?\d{2}-?\d{2})$", "", bare)
    bare = re.sub(r"[.\-_:](?:i?q\d(?:_\w+)*|f16|bf16|f32)$", "", bare)
    return re.sub(r"[\-_:](?:instruct|chat|it|preview|latest)(?=$|[\-_:])", "", bare)


@dataclass(frozen=True, slots=True, eq=False)
class AbilityPrior:
    """What is known of a model before it is measured: a normal distribution over (bias, weights).

    Attributes:
        mean: Shape (1 + K).
        precision: Inverse covariance, shape (1 + K, 1 + K).
    """

    mean: FloatArray
    precision: FloatArray

    @classmethod
    def wide(cls, skills: int) -> AbilityPrior:
        """Return a prior that says little, for the first models of all; `skills` is K."""
        return cls(np.zeros(1 + skills, np.float32), np.eye(1 + skills, dtype=np.float32))

    @classmethod
    def over(cls, abilities: Sequence[Ability], *, spread: float = 0.005) -> AbilityPrior:
        """Return the distribution of measured models.

        Args:
            abilities: At least two.
            spread: Variance added to each figure, so that no direction is taken for certain.
        """
        figures = np.array([[a.bias, *a.weights] for a in abilities], np.float64)
        covariance = np.cov(figures, rowvar=False) + spread * np.eye(figures.shape[1])
        return cls(figures.mean(axis=0).astype(np.float32), np.linalg.inv(covariance).astype(np.float32))


def chosen_prior(skills: Floats, success: Floats, prior: AbilityPrior, *, seed: int = 0) -> AbilityPrior:
    """Return the prior, or a wider one where the rows say that the model is unlike the published ones.

    With few rows the published models' spread is the best guide; many rows show whether it binds too much: the width
    is chosen by the log loss on rows left out, in five folds.

    Args:
        skills: Shape (n, S).
        success: In [0, 1], shape (n).
        prior: Over the published models.
        seed: Of the folds.
    """
    if len(success) < _ENOUGH:
        return prior
    fold = np.random.default_rng(seed).permutation(len(success)) % _FOLDS
    covariance = np.linalg.inv(prior.precision.astype(np.float64))

    def wider(by: float) -> AbilityPrior:
        wide = np.linalg.inv(covariance + by * np.eye(len(covariance)))
        return AbilityPrior(prior.mean, wide.astype(np.float32))

    def loss(tried: AbilityPrior) -> float:
        total = 0.0
        for number in range(_FOLDS):
            inside = fold == number
            placed = place("", skills[~inside], success[~inside], tried)
            p = np.clip(placed.success(skills[inside]).astype(np.float64), 1e-6, 1 - 1e-6)
            y = success[inside]
            total -= float((y * np.log(p) + (1 - y) * np.log(1 - p)).sum())
        return total

    return min((prior, *map(wider, _WIDER)), key=loss)


def place(model: str, skills: Floats, success: Floats, prior: AbilityPrior) -> Ability:
    """Return the likeliest ability given scored prompts (maximum a posteriori logistic regression, by Newton's method).

    Args:
        model: Its name.
        skills: Shape (n, K).
        success: In [0, 1], shape (n).
        prior: What is known beforehand; with few prompts the ability stays near it.

    Raises:
        ValueError: There are no rows, or the shapes differ.
    """
    if not len(skills) or len(skills) != len(success):
        raise ValueError(f"expected one success a row of skills; got {len(skills)} and {len(success)}")
    x = np.concatenate((np.ones((len(skills), 1)), skills.astype(np.float64)), axis=1)
    y = success.astype(np.float64)
    at = prior.mean.astype(np.float64).copy()
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ at, -30, 30)))
        slope = x.T @ (p - y) + prior.precision @ (at - prior.mean)
        curvature = (x * np.maximum(p * (1 - p), 1e-6)[:, None]).T @ x + prior.precision
        step = np.linalg.solve(curvature, slope)
        # Far from the optimum a full step overshoots; a bounded one gets there as surely.
        at -= step / max(1.0, float(np.abs(step).max()) / 2)
        if np.abs(step).max() < 1e-6:
            break
    return Ability(model, at[1:].astype(np.float32), float(at[0]), len(y))
