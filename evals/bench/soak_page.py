"""What came of a soak, as a report and as Markdown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec

from .page import drawn, machine
from .soak import Soaked, checks
from .soak_faults import WORDS

START, END = "<!-- soak: made by `smallfirst bench soak --write` -->", "<!-- end of soak -->"


def report(made: Soaked) -> dict[str, Any]:
    """Return all figures; `held` says whether all checks hold."""
    first, last = made.thirds
    found = [
        {"check": words, "found": value, "limit": limit, "held": held}
        for words, value, limit, held in checks(made)
    ]
    return {
        "machine": machine(),
        "sizes": asdict(made.sizes),
        "capacity": made.capacity,
        "rate": made.rate,
        "sums": msgspec.to_builtins(made.sums),
        "books": msgspec.to_builtins(made.books),
        "memory": {"first_third": first, "last_third": last, "samples": made.memory},
        "before": asdict(made.before),
        "after": asdict(made.after),
        "stopped_in": made.stopped_in,
        "unexpected": made.unexpected[:20],
        "checks": found,
        "held": all(one["held"] for one in found),
    }


def markdown(found: dict[str, Any]) -> str:
    """Return a report as Markdown."""
    made, sizes, books = found["machine"], found["sizes"], found["books"]
    cache = sizes["cache"] if "://" not in sizes["cache"] else "Redis"
    lines = [
        f"{sizes['minutes']:g} minutes on {made['day']}: {made['processor']}, {made['system']}, "
        f"Python {made['python']}. "
        f"Capacity {found['capacity']:,.0f} requests/s, of which {sizes['share']:.0%} were sent; cache: {cache}; "
        f"local model: {'yes' if sizes['local'] else 'no'}; seed {sizes['seed']}.",
        "",
        *drawn(_requests(books)),
        "",
        *drawn([["injected", "calls"], *_injected(books)]),
        "",
        *drawn([["check", "found", "at most", ""], *_checks(found)]),
        "",
        f"Resident memory {found['memory']['first_third'] / 1e6:.0f} MB in the first third of the time, "
        f"{found['memory']['last_third'] / 1e6:.0f} MB in the last; stopped in {found['stopped_in']:.1f} s. "
        f"The slowest request took {books['slowest']:.1f} s; no request was sent more than "
        f"{found['sums']['latest']:.2f} s later than it was due.",
    ]
    told = [*books["told"], *found["unexpected"]]
    return "\n".join(
        [*lines, *(["", "What is wrong:", "", *(f"- {one}" for one in told)] if told else []), ""]
    )


def _requests(books: dict[str, Any]) -> list[list[str]]:
    rows = {
        "sent": books["requests"],
        "of these wrong on purpose": books["invalid"],
        "left midway": books["left"] + books["left_early"],
        "answered": books["answered"],
        "of these from the cache": books["cached"],
        "failed": books["errors"],
        "hit by an injected failure or by the rest after some (without those who left)": books["hit"],
        "of these recovered by a retry or another model": books["recovered"],
        "lost an answer to a port that was closed right after it": books["torn"],
        "refused while models rested": books["resting"],
        "shed": books["shed"],
        "attempts whose price was compared": books["compared"],
        "attempts that nobody counted, booked as estimates": books["estimated"],
    }
    return [["requests", ""], *([words, f"{count:,}"] for words, count in rows.items())]


def _injected(books: dict[str, Any]) -> list[list[str]]:
    rows = [[words, f"{books['injected'].get(fault, 0):,}"] for fault, words in WORDS.items()]
    return [*rows, ["times that a port was closed", f"{books['downs']:,}"]]


def _checks(found: dict[str, Any]) -> list[list[str]]:
    rows = found["checks"]
    return [
        [one["check"], f"{one['found']:.6g}", f"{one['limit']:.6g}", "" if one["held"] else "**broken**"]
        for one in rows
    ]
