"""Outcome files: prompts with what models got right on them, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smallfirst.router.errors import RequestError
from smallfirst.router.training.files import DataError, decoded, read_rows
from smallfirst.router.wire import ChatRequest

from .frontier import Models

# Instead of names of models: every one that the file has.
ALL = "all"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt with the success of two models.

    Attributes:
        id: Its id in the file.
        subset: What kind of prompt it is.
        request: The chat request.
        weak: The weak model's success, in [0, 1].
        strong: The strong model's.
        scores: Success of every model that the file names; empty where it has only the two.
        costs: US dollars by model, where the file has them; the two are `weak` and `strong` where it names none.
        confidence: How sure the weak model was of its answer, in [0, 1]; NaN where the file does not tell.
    """

    id: str
    subset: str
    request: ChatRequest
    weak: float
    strong: float
    scores: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    confidence: float = math.nan


def read_outcomes(path: Path, *, weak: str | None = None, strong: str | None = None) -> list[Outcome]:
    """Read an outcome file: Parquet or JSON lines.

    Args:
        path: With `id, subset, request` and either `weak_correct, strong_correct` or `scores` (JSON by model name).
            There may be `costs` (JSON, US dollars by model name, or of `weak` and `strong`) and how sure the models
            were of their answers: `confidences` (JSON by model name) or `weak_confidence`.
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
            outcomes.append(
                Outcome(
                    str(row["id"]),
                    str(row["subset"]),
                    request,
                    *success,
                    scores=_numbers(row, "scores", where, most=1.0),
                    costs=_numbers(row, "costs", where),
                    confidence=_confidence(row, where, weak),
                )
            )
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


def _numbers(row: Mapping[str, Any], column: str, where: str, *, most: float = math.inf) -> dict[str, float]:
    """Return the numbers of a column by name; those that are null or NaN are left out."""
    values = decoded(row, column, where)
    if values is None:
        return {}
    where = f"{where}: column '{column}'"
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a JSON object of numbers by model name.")
    told = {}
    for name, value in values.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if not isinstance(value, (bool, int, float)) or not 0 <= value <= most or math.isinf(value):
            upto = f"from 0 to {most:g}" if most < math.inf else "of at least 0"
            raise DataError(f"{where}: '{name}': expected a number {upto}.")
        told[name] = float(value)
    return told


def _confidence(row: Mapping[str, Any], where: str, weak: str | None) -> float:
    if weak is not None:
        return _numbers(row, "confidences", where, most=1.0).get(weak, math.nan)
    if row.get("weak_confidence") is None:
        return math.nan
    return _share(row, "weak_confidence", where)


def models_of(outcomes: Sequence[Outcome], names: Sequence[str]) -> tuple[list[Outcome], Models]:
    """Return the rows that have scores and costs of all these models, and their outcomes.

    Args:
        outcomes: From `read_outcomes`.
        names: Of the models; `all` means every model of the file; a row that lacks one is left out.

    Raises:
        DataError: There are fewer than two models, or no such rows.
    """
    rows, models = _models([(outcome.scores, outcome.costs) for outcome in outcomes], names)
    return [outcomes[at] for at in rows], models


def pair_of(path: Path, names: Sequence[str]) -> tuple[str, str]:
    """Return the cheapest and the most accurate of some models of a file; `all` means every one.

    Raises:
        DataError: The file is missing or broken, or has no scores and costs of two of them.
    """
    known = []
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path}: row {number}"
        known.append((_numbers(row, "scores", where, most=1.0), _numbers(row, "costs", where)))
    _, models = _models(known, names)
    cheapest, best = int(np.argmin(models.price)), int(np.argmax(models.quality.mean(axis=0)))
    if cheapest == best:
        raise DataError(
            f"{path}: '{models.names[best]}' is the cheapest and the most accurate: nothing to route."
        )
    return models.names[cheapest], models.names[best]


def _models(
    known: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], names: Sequence[str]
) -> tuple[list[int], Models]:
    """Return which rows have scores and costs of all these models, and their outcomes."""
    there = [scores.keys() & costs.keys() for scores, costs in known]
    if tuple(names) == (ALL,):
        names = sorted(set[str]().union(*there))
    names = tuple(dict.fromkeys(names))
    rows = [at for at, has in enumerate(there) if has.issuperset(names)]
    if not rows or len(names) < 2:
        raise DataError(
            f"--models needs two or more models that have scores and costs in the same rows: {', '.join(names)}."
        )
    quality = np.array([[known[at][0][name] for name in names] for at in rows])
    return rows, Models(names, quality, np.array([[known[at][1][name] for name in names] for at in rows]))
