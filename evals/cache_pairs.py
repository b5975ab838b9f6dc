"""Pair files: of two requests, is the second one answered by what was kept for the first, and should it be?

Each row goes through the gateway's own look-up, with a store that holds the first request's answer and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallfirst.router.cache.memory import MemoryCache
from smallfirst.router.cache.recall import Keeps, Recall, Recalled, SameAnswer
from smallfirst.router.cache.rules import offers_tools, picks_label
from smallfirst.router.settings import CacheSettings
from smallfirst.router.training.files import DataError, decoded, read_rows
from smallfirst.router.wire import ChatRequest

from .cache_page import pairs_page
from .cache_ways import (
    COLUMNS,
    EXACT_ONLY,
    FIXED,
    TARGET,
    TRIED_COSINES,
    TRIED_ERRORS,
    AtLeast,
    Cosine,
    Parts,
    Remembering,
    RememberingKeeps,
    answer,
    cosine_name,
    interval_95,
    last_text,
    parsed,
    provenance,
    threshold_of,
)

ANSWER, TOOL_CALL, LABEL = "answer", "tool_call", "label"
STORE_BYTES = 1 << 24

Verdicts = Sequence[Recalled]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two requests, and whether the answer to the first is one to the second.

    Attributes:
        kind: How the second was made from the first.
        scope: What `equivalent` is about: `answer`, `tool_call` or `label`.
        equivalent: As the file has it.
        a: The first request.
        b: The second one.
        kept: The answer to the first.
    """

    kind: str
    scope: str
    equivalent: bool
    a: ChatRequest
    b: ChatRequest
    kept: dict[str, Any]

    @property
    def same(self) -> bool:
        """Whether the answer may be given: two texts of one label have the same answer only where a label is asked."""
        return self.equivalent and (self.scope != LABEL or picks_label(self.b))

    @property
    def counts_for_recall(self) -> bool:
        """Whether a cache should answer it: the answers are the same, and no calls, which only equal requests get."""
        return self.same and self.scope == ANSWER


def read_pairs(path: Path, *, limit: int | None = None) -> list[Pair]:
    """Read a pair file: Parquet or JSON lines.

    Args:
        path: With `request, request_b, equivalent, kind`, and optionally `checker` (`{"scope": …}`; default `answer`),
            `expected` and `meta`.
        limit: At most so many rows.

    Raises:
        DataError: A column is missing or broken; the message names it and the row.
    """
    pairs: list[Pair] = []
    for number, row in enumerate(read_rows(path), 1):
        if limit is not None and len(pairs) == limit:
            break
        where = f"{path}: row {number}" + (f" ({row['id']})" if row.get("id") else "")
        missing = sorted(name for name in COLUMNS["pairs"] if row.get(name) in (None, ""))
        if missing:
            raise DataError(f"{where}: column '{missing[0]}' is missing or empty.")
        if not isinstance(row["equivalent"], bool):
            raise DataError(f"{where}: column 'equivalent': expected true or false.")
        pairs.append(_pair(row, where))
    if not pairs:
        raise DataError(f"{path}: there are no rows.")
    return pairs


def _pair(row: Mapping[str, Any], where: str) -> Pair:
    checker = decoded(row, "checker", where) or {}
    meta = decoded(row, "meta", where)
    scope = checker.get("scope", ANSWER)
    if scope not in (ANSWER, TOOL_CALL, LABEL):
        raise DataError(f"{where}: column 'checker': unknown scope '{scope}'.")
    a, b = parsed(row, "request", where), parsed(row, "request_b", where)
    # Where no tools are offered, no model can call any, whatever the scope: it answers in words, which is harder here.
    calls = scope == TOOL_CALL and offers_tools(a)
    gold = meta.get("gold_a") if isinstance(meta, dict) else None
    return Pair(
        str(row["kind"]), scope, row["equivalent"], a, b, answer(a, gold if calls else None, "a", calls=calls)
    )


async def looked_up(
    pairs: Sequence[Pair], judge: SameAnswer, volatility: Keeps, max_error: float
) -> Verdicts:
    """Return what becomes of each second request, after the first one's answer was kept in an empty store."""
    least = threshold_of(judge, max_error)
    settings = CacheSettings(max_cache_error=0.0 if least is None else max_error)
    found = []
    for pair in pairs:
        recall = Recall(
            MemoryCache(STORE_BYTES), settings, equivalence=AtLeast(judge, least), volatility=volatility
        )
        kept = recall.keep(
            recall.read(pair.a, target=TARGET), pair.kept, model=TARGET, tier="cloud", cost_usd=None
        )
        if kept is not None:
            await kept[1]
        found.append(await recall.look_up(recall.read(pair.b, target=TARGET)))
    return found


def figures(pairs: Sequence[Pair], accepted: Sequence[bool]) -> dict[str, Any]:
    """Return how good a decision is: `n, accepted, wrong, precision, precision_95, recall, recall_95, by_kind`.

    Precision is over all accepted rows, recall over the rows with the same answer in words; the intervals are exact
    (Clopper-Pearson). Both are None of nothing. By kind: `n, scope, equivalent` (as the file has it), `accepted, wrong,
    recall`.

    Args:
        pairs: The rows.
        accepted: Whether each one's second request got the first one's answer.
    """
    took = [pair for pair, taken in zip(pairs, accepted, strict=True) if taken]
    right = sum(pair.same for pair in took)
    wanted = sum(pair.counts_for_recall for pair in pairs)
    reached = sum(pair.counts_for_recall for pair in took)
    by_kind: dict[str, dict[str, Any]] = {}
    for kind in sorted({pair.kind for pair in pairs}):
        rows = [(pair, taken) for pair, taken in zip(pairs, accepted, strict=True) if pair.kind == kind]
        same = [taken for pair, taken in rows if pair.same]
        by_kind[kind] = {
            "n": len(rows),
            "equivalent": sum(pair.equivalent for pair, _ in rows),
            "accepted": sum(taken for _, taken in rows),
            "wrong": sum(taken for pair, taken in rows if not pair.same),
            "recall": sum(same) / len(same) if same else None,
            "scope": rows[0][0].scope,
        }
    return {
        "n": len(pairs),
        "accepted": len(took),
        "wrong": len(took) - right,
        "precision": right / len(took) if took else None,
        "precision_95": interval_95(right, len(took)),
        "recall": reached / wanted if wanted else None,
        "recall_95": interval_95(reached, wanted),
        "by_kind": by_kind,
    }


async def pairs_report(
    path: Path,
    parts: Parts,
    *,
    max_error: float,
    limit: int | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Evaluate the cache on a pair file.

    Args:
        path: See `read_pairs`.
        parts: What decides.
        max_error: Share of semantic hits that may be wrong.
        limit: At most so many rows.
        progress: Told of each step.

    Returns:
        The figures of the whole way, as `figures` has them, by kind also `exact, semantic, bypassed`; `max_error,
        threshold`, and `provenance`; under `text_only` what the judge alone says of the last messages' texts;
        `baselines` by name (see `_baselines`); `frontier`, what other bounds would do; `page` for `evals.page`.

    Raises:
        DataError: The file is missing or broken.
    """
    pairs = read_pairs(path, limit=limit)
    progress(f"{len(pairs)} pairs: looked up")
    verdicts = await looked_up(pairs, parts.equivalence, parts.volatility, max_error)
    report = {
        "data": path.name,
        "max_error": max_error,
        "threshold": threshold_of(parts.equivalence, max_error),
        **provenance(parts.equivalence, [(last_text(pair.a), last_text(pair.b)) for pair in pairs]),
        **figures(pairs, [verdict.reply is not None for verdict in verdicts]),
    }
    for state in ("exact", "semantic", "bypass"):
        name = "bypassed" if state == "bypass" else state
        report[name] = sum(verdict.state == state for verdict in verdicts)
        for kind, of in report["by_kind"].items():
            rows = zip(pairs, verdicts, strict=True)
            of[name] = sum(verdict.state == state for pair, verdict in rows if pair.kind == kind)
    progress("the judge alone")
    told = _texts_only(pairs, parts.equivalence)
    report["text_only"] = figures(pairs, _at_least(told, report["threshold"]))
    progress("baselines and other bounds")
    volatility = RememberingKeeps(parts.volatility)
    ours = await _open(pairs, parts.equivalence, volatility)
    cosine = Cosine(parts.embedding, 0.0)
    fixed, bare = await _open(pairs, cosine, volatility), _texts_only(pairs, Remembering(cosine))
    exact = await looked_up(pairs, cosine, volatility, 0.0)
    report["baselines"] = _baselines(pairs, [v.reply is not None for v in exact], fixed, bare)
    report["frontier"] = _frontier(pairs, parts.equivalence, ours, fixed, bare)
    return report | {"page": pairs_page(report)}


async def _open(pairs: Sequence[Pair], judge: SameAnswer, volatility: Keeps) -> list[float | None]:
    """Return how like each second request is to the first (1 if equal), by rules alone; None where these forbid it."""
    verdicts = await looked_up(pairs, AtLeast(Remembering(judge), 0.0), volatility, 0.5)
    return [None if v.reply is None else 1.0 if v.likeness is None else v.likeness for v in verdicts]


def _texts_only(pairs: Iterable[Pair], judge: SameAnswer) -> list[float | None]:
    """Return how like the last messages' texts are, by no rule at all; None where they cannot be read."""
    likeness: list[float | None] = []
    for pair in pairs:
        kept, asked = judge.read(last_text(pair.a)), judge.read(last_text(pair.b))
        likeness.append(None if kept is None or asked is None else judge.probability(asked, kept))
    return likeness


def _at_least(likeness: Sequence[float | None], least: float | None) -> list[bool]:
    return [like is not None and least is not None and like >= least for like in likeness]


def _baselines(
    pairs: Sequence[Pair], equal: Sequence[bool], fixed: Sequence[float | None], bare: Sequence[float | None]
) -> dict[str, dict[str, Any]]:
    """Return the figures of other ways.

    `exact_only`: equal requests. `cosine_…`: a fixed threshold in the judge's place, with the same rules and guards.
    `cosine_…_no_rules`: a fixed threshold on the last messages alone, as gateways commonly do.
    """
    found = {EXACT_ONLY: figures(pairs, equal)}
    for least in FIXED:
        found[cosine_name(least)] = figures(pairs, _at_least(fixed, least))
    for least in FIXED:
        found[cosine_name(least, rules=False)] = figures(pairs, _at_least(bare, least))
    return found


def _frontier(
    pairs: Sequence[Pair],
    judge: SameAnswer,
    ours: Sequence[float | None],
    fixed: Sequence[float | None],
    bare: Sequence[float | None],
) -> dict[str, list[dict[str, Any]]]:
    """Return what other bounds, and other fixed thresholds, would do; bounds that cannot be shown are left out."""
    bounds = [(error, threshold_of(judge, error)) for error in TRIED_ERRORS]
    found: dict[str, list[dict[str, Any]]] = {
        "max_cache_error": [
            {"max_error": error, **_point(pairs, ours, least)} for error, least in bounds if least is not None
        ]
    }
    for name, likeness in (("cosine", fixed), ("cosine_no_rules", bare)):
        found[name] = [_point(pairs, likeness, least) for least in TRIED_COSINES]
    return found


def _point(pairs: Sequence[Pair], likeness: Sequence[float | None], least: float) -> dict[str, Any]:
    of = figures(pairs, _at_least(likeness, least))
    kept = ("accepted", "wrong", "precision", "recall")
    return {"threshold": least, **{name: of[name] for name in kept}}
