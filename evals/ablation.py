"""What each part of the router's estimate is worth: out of fold on the published pair's outcomes, part by part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from smallfirst.router.scoring.classifier import GAIN_WEIGHT, log_length
from smallfirst.router.training import fit as fitting
from smallfirst.router.training.files import need_extra
from smallfirst.router.training.keys import text_of
from smallfirst.router.training.prepare import prepare
from smallfirst.router.training.rows import load_rows
from smallfirst.router.training.tiers import PUBLISHED_HEADS
from smallfirst.router.training.train import PUBLISHED_MIX

from .frontier import nearest
from .metrics import FloatArray, apgr_interval, curve, draws

PAIR_FILE = "router_outcomes_dev.parquet"


def ablation_report(
    data: Path,
    *,
    folds: int = 10,
    seed: int = 0,
    samples: int = 300,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Rank the prompts of the published pair by each part of the estimate, and by mixes of them.

    Args:
        data: Folder of the evaluation data; all of it is trained on, less the fold in question.
        folds: Of near-duplicate groups.
        seed: Of the folds and the bootstrap.
        samples: Of the bootstrap.
        progress: Called with each step.

    Returns:
        `{n, folds, variants: {name: {subset: {apgr, apgr_95}}}}`.
    """
    need_extra("duckdb", "sklearn")
    progress("reading rows")
    rows = load_rows(data)
    prepared = prepare(rows, PUBLISHED_HEADS, folds=folds, seed=seed, progress=progress)
    matrix, targets, fold = prepared.matrix, prepared.targets, prepared.fold
    pair = np.array([at for at, row in enumerate(rows) if row.file == PAIR_FILE])
    gaps = np.zeros((len(rows), 5))
    for number in range(folds):
        progress(f"fold {number + 1} of {folds}")
        test = pair[fold[pair] == number]
        model = fitting.fit(matrix, targets, np.flatnonzero(fold != number), prepared.axes, seed=seed)
        made = fitting.estimates(model, matrix, test)
        gaps[test] = np.column_stack((made.parts[:, 1] - made.parts[:, 0], made.gain, made.hardness))
    success = targets.success[pair, :2].astype(np.float64)
    subset = np.array([rows[at].subset for at in pair])
    near = nearest(matrix.focus[pair], success, [text_of(rows[at].body) for at in pair], seed=seed)
    scores = _variants(gaps[pair], log_length(matrix.structure[pair]).astype(np.float64))
    if near is not None:
        scores["nearest neighbours"] = near.success[:, 1] - near.success[:, 0]
    return {
        "n": len(pair),
        "folds": folds,
        "variants": {name: _figures(score, success, subset, samples, seed) for name, score in scores.items()},
    }


def _variants(gaps: FloatArray, length: FloatArray) -> dict[str, FloatArray]:
    linear, topics, trees, gain, hardness = gaps.T
    mixed = gaps[:, :3] @ PUBLISHED_MIX
    kept = (1 - GAIN_WEIGHT) * mixed + GAIN_WEIGHT * gain
    return {
        "length": length,
        "difficulty, learned over all sources": hardness,
        "linear: embedding, structure, TF-IDF": linear,
        "topics": topics,
        "trees, two classifiers": trees,
        "trees on the gain": gain,
        "linear + trees": linear + trees,
        "linear + topics": linear + topics,
        "linear + topics + trees": mixed,
        "the same + trees on the gain (kept)": kept,
        "the same + difficulty": kept + 0.02 * hardness,
    }


def _figures(score: FloatArray, success: FloatArray, subset: Any, samples: int, seed: int) -> dict[str, Any]:
    found = {}
    for name in ("all", *np.unique(subset).tolist()):
        at = np.flatnonzero((subset == name) | (name == "all"))
        line = curve(score[at], success[at, 0], success[at, 1])
        drawn = draws(len(at), samples=samples, seed=seed)
        found[name] = {
            "apgr": line.apgr if line else None,
            "apgr_95": apgr_interval(score[at], success[at, 0], success[at, 1], drawn),
        }
    return found
