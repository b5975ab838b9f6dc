"""One self-contained HTML page of a report: the cost-quality picture, the reliability diagram and the tables.

What is shown is the `page` of a report, a plain dict, so that every eval can have one:

    {"title": str, "x": str, "y": str (default "quality"), "heading": str (default "Cost and quality"),
     "frontiers": [{"name": str, "points": [[x, quality], ...]}],
     "marks": [{"name": str, "x": float, "y": float, "y_95": [low, high] | None}],
     "reliability": [{"name": str, "bins": [[predicted, actual, n], ...]}],
     "tables": [{"title": str, "columns": [...], "rows": [[...], ...]}]}

The page asks nothing of a network and runs no script. What a picture shows is also there as a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smallfirst.router.pages import render_page

WIDTH, HEIGHT = 460.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 60.0, 14.0, 12.0, 48.0
# How many hues and shapes there are before they repeat; shape and hue repeat at different paces.
HUES, SHAPES = 8, 5
KEYS = ("frontiers", "marks", "reliability", "tables")


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values of one axis to the picture.

    Attributes:
        low: Value at the axis's start.
        high: At its end.
        start: Where the axis starts in the picture.
        end: Where it ends.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value is."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + (self.end - self.start) * share, 1)

    def ticks(self, show: Callable[[float], str]) -> list[tuple[float, str]]:
        """Return some five round values, where they are and what they say."""
        step = _round_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self(at * step), show(at * step)) for at in range(first, last + 1)]


def render(page: Mapping[str, Any]) -> str:
    """Return the page of a report's `page`; missing lists are empty.

    Raises:
        KeyError, TypeError, ValueError: It is not in the form above.
    """
    parts = {key: page.get(key) or [] for key in KEYS}
    tables = [{**table, "left": _words(table["columns"], table["rows"])} for table in parts["tables"]]
    return render_page(
        "smallfirst.evals",
        "page.html",
        {"cell": _cell, "number": _number},
        title=page["title"],
        x=page.get("x", ""),
        y=page.get("y", "quality"),
        heading=page.get("heading", "Cost and quality"),
        picture=_picture(page.get("x", ""), parts["frontiers"], parts["marks"]),
        reliability=_reliability(parts["reliability"]),
        tables=tables,
        width=WIDTH,
        height=HEIGHT,
        edges={"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM},
    )


def _picture(
    x: str, frontiers: Sequence[Mapping[str, Any]], marks: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    points = [point for line in frontiers for point in line["points"]]
    ends = [end for mark in marks for end in (mark.get("y_95") or (mark["y"],))]
    values = [y for _, y in points] + [mark["y"] for mark in marks] + ends
    if not values:
        return None
    across, up = _across(x, [at for at, _ in points] + [mark["x"] for mark in marks]), _up(values)
    return {
        "x_ticks": across.ticks(_short),
        "y_ticks": up.ticks(_short),
        "lines": [
            {
                "name": line["name"],
                "hue": at % HUES,
                "path": " ".join(
                    f"{'L' if number else 'M'}{across(x)},{up(y)}"
                    for number, (x, y) in enumerate(_thinned(line["points"], 400))
                ),
                "rows": _thinned(line["points"]),
            }
            for at, line in enumerate(frontiers)
        ],
        "marks": [
            {
                **mark,
                "y_95": mark.get("y_95"),
                "hue": (at + len(frontiers)) % HUES,
                "shape": _shape(at, across(mark["x"]), up(mark["y"])),
                "key": _shape(at, 14.0, 8.0),
                "at": across(mark["x"]),
                "span": [up(end) for end in mark["y_95"]] if mark.get("y_95") else None,
            }
            for at, mark in enumerate(marks)
        ],
    }


def _thinned(points: Sequence[Sequence[float]], most: int = 21) -> Sequence[Sequence[float]]:
    """Return some of a line's points for its table, the ends among them: a frontier may have thousands."""
    if len(points) <= most:
        return points
    return [points[round(at * (len(points) - 1) / (most - 1))] for at in range(most)]


def _across(x: str, values: Sequence[float]) -> Scale:
    """A share's axis is whole; one of money starts at nothing."""
    high = 1.0 if x.startswith("share") else max(values) * 1.05
    return Scale(min(0.0, *values), high if high > 0 else 1.0, LEFT, WIDTH - RIGHT)


def _up(values: Sequence[float]) -> Scale:
    low, high = min(values), max(values)
    room = max(0.04 * (high - low), 0.005)
    # Quality is a share as a rule: its axis leaves 0..1 only where values do.
    low = low - room if low < 0 else max(0.0, low - room)
    high = high + room if high > 1 else min(1.0, high + room)
    return Scale(low, high, HEIGHT - BOTTOM, TOP)


def _shape(at: int, x: float, y: float, size: float = 5.5) -> str:
    """Return one of five shapes as a path, so that marks differ without colour as well."""
    s = size
    ways = {
        0: f"M{x - s},{y}a{s},{s} 0 1,0 {2 * s},0a{s},{s} 0 1,0 {-2 * s},0z",
        1: f"M{x - s},{y - s}h{2 * s}v{2 * s}h{-2 * s}z",
        2: f"M{x},{y - s * 1.2}l{s * 1.2},{s * 2.1}h{-s * 2.4}z",
        3: f"M{x},{y - s * 1.4}l{s * 1.4},{s * 1.4}l{-s * 1.4},{s * 1.4}l{-s * 1.4},{-s * 1.4}z",
        4: f"M{x},{y + s * 1.2}l{s * 1.2},{-s * 2.1}h{-s * 2.4}z",
    }
    return ways[at % SHAPES]


def _reliability(series: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    filled = [{**one, "bins": [found for found in one["bins"] if found[2]]} for one in series]
    if not any(one["bins"] for one in filled):
        return None
    across, up = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT), Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    most = max(n for one in filled for *_, n in one["bins"])
    return {
        "x_ticks": across.ticks(_short),
        "y_ticks": up.ticks(_short),
        "series": [
            {
                "name": one["name"],
                "hue": at % HUES,
                "bins": one["bins"],
                "key": _shape(at, 14.0, 8.0, 4.5),
                "path": " ".join(
                    f"{'L' if number else 'M'}{across(p)},{up(actual)}"
                    for number, (p, actual, _) in enumerate(one["bins"])
                ),
                # The area of a point says how many rows it stands for.
                "points": [
                    (_shape(at, across(p), up(actual), 2.5 + 5 * math.sqrt(n / most)), p, actual, n)
                    for p, actual, n in one["bins"]
                ],
            }
            for at, one in enumerate(filled)
        ],
    }


def _words(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[bool]:
    """Return of each column whether it holds words, which stand on the left; numbers stand on the right."""
    return [
        at == 0
        or any(
            isinstance(row[at], str) and row[at].strip()[:1].isalpha() and len(row[at]) > 12 for row in rows
        )
        for at in range(len(columns))
    ]


def _round_step(step: float) -> float:
    """Return the next larger of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step * (1 - 1e-9))


def _short(value: float) -> str:
    return f"{round(value, 10):,.6g}"


def _number(value: float) -> str:
    return f"{value:,.4g}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return _number(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
