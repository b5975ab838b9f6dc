"""Results as Markdown tables, and where they stand in a document."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .machine import BenchError, processor

START, END = "<!-- figures: made by `smallfirst bench gateway --write` -->", "<!-- end of figures -->"

Table = Sequence[Sequence[str]]


def machine() -> dict[str, str]:
    """Return what it was measured on."""
    return {
        "processor": processor(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "day": datetime.now(UTC).date().isoformat(),
    }


def write(document: Path, result: Mapping[str, Any]) -> None:
    """Put the tables of a result between the marks of a document.

    Raises:
        BenchError: The document has no such marks.
    """
    place(document, START, END, lambda: markdown(result))


def place(document: Path, start: str, end: str, figures: Callable[[], str]) -> None:
    """Put figures between two marks of a document.

    Raises:
        BenchError: The document has no such marks.
    """
    text = document.read_text(encoding="utf-8")
    before, begins, rest = text.partition(start)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise BenchError(f"{document} has no place for figures: {start} … {end}")
    document.write_text(f"{before}{start}\n\n{figures()}\n{end}{after}", encoding="utf-8")


def markdown(result: Mapping[str, Any]) -> str:
    """Return the tables of a result, as `figures` makes it, with `machine` and `depth`."""
    made = result["machine"]
    lines = [
        f"Measured on {made['day']}: {made['processor']}, {made['system']}, Python {made['python']}; "
        f"{_runs(result)}. Versions: {_versions(result)}.",
        "",
    ]
    if result["depth"] != "full":
        lines += [f"**Preliminary: a {result['depth']} run.**", ""]
    lines += [line for warning in result["warnings"] for line in (f"**{warning}**", "")]
    for title, table in tables(result).items():
        lines += [title, "", *drawn(table), ""]
    lines += [line for name, why in result["skipped"].items() for line in (f"Left out: {name}, {why}.", "")]
    for name, failures in result["failures"].items():
        lines += [line for what, why in failures.items() for line in (f"Failed: {name}, {what}: {why}", "")]
    return "\n".join(lines)


def tables(result: Mapping[str, Any]) -> dict[str, Table]:
    """Return all tables by their title; the first row of each has its columns' names."""
    return {
        f"**Throughput** at {result['connections']} connections; the upstream answers at once": _throughput(
            result
        ),
        "**Added latency** in ms (p50 / p95 / p99), the upstream's own taken off": _latencies(result),
        "**Streams, memory, start**": _rest(result),
        "**Goals**": _goals(result),
    }


def _runs(result: Mapping[str, Any]) -> str:
    rounds = result["rounds"]
    return f"{rounds} round{'s' if rounds > 1 else ''} of {result['seconds']:g} s each"


def _versions(result: Mapping[str, Any]) -> str:
    others = {one["title"]: one["version"] for name, one in result["targets"].items() if "floor" not in name}
    return ", ".join(f"{title} {version}" for title, version in others.items())


def _throughput(result: Mapping[str, Any]) -> Table:
    rows = [["", "requests/s", "smallfirst is", "CPU-ms a request", "p50 ms", "p99 ms"]]
    for name, one in result["targets"].items():
        found, ratio = one["throughput"], result["ratios"].get(name)
        times = "" if ratio is None else _times(ratio, result["rounds"])
        rows.append(
            [
                one["title"],
                _number(found["per_second"], 0),
                times,
                _number(found["cpu_ms"], 3),
                _number(found["p50_ms"], 1),
                _number(found["p99_ms"], 1),
            ]
        )
    rows.append(["no gateway", _number(result["direct"]["per_second"], 0), "", "", "", ""])
    return rows


def _latencies(result: Mapping[str, Any]) -> Table:
    rows = [
        [
            "",
            "1 connection",
            "a quarter of its capacity",
            "at requests/s",
            f"upstream takes 50 ms, {result['connections']} connections",
        ]
    ]
    for one in result["targets"].values():
        rate = _number(one["paced"]["per_second"], 0)
        rows.append(
            [one["title"], _spread(one["single"]), _spread(one["paced"]), rate, _spread(one["waiting"])]
        )
    return rows


def _rest(result: Mapping[str, Any]) -> Table:
    targets = result["targets"].values()
    after = next(iter(targets))["memory"]["after"] if targets else (0, 0)
    rows = [
        [
            "",
            "first chunk, ms over the floor",
            f"chunks/s, {result['connections']} streams",
            f"MB after {after[0]:,} requests",
            f"MB after {after[1]:,}",
            "ready after s",
        ]
    ]
    for one in targets:
        stream, memory = one["stream"], one["memory"]["mb"]
        rows.append(
            [
                one["title"],
                _number(stream["first_over_floor_ms"], 2),
                _number(stream["chunks_per_second"], 0),
                _number(memory[0], 0),
                _number(memory[1], 0),
                _number(one["start_s"], 2),
            ]
        )
    return rows


def _goals(result: Mapping[str, Any]) -> Table:
    rows = [["", "goal", "here", "held"]]
    for one in result["goals"].values():
        bound = f"{'≥' if one['at_least'] else '≤'} {one['goal']:g}"
        held = {True: "yes", False: "no", None: "not measured"}[one["held"]]
        rows.append([one["what"], bound, _number(one["reached"], 2), held])
    return rows


def _times(ratio: Mapping[str, float], rounds: int) -> str:
    spread = f" ({ratio['low']:.2f} to {ratio['high']:.2f})" if rounds > 1 else ""
    return f"{ratio['throughput']:.2f} ×{spread}"


def _spread(found: Mapping[str, float | None]) -> str:
    return " / ".join(_number(found[f"added_{name}_ms"], 2) for name in ("p50", "p95", "p99"))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def drawn(table: Table) -> list[str]:
    """Return the lines of a table; its first row has the columns' names."""
    head, *rows = (f"| {' | '.join(row)} |" for row in table)
    return [head, "|---" * len(table[0]) + "|", *rows]
