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

from ..scoring.classifier import Classifier
from ..scoring.embedding import FloatArray, TokenEmbedding
from ..scoring.features import FEATURES_HASH, FeatureReader
from ..scoring.scorer import STRONG, WEAK
from . import fit as fitting
from .files import need_extra
from .folds import folds_of, groups_of
from .keys import row_key, text_of
from .rows import TrainingRow, load_rows

FOLDS, SEED = 5, 0
# How much each estimate counts (linear, topics, trees): published pair, measured local models. By validation.
PAIR_MIX, LOCAL_MIX = (0.3, 0.4, 0.3), (0.2, 0.3, 0.5)
LICENCES = (
    "Trained on public data whose licences allow it; rows of AlpacaEval, CMMLU and C-Eval are left out "
    "(non-commercial). The arrays hold statistics of the rows, no text of theirs."
)
Progress = fitting.Progress


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A classifier, and what it would have said of each training row had that row not been there.

    Attributes:
        classifier: Fitted on all rows, calibrated.
        rows: The training rows.
        heads: Names of the heads.
        success: Calibrated P(success), out of fold, shape (rows, heads).
        actual: Success in [0, 1], NaN where unknown, same shape.
        card: What goes to `card.json`.
    """

    classifier: Classifier
    rows: Sequence[TrainingRow]
    heads: tuple[str, ...]
    success: FloatArray
    actual: FloatArray
    card: dict[str, Any]


def train(
    data: Path, *, outcomes: Path | None = None, progress: Progress = lambda step: None, folds: int = FOLDS
) -> Trained:
    """Train on the evaluation data and on our own outcomes.

    Args:
        data: Folder of the evaluation data.
        outcomes: What our local models got right; default: the file that ships in `smallfirst.evals`.
        progress: Called with each step, in words.
        folds: For the out-of-fold figures and the calibration.

    Raises:
        SmallfirstError: The extra `train` is not installed.
        DataError: A data file is missing or broken.
    """
    need_extra("duckdb", "sklearn")
    progress("reading rows")
    rows = load_rows(data, outcomes=outcomes)
    embedding = TokenEmbedding.load()
    vocabulary = embedding.tokenizer.get_vocab_size()
    local = sorted({head for row in rows for head in row.outcomes} - {WEAK, STRONG})
    heads = (WEAK, STRONG, *local)
    progress(f"grouping near-duplicates of {len(rows)} rows")
    groups = groups_of([text_of(row.body) for row in rows])
    strata = [f"{row.file}/{row.topic.partition('/')[0]}" for row in rows]
    fold = folds_of(strata, groups, folds, SEED)
    progress("reading features")
    matrix = fitting.read_matrix(rows, FeatureReader(embedding), vocabulary)
    targets = fitting.targets_of(rows, heads)
    estimates = np.zeros((len(rows), len(heads), 3), np.float32)
    task_right = np.zeros(len(rows), bool)
    for number in range(folds):
        progress(f"fold {number + 1} of {folds}")
        held_out = np.flatnonzero(fold == number)
        model = fitting.fit(matrix, targets, np.flatnonzero(fold != number), vocabulary, seed=SEED)
        estimates[held_out] = fitting.components(model, matrix, held_out)
        task_right[held_out] = fitting.tasks(model, matrix, held_out) == targets.task[held_out]
    mix = np.array([PAIR_MIX if head in (WEAK, STRONG) else LOCAL_MIX for head in heads], np.float32)
    mixed = (estimates * mix).sum(axis=2)
    calibration = np.stack(
        [_platt(mixed[:, h], targets.success[:, h], targets.weight) for h in range(len(heads))]
    )
    success = np.stack(
        [_crossed_platt(mixed[:, h], targets.success[:, h], targets.weight, fold) for h in range(len(heads))],
        axis=1,
    )
    progress("fitting on all rows")
    everything = fitting.fit(matrix, targets, np.arange(len(rows)), vocabulary, seed=SEED)
    classifier = fitting.calibrated(everything, mix, calibration)
    card = _card(rows, heads, success, targets, task_right, local)
    return Trained(classifier, rows, heads, success, targets.success, card)


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
            heads=np.array(trained.heads),
            keys=keys,
            success=trained.success.astype(np.float16),
        )


def _platt(mixed: FloatArray, actual: FloatArray, weight: FloatArray) -> FloatArray:
    """Return slope and offset on the log-odds that fit the outcomes best."""
    from sklearn.linear_model import LogisticRegression

    at = np.flatnonzero(~np.isnan(actual))
    odds = _odds(mixed[at])
    x = np.concatenate((odds, odds))[:, None]
    y = np.repeat([1, 0], len(at))
    w = np.concatenate((actual[at] * weight[at], (1 - actual[at]) * weight[at]))
    fitted = LogisticRegression(C=1e4).fit(x[w > 0], y[w > 0], sample_weight=w[w > 0])
    return np.array([fitted.coef_[0, 0], fitted.intercept_[0]], np.float32)


def _crossed_platt(
    mixed: FloatArray, actual: FloatArray, weight: FloatArray, fold: npt.NDArray[np.int32]
) -> FloatArray:
    """Calibrate each fold by the others, so that the reported calibration is out of fold, too."""
    calibrated = np.zeros(len(mixed), np.float32)
    for number in np.unique(fold):
        inside = fold == number
        slope, offset = _platt(mixed[~inside], actual[~inside], weight[~inside])
        calibrated[inside] = 1 / (1 + np.exp(-(slope * _odds(mixed[inside]) + offset)))
    return calibrated


def _odds(p: FloatArray) -> FloatArray:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    odds: FloatArray = np.log(p / (1 - p))
    return odds


def _card(
    rows: Sequence[TrainingRow],
    heads: Sequence[str],
    success: FloatArray,
    targets: fitting.Targets,
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
