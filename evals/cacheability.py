"""Whether answers keep: labelled texts against the judgement of the semantic cache.

What counts is what is served: the share of static texts that may be (`kept`), and of each other class the share that
may not (`refused`). The four classes are reported as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.semantic.volatility import CLASSES, Volatility
from smallfirst.router.training.files import DataError
from smallfirst.router.training.volatility_rows import Labelled, cacheability_rows

from .cache_ways import interval_95
from .metrics import reliability

SERVED = CLASSES[0]


def cacheability_report(
    path: Path, volatility: Volatility | None = None, *, limit: int | None = None
) -> dict[str, Any]:
    """Judge the texts of a labelled file.

    Of rows that the artefact was trained on the figures are too good: those out of fold are in its card, which the
    report repeats as `trained`.

    Args:
        path: Parquet or JSON lines; see `cacheability_rows`.
        volatility: Default: the one that ships.
        limit: Only the first so many rows.

    Returns:
        JSON-able: `n`, `accuracy`, `recall` and `confusion` of the classes, `threshold`, `kept` and `refused` with
        95 % intervals, and a `page`.

    Raises:
        DataError: The file cannot be read, or has no rows.
    """
    volatility = volatility or Volatility.load(TokenEmbedding.load())
    rows = list(islice(cacheability_rows(path), limit))
    if not rows:
        raise DataError(f"{path}: there are no rows.")
    return {"data": str(path)} | report_of(rows, volatility)


def report_of(rows: Iterable[Labelled], volatility: Volatility) -> dict[str, Any]:
    """Judge labelled texts; see `cacheability_report`."""
    confusion = {label: dict.fromkeys(CLASSES, 0) for label in CLASSES}
    kept, shares = dict.fromkeys(CLASSES, 0), []
    for row in rows:
        found = volatility.classes(row.text)
        confusion[row.label][max(found, key=found.__getitem__)] += 1
        kept[row.label] += volatility.keeps(row.text)
        shares.append((found[SERVED], row.label == SERVED))
    count = {label: sum(of.values()) for label, of in confusion.items()}
    served = {SERVED: kept[SERVED]} | {label: count[label] - kept[label] for label in CLASSES[1:]}
    others = sum(count[label] for label in CLASSES[1:])
    report: dict[str, Any] = {
        "n": len(shares),
        "accuracy": _share(sum(confusion[label][label] for label in CLASSES), len(shares)),
        "recall": {label: _share(confusion[label][label], count[label]) for label in CLASSES},
        "confusion": confusion,
        "threshold": volatility.threshold,
        "kept": _counted(served[SERVED], count[SERVED]),
        "refused": _counted(sum(served[label] for label in CLASSES[1:]), others)
        | {"by_class": {label: _counted(served[label], count[label]) for label in CLASSES[1:]}},
        "trained": volatility.card.get("out_of_fold", {}),
    }
    return report | {"page": _page(report, shares)}


def _page(report: Mapping[str, Any], shares: list[tuple[float, bool]]) -> dict[str, Any]:
    chances, actual = zip(*shares, strict=True)
    bins = reliability(chances, np.array(actual, float))
    rights = {SERVED: report["kept"]} | report["refused"]["by_class"]
    return {
        "title": "Whether answers keep",
        "reliability": [{"name": f"P({SERVED})", "bins": [list(bin_) for bin_ in bins]}],
        "tables": [
            {
                "title": f"At the threshold {report['threshold']:.3f}: static texts kept, others refused",
                "columns": ["class", "rows", "right", "share"],
                "rows": [[label, of["n"], of["right"], of["share"]] for label, of in rights.items()],
            },
            {
                "title": "Likeliest class (columns) of each class (rows)",
                "columns": ["class", *CLASSES],
                "rows": [[label, *of.values()] for label, of in report["confusion"].items()],
            },
        ],
    }


def _counted(right: int, count: int) -> dict[str, Any]:
    interval = interval_95(right, count)
    return {
        "n": count,
        "right": right,
        "share": _share(right, count),
        "share_95": None if interval is None else list(interval),
    }


def _share(right: int, count: int) -> float | None:
    return right / count if count else None
