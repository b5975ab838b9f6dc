"""Replay of a router on outcome files: how much of the strong model's advantage it keeps, for how many strong calls.

Rows that the classifier was trained on are never scored by what it learned from them: the artefact carries, for each
of its training rows (by a hash of the text), what classifiers said that had not seen the row or a near-duplicate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smallfirst.router.errors import RequestError
from smallfirst.router.scoring import Scorer
from smallfirst.router.scoring.scorer import packaged_artefact
from smallfirst.router.training.files import DataError, decoded, read_rows
from smallfirst.router.training.keys import row_key
from smallfirst.router.wire import ChatRequest

from .metrics import FloatArray, curve, expected_calibration_error, interval


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt with the success of two models.

    Attributes:
        id: Its id in the file.
        subset: What kind of prompt it is.
        request: The chat request.
        weak: The weak model's success, in [0, 1].
        strong: The strong model's.
    """

    id: str
    subset: str
    request: ChatRequest
    weak: float
    strong: float


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """P(success) of the two models for each row, and which rows are out of fold."""

    weak: FloatArray
    strong: FloatArray
    out_of_fold: FloatArray


def read_outcomes(path: Path, *, weak: str | None = None, strong: str | None = None) -> list[Outcome]:
    """Read an outcome file: Parquet or JSON lines.

    Args:
        path: With `id, subset, request` and either `weak_correct, strong_correct` or `scores` (JSON by model name).
        weak: Which of the `scores` is the weak model; needed where there are scores.
        strong: Likewise.

    Raises:
        DataError: A column is missing or broken; the message names it and the row. A row whose `scores` lack one of
            the two models is left out; it is an error where all do.
    """
    outcomes = []
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path}: row {number}" + (f" ({row['id']})" if row.get("id") else "")
        for column in ("id", "subset", "request"):
            if row.get(column) in (None, ""):
                raise DataError(f"{where}: column '{column}' is missing or empty.")
        body = decoded(row, "request", where)
        if not isinstance(body, dict):
            raise DataError(f"{where}: column 'request': expected a JSON object, a chat completion body.")
        try:
            request = ChatRequest.parse(body)
        except RequestError as exc:
            raise DataError(f"{where}: column 'request': {exc.message}") from exc
        success = _success(row, where, weak, strong)
        if success is not None:
            outcomes.append(Outcome(str(row["id"]), str(row["subset"]), request, *success))
    if not outcomes:
        both = f" with scores of '{weak}' and '{strong}'" if weak and strong else ""
        raise DataError(f"{path}: there are no rows{both}.")
    return outcomes


def _success(
    row: Mapping[str, Any], where: str, weak: str | None, strong: str | None
) -> tuple[float, float] | None:
    """Return both models' success, or None where `scores` has none of one of them: unscored is not wrong."""
    if weak is None and strong is None and "weak_correct" in row:
        return _share(row, "weak_correct", where), _share(row, "strong_correct", where)
    if "scores" not in row:
        raise DataError(f"{where}: expected columns 'weak_correct' and 'strong_correct', or 'scores'.")
    scores = decoded(row, "scores", where)
    if not isinstance(scores, dict):
        raise DataError(f"{where}: column 'scores': expected a JSON object of success by model name.")
    if weak is None or strong is None:
        known = ", ".join(sorted(scores))
        raise DataError(
            f"{where}: column 'scores': say which two with --weak and --strong; there are {known}."
        )
    if any(scores.get(name) is None or scores[name] != scores[name] for name in (weak, strong)):
        return None  # absent, null, or not a number (the only value that differs from itself)
    where = f"{where}: column 'scores'"
    return _share(scores, weak, where), _share(scores, strong, where)


def _share(values: Mapping[str, Any], name: str, where: str) -> float:
    value = values.get(name)
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
        raise DataError(f"{where}: '{name}': expected true, false or a number from 0 to 1.")
    return float(value)


def score_rows(
    outcomes: Sequence[Outcome], scorer: Scorer, *, artefact: Path | None = None, heads: tuple[str, str]
) -> Scored:
    """Return P(success) for each row: out of fold for training rows, the shipped classifier's for the others."""
    stored = _stored_predictions(artefact or packaged_artefact(), heads)
    values = np.zeros((len(outcomes), 3))
    for at, outcome in enumerate(outcomes):
        known = stored.get(row_key(outcome.request.body))
        if known is not None:
            values[at] = (*known, 1.0)
            continue
        success = scorer.classifier.predict(scorer.features(outcome.request)).success
        values[at] = (success[heads[0]], success[heads[1]], 0.0)
    return Scored(values[:, 0], values[:, 1], values[:, 2])


def _stored_predictions(artefact: Path, heads: tuple[str, str]) -> dict[int, tuple[float, float]]:
    path = artefact.with_name(f"{artefact.stem}_folds.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            names, keys, success = file["heads"].tolist(), file["keys"], file["success"]
    except (OSError, ValueError, KeyError) as exc:
        raise DataError(
            f"{path}: the classifier's out-of-fold predictions cannot be read: {exc}. "
            "Without them its training rows are not known; make them with smallfirst train"
        ) from exc
    pair = success[:, [names.index(head) for head in heads]].tolist()
    return {key: (weak, strong) for key, (weak, strong) in zip(keys.tolist(), pair, strict=True)}


def evaluate(
    outcomes: Sequence[Outcome], scored: Scored, *, samples: int = 500, seed: int = 0
) -> dict[str, Any]:
    """Return the figures of `smallfirst eval routing`: overall, and under `by_subset`.

    The router ranks by P(strong) - P(weak). The calibration error is the mean of both models'. Figures are None where
    the strong model is no better than the weak one, as there is no gap to recover.

    Args:
        outcomes: The rows.
        scored: Their scores.
        samples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    subsets = sorted({outcome.subset for outcome in outcomes})
    every = np.arange(len(outcomes))
    names = np.array([outcome.subset for outcome in outcomes])
    figures = _figures(outcomes, scored, every, samples, seed)
    figures["by_subset"] = {
        subset: _figures(outcomes, scored, np.flatnonzero(names == subset), samples, seed)
        for subset in subsets
    }
    return figures


def _figures(
    outcomes: Sequence[Outcome], scored: Scored, rows: Any, samples: int, seed: int
) -> dict[str, Any]:
    weak = np.array([outcomes[at].weak for at in rows])
    strong = np.array([outcomes[at].strong for at in rows])
    score = scored.strong[rows] - scored.weak[rows]
    length = np.array([len(outcomes[at].request.text) for at in rows], np.float64)

    def apgr(by: FloatArray, drawn: Any = slice(None)) -> float | None:
        line = curve(by[drawn], weak[drawn], strong[drawn])
        return line.apgr if line else None

    line = curve(score, weak, strong)
    errors = [
        expected_calibration_error(scored.weak[rows], weak),
        expected_calibration_error(scored.strong[rows], strong),
    ]
    return {
        "n": len(rows),
        "apgr": apgr(score),
        "apgr_95": interval(lambda drawn: apgr(score, drawn), len(rows), samples=samples, seed=seed),
        "cpt50": line.cpt(0.5) if line else None,
        "cpt80": line.cpt(0.8) if line else None,
        "expected_calibration_error": sum(errors) / 2,
        "quality": {"weak": float(weak.mean()), "strong": float(strong.mean())},
        "baselines": {
            "random": 0.5 if line else None,
            "length": apgr(length),
            "oracle": apgr(strong - weak),
        },
    }


def routing_report(
    path: Path, *, weak: str | None = None, strong: str | None = None, artefact: Path | None = None,
    samples: int = 500, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate the router on an outcome file; see `evaluate`. Says which rows' scores are out of fold, and why.

    Raises:
        DataError: The file is missing or broken.
        SmallfirstError: The artefact is.
    """
    outcomes = read_outcomes(path, weak=weak, strong=strong)
    scorer = Scorer.load(artefact)
    heads = ("weak" if weak is None else scorer.ability_for(weak, "cloud"),
             "strong" if strong is None else scorer.ability_for(strong, "cloud"))  # fmt: skip
    if heads[0] == heads[1]:
        # Two models of one head could not be told apart: the published pair then says which prompts are hard.
        heads = ("weak", "strong")
    scored = score_rows(outcomes, scorer, artefact=artefact, heads=heads)
    folded = int(scored.out_of_fold.sum())
    return {
        "data": path.name,
        "weak": weak or "weak_correct",
        "strong": strong or "strong_correct",
        "heads": list(heads),
        "out_of_fold": folded > 0,
        "out_of_fold_rows": folded,
        "held_out_rows": len(outcomes) - folded,
        "artefact": {"version": scorer.version, "trained": scorer.card["trained"]},
        **evaluate(outcomes, scored, samples=samples, seed=seed),
    }
