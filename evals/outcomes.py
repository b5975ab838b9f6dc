"""What a model gets right: runs it over rows with a checkable answer and keeps the outcomes, never the rows' text.

An outcome names its row by file and id, so that training can look the request up where the data is. The file grows by
a line an answer and is picked up again after an interrupt.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

from smallfirst.router.errors import ModelError, RequestError, UpstreamError
from smallfirst.router.models.base import Model
from smallfirst.router.training.files import decoded, read_rows
from smallfirst.router.wire import ChatRequest

from .checkers import Answer, Check, checker

# Answers longer than this count as they are; a small model that rambles is cut off.
MAX_TOKENS = 160
# Rows a subset, by file; subsets that are not named here are left out. Java and JavaScript calls cannot be checked.
SAMPLE: Mapping[str, Mapping[str, int]] = {
    "qa_knowledge_dev.parquet": {
        "mmlu": 30, "arc_easy": 40, "nq_open": 30, "arc_challenge": 20, "commonsenseqa": 25, "openbookqa": 25,
    },
    "qa_reading_dev.parquet": {"boolq": 20, "disfl_qa_extract": 25},
    "qa_reasoning_dev.parquet": {"gsm8k": 20, "svamp": 25},
    "qa_extraction_dev.parquet": {"slot_json": 30},
    "qa_summarise_dev.parquet": {"GENHX": 5, "FAM/SOCHX": 5},
    "classification_intent_dev.parquet": {
        "snips_7way": 25, "clinc_domain_11way": 25, "clinc150_151way": 8, "banking77_77way": 8,
    },
    "function_call_snips_dev.parquet": {
        "SearchCreativeWork": 3, "PlayMusic": 3, "BookRestaurant": 3, "AddToPlaylist": 3, "GetWeather": 3,
        "SearchScreeningEvent": 3, "RateBook": 3,
    },
    "function_call_bfcl_dev.parquet": {
        "simple_python": 25, "multiple": 12, "parallel": 8, "live_simple": 20, "live_multiple": 10,
        "irrelevance": 12, "live_irrelevance": 12,
    },
}  # fmt: skip
_REFUSED = frozenset({400, 413, 422})
SIMPLE_PROMPTS = "simple_prompts.jsonl"
LOCAL_OUTCOMES = "local_outcomes.jsonl"


@dataclass(frozen=True, slots=True)
class Row:
    """A request with a check of its answer.

    Attributes:
        file: Name of the file that it is from.
        id: Its id there.
        subset: What kind of row it is.
        body: The chat completion body.
        check: Whether an answer is right.
        max_tokens: Of an answer; a longer one is cut.
    """

    file: str
    id: str
    subset: str
    body: Mapping[str, Any]
    check: Check
    max_tokens: int = MAX_TOKENS


def own_data(name: str) -> Path:
    """Return the path of a data file that ships in this package."""
    return Path(str(resources.files(__package__) / "data" / name))


def simple_rows() -> list[Row]:
    """Return the hand-written prompts: everyday requests, most of them simple, with what counts as right."""
    rows = []
    for row in read_rows(own_data(SIMPLE_PROMPTS)):
        spec = row["checker"]
        check = checker(spec, row.get("expected", ()), row.get("labels", ()))
        if check is None:
            raise ValueError(f"{SIMPLE_PROMPTS}: {row['id']}: no checker {spec.get('type')!r}")
        rows.append(Row(SIMPLE_PROMPTS, row["id"], row["subset"], row["request"], check))
    return rows


def sample_rows(
    data: Path, *, sample: Mapping[str, Mapping[str, int]] = SAMPLE, max_chars: int = 9000, seed: int = 7
) -> list[Row]:
    """Draw rows of the evaluation data, so many of each subset, the same ones every time.

    Args:
        data: The folder of the evaluation data.
        sample: How many rows of which subset of which file.
        max_chars: Longer requests are left out: they are past what a small model is run with.
        seed: Draws another sample.

    Raises:
        DataError: A file is missing or broken.
    """
    drawn: list[Row] = []
    columns = ("id", "subset", "request", "labels", "expected", "checker")
    for name, wanted in sample.items():
        by_subset: dict[str, list[Row]] = {subset: [] for subset in wanted}
        for row in read_rows(data / name, columns):
            if row["subset"] not in wanted or len(row["request"]) > max_chars:
                continue
            where = f"{name}: row {row['id']}"
            labels = decoded(row, "labels", where) or ()
            check = checker(decoded(row, "checker", where), decoded(row, "expected", where), labels)
            if check is not None:
                body = decoded(row, "request", where)
                by_subset[row["subset"]].append(Row(name, row["id"], row["subset"], body, check))
        for subset, rows in by_subset.items():
            rng = random.Random(f"{seed}/{name}/{subset}")
            drawn += rng.sample(sorted(rows, key=lambda r: r.id), min(wanted[subset], len(rows)))
    return drawn


async def outcome_of(model: Model, row: Row) -> dict[str, Any]:
    """Ask a model a row: `file, id, subset, model, ok, confidence, input_tokens, output_tokens`.

    `confidence` is the engine's figure in 0..1 (see `Confidence.value`), None where it has none. A request that the
    model refuses (too long, an unsupported schema) is an outcome with `ok` False and its error's code: who routes
    there gets no answer. Temperature 0, so that a second run gives the same.

    Raises:
        ModelError: The model itself failed; nothing can be said about the row.
    """
    body = {**row.body, "model": model.name, "temperature": 0, "max_tokens": row.max_tokens}
    outcome: dict[str, Any] = {"file": row.file, "id": row.id, "subset": row.subset, "model": model.name}
    try:
        reply = await model.complete(ChatRequest.parse(body))
    except ModelError as exc:
        # A cloud that finds fault with this one request may still answer the others.
        if not (isinstance(exc, UpstreamError) and exc.status in _REFUSED):
            raise
        nothing = {"confidence": None, "input_tokens": 0, "output_tokens": 0}
        return outcome | {"ok": False, "error": exc.code or str(exc.status), **nothing}
    except RequestError as exc:
        nothing = {"confidence": None, "input_tokens": 0, "output_tokens": 0}
        return outcome | {"ok": False, "error": exc.code, **nothing}
    usage = reply.usage
    return outcome | {
        "ok": row.check(Answer.of(reply.body["choices"][0]["message"])),
        "confidence": round(reply.confidence.value, 4) if reply.confidence else None,
        "input_tokens": usage.input_tokens if usage else 0,
        "output_tokens": usage.output_tokens if usage else 0,
    }


async def collect(
    model: Model,
    rows: Iterable[Row],
    out: Path,
    *,
    progress: Callable[[], None] = lambda: None,
    concurrency: int = 1,
) -> list[dict[str, Any]]:
    """Run a model over the rows that `out` has no outcome for yet, appending to it, and return all rows' outcomes.

    Args:
        model: Started here, and closed.
        rows: Run in a mixed order, so that an interrupted run says something about every subset.
        out: JSON lines; created where it is not there.
        progress: Called after each row, and for those that were there already.
        concurrency: Rows at a time.

    Raises:
        ModelError: The model failed; what it answered before is kept.
    """
    wanted = {(row.file, row.id): row for row in rows}
    outcomes = [o for o in _kept(out) if o["model"] == model.name and (o["file"], o["id"]) in wanted]
    done = {(o["file"], o["id"]) for o in outcomes}
    todo = [row for key, row in sorted(wanted.items()) if key not in done]
    random.Random(0).shuffle(todo)
    for _ in done:
        progress()
    waiting = iter(todo)

    async def work(file: TextIO) -> None:
        for row in waiting:
            outcome = await outcome_of(model, row)
            outcomes.append(outcome)
            file.write(json.dumps(outcome) + "\n")
            file.flush()
            progress()

    await model.start()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8") as file:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work(file))
    except* ModelError as failed:
        raise failed.exceptions[0] from None
    finally:
        await model.aclose()
    return outcomes


def summary(model: str, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return accuracy overall and by file and subset."""
    groups: dict[str, list[bool]] = {}
    for outcome in outcomes:
        file = outcome["file"].removesuffix(".jsonl").removesuffix("_dev.parquet")
        groups.setdefault(f"{file}/{outcome['subset']}", []).append(outcome["ok"])
    total = [ok for group in groups.values() for ok in group]
    return {
        "model": model,
        "n": len(total),
        "accuracy": sum(total) / len(total) if total else None,
        "by_subset": {
            name: {"n": len(group), "accuracy": sum(group) / len(group)}
            for name, group in sorted(groups.items())
        },
    }


def _kept(out: Path) -> Iterator[dict[str, Any]]:
    return read_rows(out) if out.is_file() else iter(())
