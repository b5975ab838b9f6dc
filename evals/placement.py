"""How well a model is placed with a few scored prompts: against the same model placed on all of its rows.

Use a classifier that never saw the models' outcomes (`smallfirst train --without-model NAME … --out FILE`). Of each
model's rows one half is for placing and the other for testing, again and again; skills are out of fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smallfirst.router.scoring import Scorer
from smallfirst.router.scoring.abilities import Ability, AbilityPrior, place
from smallfirst.router.training.files import DataError, decoded, read_rows
from smallfirst.router.training.keys import row_key

from .metrics import FloatArray, curve, expected_calibration_error
from .out_of_fold import Folds

# Random choices of the prompts to place with.
DRAWS = 8


def placement_report(
    path: Path,
    artefact: Path,
    models: Sequence[str],
    *,
    against: str,
    prompts: int = 100,
    seed: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Place models with a few prompts and report how well requests are then routed.

    Args:
        path: Outcome file with `scores`; its rows are among the classifier's training rows.
        artefact: A classifier trained without the models.
        models: Names of the models.
        against: A strong model that the classifier knows; routing decides between it and the placed one.
        prompts: To place a model with.
        seed: Of the draws.
        progress: Called with each model.

    Returns:
        `{prompts, against, models: {name: {n, apgr, apgr_all_rows, gap, expected_calibration_error,
        expected_calibration_error_all_rows}}, mean: {…}}`, means over the draws. `_all_rows`: placed on its whole
        half; `gap`: how much APGR that gains.

    Raises:
        DataError: A model has too few rows, or the classifier has seen it.
    """
    scorer, folds = Scorer.load(artefact), Folds.load(artefact)
    if against not in folds.models:
        raise DataError(f"{artefact}: does not know '{against}'; it knows {', '.join(folds.models)}.")
    rows, scores = _rows(path, folds)
    report: dict[str, Any] = {"prompts": prompts, "against": against, "models": {}}
    for name in models:
        progress(name)
        if name in folds.models:
            raise DataError(
                f"{artefact} has seen outcomes of '{name}'; see smallfirst train --without-model."
            )
        both = [at for at, of in enumerate(scores) if name in of and against in of]
        if len(both) < 4 * prompts:
            raise DataError(
                f"{path}: {len(both)} rows have scores of '{name}' and '{against}'; {4 * prompts} are needed."
            )
        success = np.array([[scores[at][name], scores[at][against]] for at in both])
        there = np.array([rows[at] for at in both])
        strong = np.array([folds.success(row, [scorer.abilities[against]])[0] for row in there])
        draws = [
            _draw(
                folds.skills[there],
                success,
                strong,
                scorer.prior,
                prompts,
                np.random.default_rng((seed, draw)),
            )
            for draw in range(DRAWS)
        ]
        report["models"][name] = {"n": len(both), **_mean(draws)}
    report["mean"] = _mean([{k: v for k, v in of.items() if k != "n"} for of in report["models"].values()])
    return report


def _rows(path: Path, folds: Folds) -> tuple[list[int], list[dict[str, float]]]:
    """Return places among the training rows, and scores by model."""
    rows, scores = [], []
    for row in read_rows(path, ("id", "request", "scores")):
        at = folds.rows.get(row_key(decoded(row, "request", f"{path}: row {row['id']}")))
        if at is not None:
            told = decoded(row, "scores", f"{path}: row {row['id']}")
            rows.append(at)
            scores.append(
                {name: value for name, value in told.items() if value is not None and not np.isnan(value)}
            )
    if not rows:
        raise DataError(f"{path}: the classifier was trained on none of its rows.")
    return rows, scores


def _draw(
    skills: FloatArray, success: FloatArray, strong: FloatArray, prior: AbilityPrior, prompts: int, rng: Any
) -> dict[str, float]:
    order: npt.NDArray[np.intp] = rng.permutation(len(skills))
    half = len(order) // 2
    train, test = order[:half], order[half:]
    figures = {}
    for name, used in (("", train[:prompts]), ("_all_rows", train)):
        ability: Ability = place("", skills[used], success[used, 0], prior)
        p = ability.success(skills[test]).astype(np.float64)
        line = curve(strong[test] - p, success[test, 0], success[test, 1])
        figures[f"apgr{name}"] = line.apgr if line else np.nan
        figures[f"expected_calibration_error{name}"] = expected_calibration_error(p, success[test, 0])
    return figures | {"gap": figures["apgr_all_rows"] - figures["apgr"]}


def _mean(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([of[key] for of in figures])) for key in figures[0]}
