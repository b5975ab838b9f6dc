"""Calibrating a model: its scored answers become its ability, and what a risk budget may allow it.

Either the model is run on rows with a checkable answer, or its outcomes are read from an outcome file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from smallfirst.policies.risk import CalibrationRows, control
from smallfirst.router.risk import Calibration
from smallfirst.router.scoring import Scorer
from smallfirst.router.scoring.abilities import Ability
from smallfirst.router.training.files import DataError
from smallfirst.router.training.keys import row_key
from smallfirst.router.wire import ChatRequest

from .metrics import expected_calibration_error
from .out_of_fold import out_of_fold_skills
from .outcome_files import read_outcomes
from .outcomes import Row
from .suites import drawn, tasks_named
from .suites.base import Example

# As many as a model needs to be placed; a risk budget needs more to be shown to hold.
LEAST_ROWS = 30
BUDGETS = (0.01, 0.02, 0.05, 0.1)


def calibration_rows(names: Sequence[str], data: Path, *, limit: int | None, seed: int = 0) -> list[Row]:
    """Draw rows of suites, see `suites.tasks_named`; those whose answers cannot be checked are left out.

    Raises:
        DataError: There is no such suite, its data is missing, or too few rows are left.
    """
    rows = []
    for task in tasks_named(names):
        checkable = [example for example in task.examples(data) if example.check is not None]
        rows += [_row(example, task.max_tokens) for example in drawn(checkable, limit, seed)]
    if len(rows) < LEAST_ROWS:
        raise DataError(f"{len(rows)} rows are too few to calibrate on; give at least {LEAST_ROWS}.")
    return rows


def _row(example: Example, max_tokens: int) -> Row:
    assert example.check is not None
    return Row(example.task, example.id, example.subset, example.body, example.check, max_tokens)


def calibration_of_run(
    model: str,
    rows: Sequence[Row],
    outcomes: Sequence[Mapping[str, Any]],
    scorer: Scorer,
    *,
    baseline: tuple[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Calibration:
    """Put together what a model, and the baseline if it was run, got right.

    Args:
        model: Its name.
        rows: What it was run on.
        outcomes: See `outcomes.collect`; rows without one are left out.
        scorer: Scores the requests.
        baseline: Its name and outcomes.
    """
    found = {(o["file"], o["id"]): o for o in outcomes}
    # What the baseline refused is not known; that it was wrong would make the local model look good.
    others = {(o["file"], o["id"]): o for o in baseline[1] if "error" not in o} if baseline else {}
    done = [
        row for row in rows if (row.file, row.id) in found and (not baseline or (row.file, row.id) in others)
    ]
    return _calibration(
        model,
        baseline[0] if baseline else None,
        [ChatRequest.parse({**row.body, "model": model}) for row in done],
        [found[row.file, row.id] for row in done],
        [float(others[row.file, row.id]["ok"]) if baseline else 1.0 for row in done],
        scorer,
    )


def calibration_of_file(
    path: Path, model: str, scorer: Scorer, *, baseline: str | None = None
) -> Calibration:
    """Read a model's outcomes, and the baseline's, from an outcome file; see `read_outcomes`.

    Raises:
        DataError: The file is missing or broken, or has no scores of them.
    """
    outcomes = read_outcomes(path, weak=model, strong=baseline or model)
    if len(outcomes) < LEAST_ROWS:
        raise DataError(
            f"{path}: {len(outcomes)} rows are too few to calibrate on; give at least {LEAST_ROWS}."
        )
    told = [
        {"ok": o.weak, "confidence": None if math.isnan(o.confidence) else o.confidence} for o in outcomes
    ]
    right = [o.strong if baseline else 1.0 for o in outcomes]
    return _calibration(model, baseline, [o.request for o in outcomes], told, right, scorer)


def _calibration(
    model: str,
    baseline: str | None,
    requests: Sequence[ChatRequest],
    outcomes: Sequence[Mapping[str, Any]],
    baseline_right: Sequence[float],
    scorer: Scorer,
) -> Calibration:
    features = [scorer.features(request) for request in requests]
    predictions = [scorer.classifier.predict(read) for read in features]
    known = [scorer.is_known(read, made) for read, made in zip(features, predictions, strict=True)]
    # Of what it was trained on, the classifier knows too much: requests to come will be scored worse.
    unseen = out_of_fold_skills()
    skills = [
        unseen.get(row_key(request.body), made.skills)
        for request, made in zip(requests, predictions, strict=True)
    ]

    def column(name: str, otherwise: float) -> list[float]:
        return [otherwise if o.get(name) is None else float(o[name]) for o in outcomes]

    return Calibration(
        model=model,
        baseline=baseline,
        artefact=scorer.version,
        created=date.today().isoformat(),
        skills=np.stack(skills).astype(np.float32),
        known=np.array(known, bool),
        success=np.array(column("ok", 0.0), np.float32),
        confidence=np.array(column("confidence", np.nan), np.float32),
        baseline_success=np.array(baseline_right, np.float32),
        input_tokens=np.array([read.input_tokens for read in features], np.float32),
        output_tokens=np.array(column("output_tokens", 100.0), np.float32),
    )


def calibration_report(
    of: Calibration, scorer: Scorer, baseline: Ability, *, confidence: float
) -> dict[str, Any]:
    """Return what a calibration says: `model, baseline, n, accuracy, baseline_accuracy, expected_calibration_error,
    confidence_told, budgets: [{budget, met, reason, loss, bound, local_share, escalated_share, max_gap, cascade_gap,
    min_confidence}]`.

    The calibration error is that of abilities placed without the rows that they are held against.
    """
    success = of.success_out_of_fold(of.prior(scorer.prior))
    calls = np.zeros(len(of), np.float32), np.ones(len(of), np.float32)
    rows = of.rows(success, baseline, usd=calls)
    return {
        "model": of.model,
        "baseline": of.baseline,
        "n": len(of),
        "accuracy": float(of.success.mean()),
        "baseline_accuracy": float(of.baseline_success.mean()) if of.baseline else None,
        "known_share": float(of.known.mean()),
        "expected_calibration_error": expected_calibration_error(
            success.astype(float), of.success.astype(float)
        ),
        "confidence_told": float((~np.isnan(of.confidence)).mean()),
        "budgets": [_budget(rows, budget, confidence) for budget in BUDGETS],
    }


def _budget(rows: CalibrationRows, budget: float, confidence: float) -> dict[str, Any]:
    found = control(rows, budget, confidence)
    thresholds = found.thresholds
    return {
        "budget": budget,
        "met": thresholds is not None,
        "reason": found.reason,
        "loss": found.loss,
        "bound": found.bound,
        "local_share": found.local_share,
        "escalated_share": found.escalated_share,
        "max_gap": thresholds and thresholds.max_gap,
        "cascade_gap": thresholds and thresholds.cascade_gap,
        "min_confidence": thresholds and thresholds.min_confidence,
    }
