"""Traffic files: a day's requests, replayed in their order through the gateway's own look-up, at their own times."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smallfirst.router.cache.key import Identity
from smallfirst.router.cache.recall import Recall, State
from smallfirst.router.cache.rules import offers_tools
from smallfirst.router.hints import read_hints
from smallfirst.router.scoring.embedding import DIMENSIONS, FloatArray
from smallfirst.router.training.files import DataError, decoded, read_rows
from smallfirst.router.wire import ChatRequest

from .cache_ways import COLUMNS, TARGET, answer, interval_95, last_text, parsed, upper_95

CLASSIFICATION = "classification"
# Checkers of requests that are right only where no tool is called.
NO_CALL = frozenset({"bfcl_no_call"})
LOOKED_UP = ("hit_exact", "hit_semantic", "miss", "bypass")


@dataclass(frozen=True, slots=True)
class Event:
    """One request of the traffic.

    Attributes:
        seq: Its number; events come in the order of these.
        at: Seconds since the traffic's start.
        kind: What it is in the mix: `paraphrase`, `near_miss`, `repeat:…`, or a task.
        task: What is asked for.
        request: The request.
        session: As the gateway makes it of how the conversation begins.
        key: Exact key: the same for equal requests.
        expected: What is right, as text; empty where that is not known.
        group: Events of one group have the same answer.
        servable_from: The first earlier event whose answer may serve it; -1: none.
        reply: What a model would answer.
    """

    seq: int
    at: float
    kind: str
    task: str
    request: ChatRequest
    session: str
    key: str
    expected: str
    group: str
    servable_from: int
    reply: dict[str, Any]


class Came(NamedTuple):
    """What became of an event.

    Attributes:
        state: Of the look-up.
        seconds: That reading the request for the cache and looking it up took.
        source: The `seq` of the event whose answer it got; None of a miss.
    """

    state: State
    seconds: float
    source: int | None


class Clock:
    """Seconds that stand still until they are set."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


# Returns what a model's answer to an event costs, in US dollars.
Cost = Callable[[Event], float]


def read_traffic(path: Path, *, limit: int | None = None, tenant: str = "default") -> list[Event]:
    """Read a traffic file: Parquet or JSON lines.

    Args:
        path: With `seq, t_ms, kind, task, request, equiv_group, servable_from_seq`, and optionally `expected, checker`.
        limit: At most so many events, the first ones.
        tenant: Whose they are.

    Raises:
        DataError: A column is missing or broken, or a number occurs twice; the message names the row.
    """
    events = []
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path}: row {number}"
        missing = sorted(name for name in COLUMNS["traffic"] if row.get(name) in (None, ""))
        if missing:
            raise DataError(f"{where}: column '{missing[0]}' is missing or empty.")
        for name in ("seq", "t_ms", "servable_from_seq"):
            if isinstance(row[name], bool) or not isinstance(row[name], int):
                raise DataError(f"{where}: column '{name}': expected a whole number.")
        events.append(_event(row, where, tenant))
    events.sort(key=lambda event: event.seq)
    if not events:
        raise DataError(f"{path}: there are no rows.")
    if len({event.seq for event in events}) < len(events):
        raise DataError(f"{path}: column 'seq': a number occurs twice.")
    return events[:limit]


def _event(row: Mapping[str, Any], where: str, tenant: str) -> Event:
    request = parsed(row, "request", where, tenant=tenant)
    expected, checker = decoded(row, "expected", where), decoded(row, "checker", where) or {}
    calls = offers_tools(request) and checker.get("type") not in NO_CALL
    text = (
        ""
        if expected is None
        else expected
        if isinstance(expected, str)
        else json.dumps(expected, sort_keys=True)
    )
    return Event(
        seq=row["seq"],
        at=row["t_ms"] / 1000,
        kind=str(row["kind"]),
        task=str(row["task"]),
        request=request,
        session=read_hints(request).session,
        key=Identity.of(request, target=TARGET).key,
        expected=text,
        group=str(row["equiv_group"]),
        servable_from=row["servable_from_seq"],
        reply=answer(request, expected, str(row["seq"]), calls=calls),
    )


async def replayed(events: Sequence[Event], recall: Recall, clock: Clock) -> list[Came]:
    """Replay events: look each up, and keep a model's answer where there is none to give.

    Args:
        events: In their order.
        recall: With its store; both go by the clock.
        clock: Set to each event's time.
    """
    found = []
    for event in events:
        clock.now = event.at
        begun = time.perf_counter()
        asked = recall.read(event.request, target=TARGET, session=event.session, derived=True)
        recalled = await recall.look_up(asked)
        seconds = time.perf_counter() - begun
        source = None if recalled.reply is None else int(recalled.reply.body["id"])
        found.append(Came(recalled.state, seconds, source))
        if recalled.reply is None:
            kept = recall.keep(asked, event.reply, model=TARGET, tier="cloud", cost_usd=None)
            if kept is not None:
                await kept[1]
    return found


def replayed_without_rules(
    events: Sequence[Event], embedded: Callable[[str], FloatArray], least: float
) -> list[Came]:
    """Replay events as gateways with a fixed threshold commonly do.

    Equal requests get the answer; else the nearest last message decides, whatever came before it, whatever tools there
    are, and whatever the answer is. Everything is kept.

    Args:
        events: In their order.
        embedded: Returns the vector of a last message, of length 1 or zeros.
        least: The least cosine.
    """
    vectors = np.zeros((len(events), DIMENSIONS), np.float32)
    sources: list[int] = []
    exact: dict[str, int] = {}
    found = []
    for event in events:
        begun = time.perf_counter()
        source = exact.get(event.key)
        state: State = "exact"
        vector = None
        if source is None:
            state, vector = "miss", embedded(last_text(event.request))
            likeness = vectors[: len(sources)] @ vector
            nearest = int(np.argmax(likeness)) if sources else -1
            if nearest >= 0 and likeness[nearest] >= least:
                source, state = sources[nearest], "semantic"
        found.append(Came(state, time.perf_counter() - begun, source))
        if source is None and vector is not None:
            vectors[len(sources)] = vector
            sources.append(event.seq)
            exact[event.key] = event.seq
    return found


def summary(events: Sequence[Event], came: Sequence[Came], cost: Cost) -> dict[str, Any]:
    """Return the figures of a replay.

    `wrong_hits` are semantic hits whose answer is another group's (for classification: another label). `servable` are
    events that an earlier answer may serve, and that no earlier event was equal to; `servable_hit` those of them that
    got a right answer by likeness. `saved_usd` is what the answers given again would have cost, wrong ones too;
    `saved_right_usd` leaves these out.
    """
    by_seq = {event.seq: event for event in events}
    servable = set(servable_events(events))
    rows = [
        _row(event, one, None if one.source is None else by_seq[one.source], event.seq in servable)
        for event, one in zip(events, came, strict=True)
    ]
    report = _counts(rows)
    hits, wrong = report["semantic_hits"], report["wrong_hits"]
    prices = [cost(event) for event in events]
    saved = sum(price for price, row in zip(prices, rows, strict=True) if row["exact"] or row["semantic"])
    right = sum(
        price
        for price, row in zip(prices, rows, strict=True)
        if (row["exact"] or row["semantic"]) and not row["wrong"]
    )
    kinds = sorted({event.kind for event in events})
    return report | {
        "wrong_share": wrong / hits if hits else None,
        "wrong_share_95": interval_95(wrong, hits),
        "wrong_share_upper_95": upper_95(wrong, hits),
        "servable_hit_share": report["servable_hit"] / len(servable) if servable else None,
        "servable_hit_share_95": interval_95(report["servable_hit"], len(servable)),
        "hit_share": (report["exact_hits"] + hits) / len(events),
        "saved_usd": saved,
        "saved_right_usd": right,
        "total_usd": sum(prices),
        "lookup_ms": _latency(came),
        "by_kind": {
            kind: _counts([row for event, row in zip(events, rows, strict=True) if event.kind == kind])
            for kind in kinds
        },
    }


def servable_events(events: Sequence[Event]) -> list[int]:
    """Return the numbers of the events that only likeness can serve rightly."""
    seen: set[str] = set()
    found = []
    for event in events:
        if event.servable_from >= 0 and event.key not in seen:
            found.append(event.seq)
        seen.add(event.key)
    return found


def _row(event: Event, came: Came, source: Event | None, servable: bool) -> dict[str, bool]:
    wrong = source is not None and not _may_serve(source, event)
    return {
        "exact": came.state == "exact",
        "semantic": came.state == "semantic",
        "bypass": came.state == "bypass",
        "wrong": wrong,
        "servable": servable,
    }


def _may_serve(source: Event, event: Event) -> bool:
    if event.task == CLASSIFICATION:
        return source.expected == event.expected
    return source.group == event.group


def _counts(rows: Sequence[Mapping[str, bool]]) -> dict[str, Any]:
    return {
        "n": len(rows),
        "exact_hits": sum(row["exact"] for row in rows),
        "exact_wrong": sum(row["exact"] and row["wrong"] for row in rows),
        "semantic_hits": sum(row["semantic"] for row in rows),
        "wrong_hits": sum(row["semantic"] and row["wrong"] for row in rows),
        "servable": sum(row["servable"] for row in rows),
        "servable_hit": sum(row["servable"] and row["semantic"] and not row["wrong"] for row in rows),
        "bypassed": sum(row["bypass"] for row in rows),
    }


def _latency(came: Sequence[Came]) -> dict[str, dict[str, float] | None]:
    """Return milliseconds by what came of the look-up; None where nothing did."""
    found: dict[str, dict[str, float] | None] = {}
    for name in LOOKED_UP:
        state = name.removeprefix("hit_")
        times = [one.seconds * 1000 for one in came if one.state == state]
        found[name] = (
            dict(zip(("p50", "p95", "p99"), np.percentile(times, (50, 95, 99)).tolist(), strict=True))
            if times
            else None
        )
    return found
