"""What the classifier is trained on: requests with a topic, a task kind, and outcomes of models where there are any."""

from __future__ import annotations

import random
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from math import isnan
from pathlib import Path
from typing import Any

from smallfirst.policies.types import TaskKind

from ..scoring.classifier import STRONG, WEAK
from .files import DataError, decoded, read_rows
from .tiers import tier_outcomes

# Never trained on: their licences do not allow an artefact that ships.
EXCLUDED_SUBSETS = frozenset({"alpaca_eval2", "cmmlu", "ceval"})
SIMPLE_PROMPTS, LOCAL_OUTCOMES = "simple_prompts.jsonl", "local_outcomes.jsonl"
# Every row of a subset, where others are drawn from.
ALL = 1_000_000


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One request.

    Attributes:
        file: Name of the file that it is from.
        id: Its id there.
        subset: Its subset there.
        body: The chat completion body.
        topic: A fine label (file and subset, or the exam's subject) for the topic classifier.
        task: Its task kind.
        outcomes: Success in [0, 1] by head.
        weight: Of its outcomes; under 1 where they are assumed, not measured.
        scores: Success in [0, 1] by model, of all models that were measured on it.
    """

    file: str
    id: str
    subset: str
    body: Mapping[str, Any]
    topic: str
    task: TaskKind
    outcomes: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Source:
    """How a file is read: rows a subset at most, the task kind (by subset where they differ)."""

    most: int
    task: TaskKind
    by_subset: Mapping[str, TaskKind] = field(default_factory=dict)


_SOURCES: Mapping[str, _Source] = {
    "qa_knowledge": _Source(400, "knowledge"),
    "qa_reading": _Source(300, "reading"),
    "qa_reasoning": _Source(300, "reasoning"),
    "qa_extraction": _Source(300, "extraction"),
    "qa_summarise": _Source(50, "summarisation"),
    "classification_intent": _Source(150, "classification"),
    "classification_cacheability": _Source(100, "classification"),
    "function_call_snips": _Source(45, "function_call"),
    "function_call_bfcl": _Source(150, "function_call"),
    "agent_bfcl": _Source(60, "agent"),
    "agent_tau2": _Source(80, "agent"),
    "chat_ifeval": _Source(60, "creative"),
    "chat_open": _Source(
        206, "chat",
        {"coding": "code", "math": "reasoning", "creative_writing": "creative", "roleplay": "creative",
         "writing": "creative", "reasoning": "reasoning", "extraction": "extraction"},
    ),
    "outcomes_11_models": _Source(
        ALL, "knowledge", {"mbpp": "code", "winogrande": "reasoning", "arc_challenge": "knowledge"}
    ),
    "outcomes_7_small_models": _Source(
        ALL, "knowledge",
        {"gsm8k": "reasoning", "MATH_prealgebra": "reasoning", "humaneval": "code", "mbpp": "code",
         "javascript": "code"},
    ),
    "outcomes_many_models": _Source(
        ALL, "knowledge",
        {"zeroeval_crux": "code", "zeroeval_math-l5": "reasoning", "zeroeval_numersense-v2": "knowledge"},
    ),
}  # fmt: skip

# Exam subjects that are worked out rather than known.
_WORKED_OUT = frozenset(
    {
        "abstract_algebra", "college_mathematics", "elementary_mathematics", "high_school_mathematics",
        "high_school_statistics", "formal_logic", "college_physics", "high_school_physics", "econometrics",
    }
)  # fmt: skip
# No small model was run on these: their answers have no mechanical check, or the check is not ours. That models of
# half a billion parameters fail them is assumed (published: under 2 % wins on Arena-Hard, about a quarter of IFEval's
# prompts), at half weight, so that the absence of outcomes does not read as easy.
_ASSUMED_FAILED: Mapping[str, float] = {
    "chat_open": 0.0,
    "agent_bfcl": 0.0,
    "agent_tau2": 0.0,
    "chat_ifeval": 0.15,
}
_ASSUMED_WEIGHT = 0.5

# Right is there to call nothing, and a model that never calls passes: that would read as being good at tools.
_VACUOUS = frozenset({"irrelevance", "live_irrelevance"})

_SIMPLE_TASKS: Mapping[str, TaskKind] = {
    "capital": "knowledge", "capital_rare": "knowledge", "fact": "knowledge", "fact_hard": "knowledge",
    "unit": "knowledge", "arithmetic": "reasoning", "arithmetic_hard": "reasoning", "word_problem": "reasoning",
    "logic": "reasoning", "sentiment": "classification", "classify": "classification",
    "label_schema": "classification", "extract": "extraction", "language": "chat", "greeting": "chat",
    "limits": "creative", "tool": "function_call", "code": "code", "shorten": "summarisation",
}  # fmt: skip


def own_data(name: str) -> Path:
    """Return the path of a data file that ships in `smallfirst.evals`."""
    return Path(str(resources.files("smallfirst.evals") / "data" / name))


def load_rows(
    folder: Path, *, outcomes: Path | None = None, without_models: Collection[str] = ()
) -> list[TrainingRow]:
    """Return every training row, in an order that does not depend on the machine.

    Args:
        folder: The evaluation data.
        outcomes: What our local models got right; default: the file that ships in `smallfirst.evals`.
        without_models: Models whose published outcomes are left out.

    Raises:
        DataError: A file is missing or broken.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder. Name the evaluation data's with SMALLFIRST_DATA or --data."
        )
    measured = _measured(outcomes or own_data(LOCAL_OUTCOMES))
    rows = [*_router_outcomes(folder), *_simple(measured)]
    local = sorted({head for by_head in measured.values() for head in by_head})
    for name, source in _SOURCES.items():
        rows += _from_source(folder, name, source, measured, (local, without_models))
    return rows


def _measured(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Outcomes of local models by (file, id)."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for outcome in read_rows(path):
        if outcome["subset"] in _VACUOUS:
            continue
        found.setdefault((outcome["file"], outcome["id"]), {})[outcome["model"]] = float(outcome["ok"])
    return found


def _router_outcomes(folder: Path) -> Iterator[TrainingRow]:
    name = "router_outcomes_dev.parquet"
    columns = ("id", "subset", "subject", "request", "weak_correct", "strong_correct")
    for row in read_rows(folder / name, columns):
        subject = row["subject"]
        yield TrainingRow(
            file=name,
            id=row["id"],
            subset=row["subset"],
            body=decoded(row, "request", f"{name}: row {row['id']}"),
            topic=f"{row['subset']}/{subject}",
            task="reasoning" if row["subset"] == "gsm8k" or subject in _WORKED_OUT else "knowledge",
            outcomes={WEAK: float(row["weak_correct"]), STRONG: float(row["strong_correct"])},
        )


def _simple(measured: Mapping[tuple[str, str], dict[str, float]]) -> Iterator[TrainingRow]:
    for row in read_rows(own_data(SIMPLE_PROMPTS)):
        yield TrainingRow(
            file=SIMPLE_PROMPTS,
            id=row["id"],
            subset=row["subset"],
            body=row["request"],
            topic=f"simple/{row['subset']}",
            task=_SIMPLE_TASKS[row["subset"]],
            outcomes=measured.get((SIMPLE_PROMPTS, row["id"]), {}),
        )


def _from_source(
    folder: Path,
    name: str,
    source: _Source,
    measured: Mapping[tuple[str, str], dict[str, float]],
    names: tuple[Collection[str], Collection[str]],
) -> Iterator[TrainingRow]:
    local_heads, without_models = names
    file = f"{name}_dev.parquet"
    columns = ["id", "subset", "request"]
    columns += ["scores"] if name.startswith("outcomes_") else []
    columns += ["category"] if name == "outcomes_many_models" else []
    subsets: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(folder / file, columns):
        if row["subset"] not in EXCLUDED_SUBSETS:
            subsets.setdefault(row["subset"], []).append(row)
    for subset, members in sorted(subsets.items()):
        members.sort(key=lambda row: row["id"])
        # Rows that a local model was run on are always taken, the others by lot.
        kept = [row for row in members if (file, row["id"]) in measured]
        others = [row for row in members if (file, row["id"]) not in measured]
        room = max(0, min(source.most - len(kept), len(others)))
        kept += random.Random(zlib.crc32(f"{name}/{subset}".encode())).sample(others, room)
        scores = [_scores(row, file, without_models) for row in kept]
        tiers = tier_outcomes(name, scores) if any(scores) else [{} for _ in kept]
        for row, by_model, by_tier in zip(kept, scores, tiers, strict=True):
            outcomes = {**measured.get((file, row["id"]), {}), **by_tier}
            weight = 1.0
            if name in _ASSUMED_FAILED and not outcomes:
                outcomes, weight = dict.fromkeys(local_heads, _ASSUMED_FAILED[name]), _ASSUMED_WEIGHT
            category = str(row.get("category") or "").partition("|")[0]
            yield TrainingRow(
                file=file,
                id=row["id"],
                subset=subset,
                body=decoded(row, "request", f"{file}: row {row['id']}"),
                topic=f"{name}/{subset}" + (f"/{category}" if category else ""),
                task=source.by_subset.get(subset, source.task),
                outcomes=outcomes,
                weight=weight,
                scores=by_model,
            )


def _scores(row: Mapping[str, Any], file: str, without: Collection[str]) -> dict[str, float]:
    scores = decoded(row, "scores", f"{file}: row {row['id']}") or {}
    told = {name: value for name, value in scores.items() if value is not None and name not in without}
    return {name: float(value) for name, value in told.items() if not isnan(value)}
