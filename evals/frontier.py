"""Cost-quality frontiers on outcome files: what a router, and simpler ones beside it, get for what they pay.

A router is replayed under a row of settings, from "all to the cheapest model" on; each gives a mean cost and a mean
quality. Between two settings lies a random choice of them. Of two models the setting is the share of requests that goes
to the strong one; of many, it is what a unit of quality may cost: `success - weight * price` chooses, for each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from .metrics import FloatArray, aiq, cost_of_quality, hull

STEPS = 101
# How much quality the whole range of prices may cost, from next to nothing to far more than there is.
WEIGHTS = np.concatenate(([0.0], np.geomspace(1e-3, 1e3, STEPS - 2), [1e9]))

FOLDS = 5
NEIGHBOURS = (5, 10, 20, 40, 80, 160, 320)


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A router's results under each of its settings.

    Attributes:
        quality: Expected success, shape (settings, rows).
        cost: Expected cost, of the same shape.
    """

    quality: FloatArray
    cost: FloatArray

    def points(self, scale: float = 1.0) -> list[list[float]]:
        """Return [mean cost times `scale`, mean quality] of each setting."""
        means = zip(self.cost.mean(axis=1) * scale, self.quality.mean(axis=1), strict=True)
        return [[float(x), float(y)] for x, y in means]

    def hull(self) -> FloatArray:
        """Return the frontier over all rows, see `metrics.hull`."""
        return hull(self.cost.mean(axis=1), self.quality.mean(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """Outcomes of all models that a router may choose from.

    Attributes:
        names: The models.
        quality: Success in [0, 1], shape (rows, models).
        cost: Of asking each, of the same shape.
    """

    names: tuple[str, ...]
    quality: FloatArray
    cost: FloatArray

    @property
    def price(self) -> FloatArray:
        """Mean cost of a request by model: what is known of a price before the answer is there."""
        price: FloatArray = self.cost.mean(axis=0)
        return price


def two_models(score: npt.ArrayLike, models: Models) -> Replay:
    """Replay a router between two models: a rising share of rows, by falling score, goes to the second one.

    Among equal scores any order is as likely: each of these rows goes there in part.
    """
    _, tied, size = np.unique(-np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    before = np.cumsum(size) - size
    wanted = np.linspace(0, len(tied), STEPS)[:, np.newaxis]
    strong = np.clip((wanted - before[tied]) / size[tied], 0, 1)

    def mixed(values: FloatArray) -> FloatArray:
        result: FloatArray = values[:, 0] + strong * (values[:, 1] - values[:, 0])
        return result

    return Replay(mixed(models.quality), mixed(models.cost))


def many_models(success: FloatArray, models: Models) -> Replay:
    """Replay a router over any number of models by their predicted success, shape (rows, models), and mean price.

    Of equally good choices the cheapest model is taken.
    """
    price = models.price
    order = np.argsort(price, kind="stable")
    relative = (price - price.min()) / (np.ptp(price) or 1.0)
    rows = np.arange(len(success))
    chosen = [order[np.argmax((success - weight * relative)[:, order], axis=1)] for weight in WEIGHTS]
    return Replay(
        np.array([models.quality[rows, at] for at in chosen]),
        np.array([models.cost[rows, at] for at in chosen]),
    )


def fixed_mix(models: Models, names: Sequence[str] | None = None) -> Replay:
    """Replay each of some models (default: all) answering everything: a router that does not look at requests."""
    at = [models.names.index(name) for name in names or models.names]
    return Replay(models.quality[:, at].T, models.cost[:, at].T)


def areas(replays: Mapping[str, Replay], models: Models, drawn: FloatArray) -> dict[str, dict[str, Any]]:
    """Return AIQ and QNC of each router with 95 % bootstrap intervals, and how far its AIQ is below the first one's.

    The range of cost is that of the single models' mean costs. QNC is the least cost at which the router is as good
    as the most accurate single model, as a share of that model's cost; None where it never is.

    Args:
        replays: Routers over the same rows.
        models: What they chose from.
        drawn: From `metrics.draws`.
    """
    every = np.ones((1, drawn.shape[1]))
    figures = {name: _areas(replay, models, np.vstack((every, drawn))) for name, replay in replays.items()}
    first = next(iter(figures.values()), None)
    results = {}
    for name, (area, neutral) in figures.items():
        results[name] = {
            "aiq": float(area[0]),
            "aiq_95": _middle(area[1:]),
            "qnc": float(neutral[0]) if np.isfinite(neutral[0]) else None,
            "qnc_95": _middle(neutral[1:]),
        }
        if first is not None and area is not first[0]:
            results[name]["below_router"] = float(first[0][0] - area[0])
            results[name]["below_router_95"] = _middle(first[0][1:] - area[1:])
    return results


def _areas(replay: Replay, models: Models, drawn: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return AIQ and QNC for each row of weights; QNC is infinite where the quality is not reached."""
    rows = drawn.sum(axis=1, keepdims=True)
    cost, quality = drawn @ replay.cost.T / rows, drawn @ replay.quality.T / rows
    single_cost, single_quality = drawn @ models.cost / rows, drawn @ models.quality / rows
    area, neutral = np.zeros(len(drawn)), np.full(len(drawn), np.inf)
    for at in range(len(drawn)):
        line = hull(cost[at], quality[at])
        area[at] = aiq(line, single_cost[at].min(), single_cost[at].max())
        best = int(np.argmax(single_quality[at]))
        reached = cost_of_quality(line, single_quality[at, best])
        if reached is not None and single_cost[at, best] > 0:
            neutral[at] = reached / single_cost[at, best]
    return area, neutral


def _middle(values: FloatArray) -> list[float | None] | None:
    """Return the middle 95 %; an end that is not finite is None."""
    if not len(values):
        return None
    ends = np.percentile(values, [2.5, 97.5], method="nearest")
    return [float(end) if np.isfinite(end) else None for end in ends]


def single_models(models: Models, router: Replay, drawn: FloatArray) -> list[dict[str, Any]]:
    """Return each model's quality and cost, and how far the router's frontier is above it at the same cost.

    A model's AIQ is that of a random mix of it with the cheapest model: alone, it has no frontier.
    """
    weights = np.vstack((np.ones((1, drawn.shape[1])), drawn))
    rows = weights.sum(axis=1, keepdims=True)
    cost, quality = weights @ models.cost / rows, weights @ models.quality / rows
    router_cost, router_quality = weights @ router.cost.T / rows, weights @ router.quality.T / rows
    above = np.zeros_like(cost)
    for at in range(len(weights)):
        line = hull(router_cost[at], router_quality[at])
        above[at] = np.interp(cost[at], line[:, 0], line[:, 1]) - quality[at]
    cheapest = models.names[int(np.argmin(models.price))]
    found = []
    for column, name in enumerate(models.names):
        mix = fixed_mix(models, list(dict.fromkeys((cheapest, name))))
        found.append(
            {
                "name": name,
                "quality": float(quality[0, column]),
                "quality_95": _middle(quality[1:, column]),
                "usd_per_1000": float(cost[0, column] * 1000),
                "aiq": float(_areas(mix, models, weights[:1])[0][0]),
                "router_above": float(above[0, column]),
                "router_above_95": _middle(above[1:, column]),
            }
        )
    return found


def many_report(
    models: Models, success: Mapping[str, FloatArray], drawn: FloatArray
) -> tuple[dict[str, Any], dict[str, Replay]]:
    """Return the figures of routers over many models, and their replays.

    Args:
        models: What they choose from.
        success: Predictions by the router's name, each of shape (rows, models); has `router`.
        drawn: From `metrics.draws`.

    Returns:
        `n`; `routers`, see `areas`: those given, an oracle, and `fixed_mix`, the best that can be done without looking
        at requests; `models`, see `single_models`; `above_every_model`, whether the router's AIQ is above each model's.
    """
    replays = {name: many_models(guess, models) for name, guess in success.items()}
    replays |= {"fixed_mix": fixed_mix(models), "oracle": many_models(models.quality, models)}
    routers = areas(replays, models, drawn)
    single = single_models(models, replays["router"], drawn)
    report = {
        "n": len(models.quality),
        "routers": routers,
        "models": single,
        "above_every_model": all(routers["router"]["aiq"] > model["aiq"] for model in single),
    }
    return report, replays


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Out-of-fold predictions of nearest neighbours.

    Attributes:
        success: Shape (rows, models).
        count: How many neighbours each fold was given.
    """

    success: FloatArray
    count: tuple[int, ...]


def nearest(
    vectors: npt.NDArray[np.float32],
    success: FloatArray,
    texts: Sequence[str],
    *,
    seed: int = 0,
) -> Neighbours | None:
    """Predict each row's success by the mean of its nearest neighbours' in other folds.

    Near-duplicates stay in one fold. How many neighbours a fold gets is chosen on the rows of the other folds, by their
    squared error.

    Args:
        vectors: Of length 1, shape (rows, dimensions).
        success: Shape (rows, models).
        texts: The prompts, by which near-duplicates are told.
        seed: Of the folds.

    Returns:
        None where there are too few rows for folds, or SciPy is not installed (it is with the extra `train`).
    """
    if len(texts) < 4 * FOLDS or find_spec("scipy") is None:
        return None
    from smallfirst.router.training.folds import groups_of

    groups = groups_of(texts)
    fold = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups] % FOLDS
    fewest = int(len(fold) - np.bincount(fold, minlength=FOLDS).max())
    counts = [count for count in NEIGHBOURS if count <= fewest]
    if not counts or len(np.unique(fold)) < FOLDS:
        return None
    guesses = np.zeros((len(counts), *success.shape))
    for number in range(FOLDS):
        test, train = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        near = vectors[test] @ vectors[train].T
        closest = np.argpartition(-near, counts[-1] - 1, axis=1)[:, : counts[-1]]
        ranked = np.argsort(-np.take_along_axis(near, closest, axis=1), axis=1, kind="stable")
        total = np.cumsum(success[train][np.take_along_axis(closest, ranked, axis=1)], axis=1)
        for at, count in enumerate(counts):
            guesses[at, test] = total[:, count - 1] / count
    error = ((guesses - success) ** 2).mean(axis=2)
    chosen = [int(np.argmin(error[:, fold != number].mean(axis=1))) for number in range(FOLDS)]
    predicted = np.zeros(success.shape)
    for number, at in enumerate(chosen):
        predicted[fold == number] = guesses[at, fold == number]
    return Neighbours(predicted, tuple(counts[at] for at in chosen))
