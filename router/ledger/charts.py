"""Charts as numbers: coordinates that the page's SVG is drawn with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 720.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 10.0, 10.0, 28.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where it is, and what it says."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """One series as an SVG path."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One rectangle, with what a reader is told about it."""

    name: str
    x: float
    y: float
    width: float
    height: float
    hint: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All that is drawn."""

    lines: tuple[Line, ...]
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def lines(
    times: Sequence[datetime], series: Mapping[str, Sequence[float]], show: Callable[[float], str]
) -> Chart:
    """Return running sums over time, a line a series."""
    sums = {name: _running(values) for name, values in series.items()}
    top = max((values[-1] for values in sums.values() if values), default=0.0) or 1.0
    drawn = []
    for name, values in sums.items():
        points = [f"{_x(at, len(times)):.1f},{_y(value, top):.1f}" for at, value in enumerate(values)]
        drawn.append(Line(name, "M" + " L".join(points) if points else ""))
    return Chart(tuple(drawn), (), _time_ticks(times), _value_ticks(top, show))


def bars(times: Sequence[datetime], series: Mapping[str, Sequence[int]]) -> Chart:
    """Return stacked bars, one stack a step of time."""
    heights = [sum(values) for values in zip(*series.values(), strict=True)]
    top = float(max(heights, default=0)) or 1.0
    step = (WIDTH - LEFT - RIGHT) / max(len(times), 1)
    drawn = []
    for at, when in enumerate(times):
        base = 0
        for name, values in series.items():
            if values[at]:
                y = _y(base + values[at], top)
                hint = f"{when:%Y-%m-%d %H:%M}: {values[at]} {name}"
                drawn.append(
                    Bar(name, LEFT + at * step + 0.5, y, max(step - 1, 0.5), _y(base, top) - y, hint)
                )
                base += values[at]
    return Chart((), tuple(drawn), _time_ticks(times), _value_ticks(top, lambda value: f"{value:,.0f}"))


def _running(values: Sequence[float]) -> list[float]:
    total = 0.0
    return [total := total + value for value in values]


def _x(at: int, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (at / (count - 1) if count > 1 else 0.5)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _time_ticks(times: Sequence[datetime]) -> tuple[Tick, ...]:
    if not times:
        return ()
    chosen = sorted({0, len(times) // 2, len(times) - 1})
    form = "%d %b" if (times[-1] - times[0]).days >= 3 else "%d %b %H:%M"
    return tuple(Tick(_x(at, len(times)), times[at].strftime(form)) for at in chosen)


def _value_ticks(top: float, show: Callable[[float], str]) -> tuple[Tick, ...]:
    return tuple(Tick(_y(top * part, top), show(top * part)) for part in (0.0, 0.5, 1.0))
