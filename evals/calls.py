"""How well a local model calls functions: right calls by the rows' checkers, valid ones, and what it was sure of.

Words are no call, so an answer in words is read no further than is needed to know that it is one.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from smallfirst.router.confidence import Confidence
from smallfirst.router.errors import ModelUnavailable, RequestError
from smallfirst.router.models.base import Model
from smallfirst.router.training.files import DataError, decoded, read_rows
from smallfirst.router.wire import ChatRequest, ReplyStream

from .checkers import Answer, Check, checker

# Longer calls are cut off, and counted as `cut`.
MAX_TOKENS = 256
# After so many characters of words an answer is no call any more.
MOST_WORDS = 60
CONCURRENCY = 8
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)

# BFCL's non-live score is the mean of these four; the first is itself the mean over the languages.
SIMPLE = ("simple_python", "simple_java", "simple_javascript")
NON_LIVE = ("multiple", "parallel", "parallel_multiple")
IRRELEVANCE = ("irrelevance", "live_irrelevance")

COLUMNS = ("id", "subset", "request", "expected", "checker")


class _Row(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def subset(self) -> str: ...


AnyRow = TypeVar("AnyRow", bound=_Row)
Asked = TypeVar("Asked")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class CallRow:
    """A request with tools.

    Attributes:
        id: Its id in the file.
        subset: What kind of row it is.
        body: The chat completion body.
        check: Whether an answer is right; None where that cannot be checked.
    """

    id: str
    subset: str
    body: Mapping[str, Any]
    check: Check | None


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What came of a row.

    Attributes:
        subset: The row's.
        ok: Whether the answer is right; None where that cannot be checked. A refused row is wrong.
        calls: How many calls were made.
        valid: How many of them name a tool of the request and have arguments that follow its schema.
        finish_reason: As the model said; None where reading was stopped.
        error: The code with which the row was refused.
        confidence: How sure the model was; None where it made no call.
    """

    subset: str
    ok: bool | None
    calls: int = 0
    valid: int = 0
    finish_reason: str | None = None
    error: str | None = None
    confidence: Confidence | None = None


def call_rows(path: Path) -> list[CallRow]:
    """Read a file of requests with tools: Parquet or JSON lines with the columns of the evaluation data.

    Raises:
        DataError: The file is missing or broken; the message names the row and the column.
    """
    rows = []
    for where, row in placed_rows(path, COLUMNS):
        spec, expected = decoded(row, "checker", where), decoded(row, "expected", where)
        body = decoded(row, "request", where)
        rows.append(
            CallRow(row["id"], row["subset"], body, checker(spec, expected) or _official(spec, expected))
        )
    return rows


def placed_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where a row is, in words, and the row, which has these columns.

    Raises:
        DataError: The file or a row cannot be used.
    """
    for number, row in enumerate(read_rows(path, columns), 1):
        where = f"{path}: row {row.get('id', number)}"
        needed(row, columns, where)
        yield where, row


def needed(row: Mapping[str, Any], columns: Sequence[str], where: str) -> None:
    """Check that a row has these columns, as JSON lines may not.

    Raises:
        DataError: One is missing; the message starts with `where`.
    """
    missing = [column for column in columns if row.get(column) in (None, "")]
    if missing:
        raise DataError(f"{where}: column '{missing[0]}' is missing.")


def chosen(
    rows: Sequence[AnyRow], per_subset: int | None = None, subsets: Sequence[str] = ()
) -> list[AnyRow]:
    """Return rows by subset in a pseudo-random order that is always the same.

    Args:
        rows: Of any kind that has an id and a subset.
        per_subset: How many of each subset at most, the first ones.
        subsets: Only these; default: all.

    Raises:
        DataError: A subset is named that there is not.
    """
    by_subset: dict[str, list[AnyRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.md5(row.id.encode(), usedforsecurity=False).digest()):
        by_subset[row.subset].append(row)
    for name in subsets:
        if name not in by_subset:
            raise DataError(f"there is no subset '{name}'; there are {', '.join(sorted(by_subset))}.")
    return [row for name in sorted(subsets or by_subset) for row in by_subset[name][:per_subset]]


async def each(
    asked: Sequence[Asked],
    ask: Callable[[Asked], Awaitable[Found]],
    *,
    concurrency: int = CONCURRENCY,
    progress: Callable[[], None] = lambda: None,
) -> list[Found]:
    """Return what `ask` finds for each, in order, so many at a time; `progress` is called after each."""
    waiting = iter(enumerate(asked))
    found: dict[int, Found] = {}

    async def work() -> None:
        for at, one in waiting:
            found[at] = await ask(one)
            progress()

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return [found[at] for at in range(len(asked))]


async def run_calls(
    model: Model,
    rows: Sequence[CallRow],
    *,
    concurrency: int = CONCURRENCY,
    max_tokens: int = MAX_TOKENS,
    progress: Callable[[], None] = lambda: None,
) -> list[CallOutcome]:
    """Ask a model that is started, at temperature 0, and return what came of each row.

    Raises:
        ModelUnavailable: The model is gone; nothing can be said about the rows.
    """

    async def ask(row: CallRow) -> CallOutcome:
        return await _ask(model, row, max_tokens)

    return await each(rows, ask, concurrency=concurrency, progress=progress)


async def _ask(model: Model, row: CallRow, max_tokens: int) -> CallOutcome:
    body = {**row.body, "model": model.name, "temperature": 0, "stream": True}
    if not body.keys() & {"max_tokens", "max_completion_tokens"}:
        body["max_tokens"] = max_tokens
    try:
        stream = await model.stream(ChatRequest.parse(body))
        try:
            message, finish_reason = await _read(stream)
            confidence = stream.confidence
        finally:
            await stream.aclose()
    except ModelUnavailable:
        raise
    except RequestError as exc:
        return CallOutcome(row.subset, None if row.check is None else False, error=exc.code or exc.type)
    calls = message["tool_calls"]
    return CallOutcome(
        subset=row.subset,
        ok=None if row.check is None else row.check(Answer.of(message)),
        calls=len(calls),
        valid=sum(_valid(call["function"], row.body["tools"]) for call in calls),
        finish_reason=finish_reason,
        confidence=confidence if calls else None,
    )


async def _read(stream: ReplyStream) -> tuple[dict[str, Any], str | None]:
    """Return message and finish reason; what follows many words is not read."""
    words: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    finish_reason = None
    async for raw in stream:
        for choice in json.loads(raw)["choices"]:
            words.append(choice["delta"].get("content") or "")
            for part in choice["delta"].get("tool_calls") or ():
                _merge(calls, part)
            finish_reason = choice.get("finish_reason") or finish_reason
        if not calls and sum(map(len, words)) > MOST_WORDS:
            break
    return {"content": "".join(words), "tool_calls": [calls[at] for at in sorted(calls)]}, finish_reason


def _merge(calls: dict[int, dict[str, Any]], part: Mapping[str, Any]) -> None:
    function = calls.setdefault(part["index"], {"function": {"name": "", "arguments": ""}})["function"]
    for key in function:
        function[key] += part["function"].get(key) or ""


def _valid(call: Mapping[str, str], tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a call names one of the tools and its arguments follow that tool's schema."""
    from jsonschema.validators import validator_for

    schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    schema = schemas.get(call["name"])
    try:
        arguments = json.loads(call["arguments"])
    except ValueError:
        return False
    return schema is not None and bool(validator_for(schema)(schema).is_valid(arguments))


# --- the figures ----------------------------------------------------------------------------------------------


def calls_report(outcomes: Sequence[CallOutcome]) -> dict[str, Any]:
    """Return the figures of all rows, and by subset.

    Returns:
        Of all rows `n, checked, correct, accuracy, called, valid, unserved, cut`, and likewise in `by_subset`;
        `simple` (mean over `simple_languages`, those that could be checked), `non_live` and `irrelevance` as BFCL has
        them, None where subsets are missing; and what the confidence of calls is worth (`confidence`). See `_group`.
    """
    groups: dict[str, list[CallOutcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.subset].append(outcome)
    by_subset = {name: _group(group) for name, group in sorted(groups.items())}
    accuracy = {name: group["accuracy"] for name, group in by_subset.items() if group["accuracy"] is not None}
    languages = [name for name in SIMPLE if name in accuracy]
    simple = statistics.fmean(accuracy[name] for name in languages) if languages else None
    parts = [simple, *(accuracy.get(name) for name in NON_LIVE)]
    whole = [part for part in parts if part is not None]
    idle = [outcome for name in IRRELEVANCE for outcome in groups.get(name, ())]
    return {
        **_group(outcomes),
        "by_subset": by_subset,
        "simple": simple,
        "simple_languages": [name.removeprefix("simple_") for name in languages],
        "non_live": statistics.fmean(whole) if len(whole) == len(parts) else None,
        "irrelevance": {
            "all": _group(idle)["accuracy"],
            **{name: accuracy.get(name) for name in IRRELEVANCE},
        },
        "confidence": confidence_report(outcomes),
    }


def _group(outcomes: Sequence[CallOutcome]) -> dict[str, Any]:
    """Return figures of some rows.

    Returns:
        `n` rows; `checked`: those whose answer can be checked; `correct` and `accuracy` of these, None where there is
        none; `called`: the share of rows with a call; `valid`: the share of valid calls; `unserved`: how many rows
        were refused, by code; `cut`: how many were cut off by the limit of tokens.
    """
    verdicts = [outcome.ok for outcome in outcomes if outcome.ok is not None]
    calls = sum(outcome.calls for outcome in outcomes)
    return {
        "n": len(outcomes),
        "checked": len(verdicts),
        "correct": sum(verdicts) if verdicts else None,
        "accuracy": sum(verdicts) / len(verdicts) if verdicts else None,
        "called": sum(outcome.calls > 0 for outcome in outcomes) / len(outcomes) if outcomes else None,
        "valid": sum(outcome.valid for outcome in outcomes) / calls if calls else None,
        "unserved": dict(Counter(outcome.error for outcome in outcomes if outcome.error is not None)),
        "cut": sum(outcome.finish_reason == "length" for outcome in outcomes),
    }


def confidence_report(outcomes: Sequence[CallOutcome]) -> dict[str, Any]:
    """Return how well confidence tells right from wrong calls.

    Returns:
        `n` rows with calls that could be checked; the areas under the ROC curve `auc_mean` (geometric mean of the
        tokens' probabilities), `auc_min` (least probability) and `auc_margin` (least margin), None where all are
        right or all wrong; and in `thresholds` the share of rows whose geometric mean is at least `threshold`
        (`kept`), with the `accuracy` among them.
    """
    known = [(outcome.confidence, outcome.ok) for outcome in outcomes if outcome.ok is not None]
    pairs = [(confidence, ok) for confidence, ok in known if confidence is not None]
    right = np.array([ok for _, ok in pairs], bool)
    mean = np.array([confidence.value for confidence, _ in pairs], np.float64)
    table = []
    for threshold in THRESHOLDS:
        kept = mean >= threshold
        table.append(
            {
                "threshold": threshold,
                "kept": float(kept.mean()) if len(kept) else None,
                "accuracy": float(right[kept].mean()) if kept.any() else None,
            }
        )
    return {
        "n": len(pairs),
        "auc_mean": auc(mean, right),
        "auc_min": auc([confidence.min_logprob for confidence, _ in pairs], right),
        "auc_margin": auc([confidence.min_margin for confidence, _ in pairs], right),
        "thresholds": table,
    }


def auc(score: npt.ArrayLike, right: npt.ArrayLike) -> float | None:
    """Return the chance that a right one has a higher score than a wrong one, a tie counted half; None without both."""
    yes = np.asarray(right, bool)
    rights, wrongs = int(yes.sum()), int((~yes).sum())
    if not rights or not wrongs:
        return None
    _, at, count = np.unique(np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[at]
    return float((rank[yes].sum() - rights * (rights + 1) / 2) / (rights * wrongs))


# --- Java and JavaScript --------------------------------------------------------------------------------------


def _official(spec: Mapping[str, Any], expected: Any) -> Check | None:
    """Return the check of BFCL's own package `bfcl-eval`, where it is installed: it reads Java and JavaScript values.

    `pip install --no-deps bfcl-eval==2026.3.23` is enough.
    """
    checking = _bfcl() if spec.get("type") == "bfcl_ast" else None
    if checking is None:
        return None
    language = checking.Language[spec["language"].upper()]

    def check(answer: Answer) -> bool:
        calls = [{name: dict(arguments)} for name, arguments in answer.calls]
        try:
            found = checking.ast_checker(
                spec["func_doc"], calls, expected, language, spec["category"], "smallfirst"
            )
        except Exception:  # what its parsers of values make of nonsense
            return False
        return bool(found["valid"])

    return check


def _bfcl() -> Any:
    """Return BFCL's module with `ast_checker`, or None where the package is not installed.

    It wants one setting of one module that imports some thirty packages; that module is stood in for.
    """
    name = "bfcl_eval.constants.model_config"
    stand_in = ModuleType(name)
    settings = SimpleNamespace(underscore_to_dot=True)  # tools' names have "_" for "."
    vars(stand_in)["MODEL_CONFIG_MAPPING"] = defaultdict(lambda: settings)
    replaced = sys.modules.get(name)
    sys.modules[name] = stand_in
    try:
        return importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
    except ImportError:
        return None
    finally:
        del sys.modules[name]
        if replaced is not None:
            sys.modules[name] = replaced
