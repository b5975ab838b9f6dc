"""Replay of a router on outcome files: how much of the strong model's advantage it keeps, for how many strong calls.

Rows that the classifier was trained on are never scored by what it learned from them: the artefact carries, for each
of its training rows (by a hash of the text), what classifiers said that had not seen the row or a near-duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smallfirst.policies.risk import CalibrationRows
from smallfirst.router.scoring import Features, Scorer
from smallfirst.router.scoring.abilities import Ability
from smallfirst.router.scoring.classifier import STRONG, WEAK
from smallfirst.router.training.keys import row_key, text_of

from .frontier import Models, Neighbours, Replay, areas, many_report, nearest, two_models
from .metrics import FloatArray, apgr_interval, curve, draws, expected_calibration_error, reliability
from .out_of_fold import predicted
from .outcome_files import Outcome, models_of, pair_of, read_outcomes
from .risk import BUDGETS, cross_fitted, splits, sweep
from .routing_page import routing_page

RowNumbers = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Asked:
    """What `eval routing` reports beside its figures.

    Attributes:
        budgets: Risk budgets.
        confidence: Theirs.
        splits: How often the rows are halved at random to test a budget; 0: not.
        price_weak: US dollars per million prompt tokens, used where the file has no costs.
        price_strong: Likewise; None where no price is stated.
        models: Which of the `scores` a router over many models chooses from; `("all",)` for every one; empty for none.
    """

    budgets: tuple[float, ...] = BUDGETS
    confidence: float = 0.95
    splits: int = 0
    price_weak: float = 0.0
    price_strong: float | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """P(success) of the two models for each row."""

    weak: FloatArray
    strong: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """All that is known of the rows for two models, one value (or line) a row.

    Attributes:
        models: Success and cost of the weak and the strong model; without costs, a strong call costs 1.
        score: The router's, by which the strong model is chosen.
        length: Characters of the prompt.
        knn: P(strong) - P(weak) by nearest neighbours, or None.
        scored: The router's P(success).
        priced: Whether costs are US dollars.
    """

    models: Models
    score: FloatArray
    length: FloatArray
    knn: FloatArray | None
    scored: Scored
    priced: bool

    def rankings(self, rows: RowNumbers | slice = slice(None)) -> dict[str, FloatArray]:
        """Return what each way of routing ranks rows by."""
        right = self.models.quality[rows]
        ranked = {
            "router": self.score[rows],
            "random": np.zeros(len(right)),
            "length": self.length[rows],
            "oracle": right[:, 1] - right[:, 0],
        }
        return ranked if self.knn is None else ranked | {"knn": self.knn[rows]}

    def replays(self, rows: RowNumbers | slice = slice(None)) -> dict[str, Replay]:
        """Return the replay of each way of routing."""
        part = Models(self.models.names, self.models.quality[rows], self.models.cost[rows])
        return {name: two_models(score, part) for name, score in self.rankings(rows).items()}


# P(success) of the named models for each row, shape (rows, models).
Predict = Callable[[Sequence[Outcome], Sequence[str]], FloatArray]


def evaluate(pair: Pair, subsets: Sequence[str], *, samples: int = 500, seed: int = 0) -> dict[str, Any]:
    """Return the figures of `smallfirst eval routing`: overall, and under `by_subset`.

    The router ranks by P(strong) - P(weak). The calibration error is the mean of both models'. Figures are None where
    the strong model is no better than the weak one, as there is no gap to recover. AIQ and QNC are there where costs
    are known (see `frontier.areas`).

    Args:
        pair: The rows.
        subsets: Of each row.
        samples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    names = np.array(subsets)
    figures = _figures(pair, np.arange(len(subsets)), samples, seed)
    figures["by_subset"] = {
        str(subset): _figures(pair, np.flatnonzero(names == subset), samples, seed)
        for subset in np.unique(names)
    }
    return figures


def _figures(pair: Pair, rows: RowNumbers, samples: int, seed: int) -> dict[str, Any]:
    weak, strong = pair.models.quality[rows].T
    claimed = {"weak": pair.scored.weak[rows], "strong": pair.scored.strong[rows]}
    actual = {"weak": weak, "strong": strong}
    drawn = draws(len(rows), samples=samples, seed=seed)
    lines = {name: curve(score, weak, strong) for name, score in pair.rankings(rows).items()}
    spans = {
        name: apgr_interval(score, weak, strong, drawn)
        for name, score in pair.rankings(rows).items()
        if name != "random"
    }
    line = lines.pop("router")
    figures: dict[str, Any] = {
        "n": len(rows),
        "apgr": line.apgr if line else None,
        "apgr_95": spans.pop("router"),
        "cpt50": line.cpt(0.5) if line else None,
        "cpt80": line.cpt(0.8) if line else None,
        "expected_calibration_error": sum(
            expected_calibration_error(claimed[name], actual[name]) for name in actual
        ) / 2,
        "quality": {"weak": float(weak.mean()), "strong": float(strong.mean())},
        "baselines": {"knn": None} | {name: found.apgr if found else None for name, found in lines.items()},
        "baselines_95": {"knn": None, "random": None} | spans,
        "reliability": {name: reliability(claimed[name], actual[name]) for name in actual},
    }  # fmt: skip
    if pair.priced:
        part = Models(pair.models.names, pair.models.quality[rows], pair.models.cost[rows])
        found = areas(pair.replays(rows), part, drawn)
        usd = dict(zip(("weak", "strong"), (part.price * 1000).tolist(), strict=True))
        figures |= found.pop("router") | {"baselines_areas": found, "usd_per_1000": usd}
    return figures


def routing_report(
    path: Path, *, weak: str | None = None, strong: str | None = None, artefact: Path | None = None,
    samples: int = 500, seed: int = 0, asked: Asked | None = None, predict: Predict | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate the router on an outcome file. Says which rows' scores are out of fold, and why.

    Args:
        path: See `read_outcomes`.
        weak: One of the `scores`; default, where `asked.models` are given, the cheapest of these.
        strong: Likewise the most accurate.
        artefact: Another classifier than the one that ships.
        samples: Of the bootstrap.
        seed: Of all that is drawn.
        asked: What else to report.
        predict: Takes the place of the classifier for `asked.models`.

    Returns:
        Figures as `evaluate` has them; `risk`, see `_risk`; `many_models` where asked for; `page` for `evals.page`.

    Raises:
        DataError: The file is missing or broken.
        SmallfirstError: The artefact is.
    """
    asked = asked or Asked()
    if asked.models and weak is None and strong is None:
        weak, strong = pair_of(path, asked.models)
    outcomes = read_outcomes(path, weak=weak, strong=strong)
    scorer = Scorer.load(artefact)
    abilities = _pair(scorer, weak, strong)
    features = [scorer.features(outcome.request) for outcome in outcomes]
    success, out_of_fold = predicted(outcomes, scorer, abilities, features, artefact=artefact)
    scored = Scored(success[:, 0], success[:, 1])
    cost, costs = _costs(outcomes, asked, scorer, (weak or "weak", strong or "strong"))
    quality = np.array([(outcome.weak, outcome.strong) for outcome in outcomes])
    knn = _neighbours(outcomes, features, quality, seed)
    pair = Pair(
        Models((weak or "weak_correct", strong or "strong_correct"), quality, cost),
        scored.strong - scored.weak,
        np.array([len(outcome.request.text) for outcome in outcomes], np.float64),
        None if knn is None else knn.success[:, 1] - knn.success[:, 0],
        scored,
        costs is not None,
    )
    folded = int(out_of_fold.sum())
    figures = evaluate(pair, [outcome.subset for outcome in outcomes], samples=samples, seed=seed)
    report = {
        "data": path.name,
        "weak": pair.models.names[0],
        "strong": pair.models.names[1],
        "heads": [ability.model for ability in abilities],
        "out_of_fold": folded > 0,
        "out_of_fold_rows": folded,
        "held_out_rows": len(outcomes) - folded,
        "artefact": {"version": scorer.version, "trained": scorer.card["trained"]},
        "costs": costs or "strong calls: no costs are known",
        "knn_neighbours": None if knn is None else list(knn.count),
        **figures,
        **_risk(pair, np.array([outcome.confidence for outcome in outcomes]), asked, samples, seed),
    }
    many: dict[str, Replay] = {}
    if asked.models:
        known = {row_key(row.request.body): found for row, found in zip(outcomes, features, strict=True)}
        predict = predict or _classifier(scorer, artefact, known)
        rows, models = models_of(outcomes, asked.models)
        guesses = {"router": predict(rows, models.names)}
        near = _neighbours(rows, [known[row_key(row.request.body)] for row in rows], models.quality, seed)
        if near is not None:
            guesses["knn"] = near.success
        drawn = draws(len(rows), samples=samples, seed=seed)
        report["many_models"], many = many_report(models, guesses, drawn)
    return report | {"page": routing_page(report, pair.replays(), many)}


def _ability(scorer: Scorer, name: str) -> Ability:
    return scorer.ability_named(name) or scorer.ability_for(name, "cloud")


def _pair(scorer: Scorer, weak: str | None, strong: str | None) -> tuple[Ability, Ability]:
    published = scorer.abilities[WEAK], scorer.abilities[STRONG]
    found = (
        published[0] if weak is None else _ability(scorer, weak),
        published[1] if strong is None else _ability(scorer, strong),
    )
    # Two models of one ability could not be told apart: the published pair then says which prompts are hard.
    return published if found[0].model == found[1].model else found


def _classifier(scorer: Scorer, artefact: Path | None, known: Mapping[int, Features]) -> Predict:
    """Return predictions by the classifier, for models by name; `known` are the rows' features by `row_key`."""

    def predict(outcomes: Sequence[Outcome], models: Sequence[str]) -> FloatArray:
        abilities = [_ability(scorer, name) for name in models]
        features = [known[row_key(outcome.request.body)] for outcome in outcomes]
        return predicted(outcomes, scorer, abilities, features, artefact=artefact)[0]

    return predict


def _neighbours(
    outcomes: Sequence[Outcome], features: Sequence[Features], quality: FloatArray, seed: int
) -> Neighbours | None:
    return nearest(
        np.stack([found.focus for found in features]),
        quality,
        [text_of(outcome.request.body) for outcome in outcomes],
        seed=seed,
    )


def _costs(
    outcomes: Sequence[Outcome], asked: Asked, scorer: Scorer, names: tuple[str, str]
) -> tuple[FloatArray, str | None]:
    """Return what asking each of the two costs, shape (rows, 2), and in words where that is from; None: not known."""
    if all(name in outcome.costs for outcome in outcomes for name in names):
        return np.array([[outcome.costs[name] for name in names] for outcome in outcomes]), "the file's"
    if asked.price_strong is None:
        return np.tile([0.0, 1.0], (len(outcomes), 1)), None
    tokens = np.array([scorer.count_tokens(outcome.request.text) for outcome in outcomes], np.float64)
    prices = np.array([asked.price_weak, asked.price_strong])
    said = f"prompt tokens at {asked.price_weak:g} and {asked.price_strong:g} US dollars per million"
    return tokens[:, np.newaxis] * prices / 1e6, said


def _risk(
    pair: Pair, confidence: FloatArray, asked: Asked, samples: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return `risk`, what each budget asked for achieves, and `risk_sweep`, budgets against cost saved."""
    weak, strong = pair.models.quality.T
    costs = np.ascontiguousarray(pair.models.cost.T)
    rows = CalibrationRows(np.clip(pair.score, -1, 1), confidence, weak, strong, costs[0], costs[1])
    drawn = draws(len(rows), samples=samples, seed=seed)
    found = []
    for budget in asked.budgets:
        entry = cross_fitted(rows, budget, asked.confidence, drawn=drawn, seed=seed)
        entry["cost_unit"] = "US dollars" if pair.priced else "strong calls"
        entry["splits"] = splits(rows, budget, asked.confidence, count=asked.splits, seed=seed)
        found.append(entry)
    return {"risk": found, "risk_sweep": sweep(rows, asked.confidence, seed=seed)}
