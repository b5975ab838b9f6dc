"""Training: rows to an artefact with its card. Every figure in the card is out of fold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..scoring.classifier import SKILL_AXES, STRONG, WEAK, Classifier, sigmoid
from ..scoring.embedding import FloatArray
from ..scoring.features import FEATURES_HASH
from . import fit as fitting
from .files import need_extra
from .keys import row_key
from .placing import Placed, figures_of, place_models, with_models
from .prepare import Prepared, Progress, Targets, prepare
from .rows import TrainingRow, load_rows
from .tiers import PUBLISHED_HEADS, TIERS

FOLDS, SEED = 10, 0
# How much each estimate counts (linear, topics, trees): published outcomes, measured local models. By validation.
PUBLISHED_MIX, LOCAL_MIX = (0.3, 0.4, 0.3), (0.2, 0.3, 0.5)
LICENCES = (
    "Trained on public data whose licences allow it; rows of AlpacaEval, CMMLU and C-Eval are left out "
    "(non-commercial). The arrays hold statistics of the rows, no text of theirs."
)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A classifier, and what it would have said of each training row had that row not been there.

    Attributes:
        classifier: Fitted on all rows, calibrated.
        rows: The training rows.
        skills: Out of fold, shape (rows, S), see `Prediction.skills`.
        fold: Of each row.
        placed: Abilities of the published models.
        card: What goes to `card.json`.
    """

    classifier: Classifier
    rows: Sequence[TrainingRow]
    skills: FloatArray
    fold: npt.NDArray[np.int32]
    placed: Placed
    card: dict[str, Any]


def train(
    data: Path,
    *,
    outcomes: Path | None = None,
    without: Sequence[str] = (),
    without_models: Sequence[str] = (),
    progress: Progress = lambda step: None,
    folds: int = FOLDS,
) -> Trained:
    """Train on the evaluation data and on our own outcomes.

    Args:
        data: Folder of the evaluation data.
        outcomes: What our local models got right; default: the file that ships in `smallfirst.evals`.
        without: Subsets to leave out, with everything that is a near-duplicate of theirs: to see how well the rest
            carries over.
        without_models: Models whose published outcomes are left out.
        progress: Called with each step, in words.
        folds: For the out-of-fold figures and the calibration.

    Raises:
        SmallfirstError: The extra `train` is not installed.
        DataError: A data file is missing or broken.
    """
    need_extra("duckdb", "sklearn")
    progress("reading rows")
    rows: Sequence[TrainingRow] = load_rows(data, outcomes=outcomes, without_models=without_models)
    local = sorted({head for row in rows for head in row.outcomes}.difference(PUBLISHED_HEADS))
    heads = (*PUBLISHED_HEADS, *local)
    prepared = prepare(rows, heads, folds=folds, seed=SEED, without=without, progress=progress)
    rows, targets = prepared.rows, prepared.targets
    crossed = _out_of_fold(prepared, progress)
    progress("placing models")
    placed = place_models(rows, crossed.skills, prepared.fold)
    progress("fitting on all rows")
    everything = fitting.fit(prepared.matrix, targets, np.arange(len(rows)), prepared.axes, seed=SEED)
    classifier = with_models(fitting.calibrated(everything, _mix(heads), crossed.calibration), placed)
    success = sigmoid(crossed.skills[:, : len(heads)])
    tasks = crossed.skills[:, len(heads) + 1 : len(heads) + 1 + len(targets.tasks)]
    task_right = tasks.argmax(axis=1) == targets.task
    card = _card(rows, heads, success, targets, task_right, local) | {"models": len(placed.names)}
    return Trained(classifier, rows, crossed.skills, prepared.fold, placed, card)


@dataclass(frozen=True, slots=True, eq=False)
class _Crossed:
    """Skills out of fold, shape (rows, S), and the calibration for a classifier fitted on all rows."""

    skills: FloatArray
    calibration: FloatArray


def _out_of_fold(prepared: Prepared, progress: Progress) -> _Crossed:
    """Fit once for each fold without it. Each fold's calibration is that of the other folds, so that it is out of
    fold, too."""
    matrix, targets, fold = prepared.matrix, prepared.targets, prepared.fold
    mix = _mix(targets.heads)
    mixed = np.zeros((len(fold), len(targets.heads)), np.float32)
    fitted = []
    for number in range(int(fold.max()) + 1):
        progress(f"fold {number + 1} of {fold.max() + 1}")
        held_out = np.flatnonzero(fold == number)
        model = fitting.fit(matrix, targets, np.flatnonzero(fold != number), prepared.axes, seed=SEED)
        made = fitting.estimates(model, matrix, held_out)
        mixed[held_out] = (made.parts * mix).sum(axis=2)
        fitted.append((held_out, model, made))

    # Assumed outcomes teach, but what a probability means is told by measured ones.
    sure = targets.weight == 1

    def calibration(rows: npt.NDArray[np.bool_]) -> FloatArray:
        rows = rows & sure
        of = [_platt(mixed[rows, h], targets.success[rows, h]) for h in range(mixed.shape[1])]
        return np.stack(of)

    skills = np.zeros((len(fold), len(targets.heads) + 1 + len(targets.tasks) + SKILL_AXES), np.float32)
    for number, (held_out, model, made) in enumerate(fitted):
        skills[held_out] = fitting.skills_of(
            fitting.calibrated(model, mix, calibration(fold != number)), made
        )
    return _Crossed(skills, calibration(np.ones(len(fold), bool)))


def _mix(heads: Sequence[str]) -> FloatArray:
    return np.array([PUBLISHED_MIX if head in PUBLISHED_HEADS else LOCAL_MIX for head in heads], np.float32)


def write(trained: Trained, out: Path) -> None:
    """Write the artefact and, beside it, its card and the out-of-fold predictions that `eval routing` reports."""
    out.parent.mkdir(parents=True, exist_ok=True)
    trained.classifier.save(out)
    card = out.with_name("card.json") if out.stem == "router" else out.with_suffix(".json")
    card.write_text(json.dumps(trained.card, indent=2) + "\n", encoding="utf-8")
    keys = np.array([row_key(row.body) for row in trained.rows], np.uint64)
    with out.with_name(f"{out.stem}_folds.npz").open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            keys=keys,
            skills=trained.skills.astype(np.float16),
            fold=trained.fold.astype(np.uint8),
            models=np.array(trained.placed.names, np.str_),
            abilities=np.stack([figures_of(abilities) for abilities in trained.placed.by_fold]),
        )


def _platt(mixed: FloatArray, actual: FloatArray) -> FloatArray:
    """Return slope and offset on the log-odds that fit the outcomes best."""
    from sklearn.linear_model import LogisticRegression

    at = np.flatnonzero(~np.isnan(actual))
    if not len(at):
        return np.array([1.0, 0.0], np.float32)
    odds = _odds(mixed[at])
    x = np.concatenate((odds, odds))[:, None]
    y = np.repeat([1, 0], len(at))
    w = np.concatenate((actual[at], 1 - actual[at]))
    fitted = LogisticRegression(C=1e4).fit(x[w > 0], y[w > 0], sample_weight=w[w > 0])
    return np.array([fitted.coef_[0, 0], fitted.intercept_[0]], np.float32)


def _odds(p: FloatArray) -> FloatArray:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    odds: FloatArray = np.log(p / (1 - p))
    return odds


def _card(
    rows: Sequence[TrainingRow],
    heads: Sequence[str],
    success: FloatArray,
    targets: Targets,
    task_right: npt.NDArray[np.bool_],
    local: Sequence[str],
) -> dict[str, Any]:
    files: dict[str, int] = {}
    for row in rows:
        files[row.file] = files.get(row.file, 0) + 1
    reliability = {}
    accuracy = {}
    for at, head in enumerate(heads):
        measured = ~np.isnan(targets.success[:, at]) & (targets.weight == 1)
        if not measured.any():
            continue
        actual = targets.success[measured, at]
        accuracy[head] = float(actual.mean())
        reliability[head] = head_figures(success[measured, at], actual)
    return {
        "format": 1,
        "features": FEATURES_HASH,
        "trained": date.today().isoformat(),
        "scikit-learn": version("scikit-learn"),
        "seed": SEED,
        "rows": len(rows),
        "files": files,
        "licences": LICENCES,
        "heads": {
            WEAK: "Mixtral-8x7B, published outcomes",
            STRONG: "GPT-4-1106, published outcomes",
            **dict.fromkeys(TIERS, "a third of the models of every published source, by strength"),
            **dict.fromkeys(local, "measured by us, see evals/data/local_outcomes.jsonl"),
        },
        "assumed": "For local heads, chat_open and agent rows count as failed and chat_ifeval rows as 15 % right, "
        "at half weight; figures below are over measured rows alone.",
        "local_heads": sorted(local, key=accuracy.__getitem__),
        "out_of_fold": {"task_accuracy": round(float(task_right.mean()), 4), "heads": reliability},
    }


def head_figures(p: FloatArray, actual: FloatArray) -> dict[str, Any]:
    """Return how good a head's probabilities are, and what would stay with it at some thresholds."""
    from sklearn.metrics import roc_auc_score

    edges = np.minimum((p * 10).astype(int), 9)
    bins = [(edges == b) for b in range(10)]
    error = sum(abs(float(p[b].mean() - actual[b].mean())) * b.mean() for b in bins if b.any())
    kept = {}
    for threshold in (0.5, 0.6, 0.7, 0.8):
        inside = p >= threshold
        kept[str(threshold)] = {
            "share": round(float(inside.mean()), 4),
            "accuracy": round(float(actual[inside].mean()), 4) if inside.any() else None,
        }
    return {
        "n": len(p),
        "accuracy": round(float(actual.mean()), 4),
        "auc": round(float(roc_auc_score(actual >= 0.5, p)), 4),
        "expected_calibration_error": round(float(error), 4),
        "kept_at": kept,
    }
