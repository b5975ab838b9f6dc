"""Medians and ratios of what was measured, as plain dicts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .load import Outcome, Spread
from .measure import DIRECT, Measured, Reading, Readings, Sizes
from .targets import Target

OURS, FLOOR = "smallfirst", "floor"

# Clients and upstream that take more of their core than this are part of what was measured.
MOST_BUSY = 0.9

# What an issue of ours asks for, by figure: what it must be, and in which words.
GOALS: tuple[tuple[str, str, float, bool], ...] = (
    ("times_litellm", "throughput, times LiteLLM's", 20.0, True),
    ("times_portkey", "throughput, times Portkey's", 3.0, True),
    ("times_floor", "throughput, times the bare pass-through's with the same client", 0.5, True),
    ("added_p50_ms", "added p50 at a quarter of capacity, ms", 1.0, False),
    ("added_p99_ms", "added p99 at a quarter of capacity, ms", 4.0, False),
    ("first_chunk_over_floor_ms", "first chunk of a stream over the bare pass-through, ms", 0.5, False),
    ("memory_growth", "resident memory, last reading over first", 1.10, False),
)


def figures(measured: Measured, targets: Sequence[Target], sizes: Sizes) -> dict[str, Any]:
    """Return what was measured, by server, and how smallfirst compares.

    Latencies are in milliseconds. `added_…` are the percentiles of latency less those of the upstream asked directly in
    the same round. Where a server failed, what it has is there all the same.

    Returns:
        {"targets": {name: {...}}, "direct": {...}, "ratios": {name: {"throughput", "low", "high"}}, "goals": {...},
         "skipped": {name: why}, "failures": {name: {what: why}}, "warnings": [...], "sizes": {...}}
    """
    direct = measured.readings[DIRECT]
    by_name = {
        target.name: _of_one(target, measured, direct, sizes)
        for target in targets
        if target.name in measured.versions
    }
    floor = by_name.get(FLOOR, {}).get("stream", {}).get("first_ms")
    for one in by_name.values():
        first = one["stream"]["first_ms"]
        one["stream"]["first_over_floor_ms"] = None if first is None or floor is None else first - floor
    ratios = _ratios(measured)
    return {
        "targets": by_name,
        "direct": {
            "per_second": _median(_rates(direct)),
            "p50_ms": _median(_latency(direct, "single", lambda spread: spread.p50)),
            "late_p99_ms": _median(
                one.outcome.late.p99 for one in direct.by_kind["paced"] if one.outcome.late is not None
            ),
        },
        "ratios": ratios,
        "goals": _goals(by_name, ratios),
        "skipped": dict(measured.skipped),
        "failures": {name: one.failures for name, one in measured.readings.items() if one.failures},
        "warnings": _warnings(measured),
        "rounds": sizes.rounds,
        "seconds": sizes.seconds,
        "connections": sizes.connections,
        "load_before": measured.busy_before,
    }


def _of_one(target: Target, measured: Measured, direct: Readings, sizes: Sizes) -> dict[str, Any]:
    readings = measured.readings[target.name]
    kinds = readings.by_kind
    memory = [readings.memory.get(after) for after in sizes.memory_after]
    single_direct = [one.outcome for one in direct.by_kind["single"]]
    waiting_direct = [one.outcome for one in direct.by_kind["waiting"]]
    return {
        "title": target.title,
        "version": measured.versions[target.name],
        "start_s": _median(readings.starts),
        "throughput": {
            "per_second": _median(_rates(readings)),
            "cpu_ms": _median(one.cpu_ms for one in kinds["throughput"] if one.cpu_ms is not None),
            "p50_ms": _median(_latency(readings, "throughput", lambda spread: spread.p50)),
            "p95_ms": _median(_latency(readings, "throughput", lambda spread: spread.p95)),
            "p99_ms": _median(_latency(readings, "throughput", lambda spread: spread.p99)),
        },
        "single": _added(kinds["single"], single_direct),
        "paced": {"per_second": _median(one.outcome.per_second for one in kinds["paced"])}
        | _added(kinds["paced"], [one.direct for one in kinds["paced"]]),
        "waiting": {"per_second": _median(one.outcome.per_second for one in kinds["waiting"])}
        | _added(kinds["waiting"], waiting_direct),
        "stream": {
            "first_ms": _median(
                one.outcome.first.p50 for one in kinds["first_chunk"] if one.outcome.first is not None
            ),
            "chunks_per_second": _median(one.outcome.chunks / one.outcome.seconds for one in kinds["chunks"]),
        },
        "memory": {
            "after": list(sizes.memory_after),
            "mb": [None if one is None else one / 1e6 for one in memory],
            "growth": None if memory[0] is None or memory[1] is None else memory[1] / memory[0],
        },
    }


def _added(readings: Sequence[Reading], directs: Sequence[Outcome | None]) -> dict[str, float | None]:
    """Return what a server adds to p50, p95 and p99: round by round, then the median."""
    pairs = [
        (one.outcome.latency, other.latency)
        for one, other in zip(readings, directs, strict=False)
        if other is not None and one.outcome.latency is not None and other.latency is not None
    ]
    return {
        f"added_{name}_ms": _median(getattr(one, name) - getattr(other, name) for one, other in pairs)
        for name in Spread.__struct_fields__
    }


def _rates(readings: Readings) -> list[float]:
    return [one.outcome.per_second for one in readings.by_kind["throughput"]]


def _latency(readings: Readings, kind: str, of: Callable[[Spread], float]) -> list[float]:
    found = (one.outcome.latency for one in readings.by_kind[kind])
    return [of(spread) for spread in found if spread is not None]


def _ratios(measured: Measured) -> dict[str, dict[str, float]]:
    """Return by how much smallfirst's throughput is another's: of each round, then the median, least and most."""
    if OURS not in measured.readings:
        return {}
    ours = _rates(measured.readings[OURS])
    ratios = {}
    for name, readings in measured.readings.items():
        each = [mine / theirs for mine, theirs in zip(ours, _rates(readings), strict=False)]
        if name not in (OURS, DIRECT) and each:
            ratios[name] = {"throughput": statistics.median(each), "low": min(each), "high": max(each)}
    return ratios


def _goals(
    by_name: Mapping[str, Mapping[str, Any]], ratios: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    ours = by_name.get(OURS)
    if ours is None:
        return {}
    reached = {f"times_{name}": ratio["throughput"] for name, ratio in ratios.items()} | {
        "added_p50_ms": ours["paced"]["added_p50_ms"],
        "added_p99_ms": ours["paced"]["added_p99_ms"],
        "first_chunk_over_floor_ms": ours["stream"]["first_over_floor_ms"],
        "memory_growth": ours["memory"]["growth"],
    }
    return {
        name: {
            "what": what,
            "goal": goal,
            "reached": value,
            "held": None if value is None else (value >= goal if at_least else value <= goal),
            "at_least": at_least,
        }
        for name, what, goal, at_least in GOALS
        for value in (reached.get(name),)
    }


def _warnings(measured: Measured) -> list[str]:
    said = []
    if measured.busy_before > 0.5:
        said.append(f"The machine was busy with other things (load {measured.busy_before:.1f} at the start).")
    for name, readings in measured.readings.items():
        busy = _median(one.others_busy for one in readings.by_kind["throughput"])
        if name != DIRECT and busy is not None and busy > MOST_BUSY:
            said.append(
                f"{name}: clients and upstream took {busy:.0%} of their core; it may be faster than this."
            )
    return said


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None
