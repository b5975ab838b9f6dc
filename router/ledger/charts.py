"""Charts as numbers: coordinates that the page's SVG is drawn with. Pure functions of what is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

Show = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Size:
    """How large a picture is, and its margins, in units that are pixels where it is shown at its own size."""

    name: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: int

    @property
    def end(self) -> float:
        """Where the x axis ends."""
        return self.width - self.right

    @property
    def floor(self) -> float:
        """Where the x axis is."""
        return self.height - self.bottom


# Every chart is drawn for a desk and for a phone: one that is only scaled has letters too small to read on one of them.
WIDE = Size("wide", 540, 236, 62, 12, 12, 46, 5)
NARROW = Size("narrow", 330, 236, 56, 12, 12, 46, 3)
SIZES = (WIDE, NARROW)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where it is, what it says, and on which side of the mark its text stands."""

    at: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Line:
    """One series as an SVG path, with its marks."""

    name: str
    path: str
    points: tuple[tuple[float, float], ...] = ()


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
    """All that is drawn; `between` is the area between the first two lines."""

    size: Size
    lines: tuple[Line, ...]
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    between: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """One row of a chart of percentiles: where they stand, in the order of the percentiles."""

    name: str
    y: float
    marks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spreads:
    """Percentiles by row on a logarithmic axis."""

    size: Size
    rows: tuple[Spread, ...]
    x_ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval on an axis that shows 0; `low` and `high` are None where there is no interval."""

    size: Size
    at: float
    low: float | None
    high: float | None
    zero: float
    x_ticks: tuple[Tick, ...]


def sums(times: Sequence[datetime], series: Mapping[str, Sequence[float]], show: Show, size: Size) -> Chart:
    """Return running sums over equal steps of time, a line a series. A sum stands at the end of its step."""
    starts, width = _scale(times)
    running = {name: _running(values) for name, values in series.items()}
    axis = _up_to(max((values[-1] for values in running.values()), default=0.0))
    count = len(times)
    drawn = []
    for name, values in running.items():
        points = [
            (round(size.left + (size.end - size.left) * at / count, 1), _y(value, 0, axis[-1], size))
            for at, value in enumerate(values)
        ]
        drawn.append(Line(name, _path(points), tuple(points[-1:])))
    between = ""
    if len(drawn) > 1:
        back = drawn[1].path.removeprefix("M").split("L")[::-1]
        between = f"{drawn[0].path}L{'L'.join(back)}Z"
    x_ticks = _time_ticks(starts, width * count, size)
    return Chart(size, tuple(drawn), (), x_ticks, _value_ticks(axis, show, size), between)


def bars(times: Sequence[datetime], series: Mapping[str, Sequence[int]], size: Size) -> Chart:
    """Return stacked bars, one stack a step of time."""
    starts, width = _scale(times)
    heights = [sum(values) for values in zip(*series.values(), strict=True)]
    axis = _up_to(float(max(heights, default=0)), least=1.0)
    step = (size.end - size.left) / len(times)
    drawn = []
    for at, when in enumerate(times):
        base = 0
        for name, values in series.items():
            if values[at]:
                y = _y(base + values[at], 0, axis[-1], size)
                hint = f"{when.astimezone(UTC):%d %b %H:%M}: {values[at]:,} {name}"
                left = round(size.left + at * step + step * 0.08, 1)
                height = round(_y(base, 0, axis[-1], size) - y, 1)
                drawn.append(Bar(name, left, y, round(step * 0.84, 1), height, hint))
                base += values[at]
    x_ticks = _time_ticks(starts, width * len(times), size)
    y_ticks = _value_ticks(axis, lambda value: f"{value:,.0f}", size)
    return Chart(size, (), tuple(drawn), x_ticks, y_ticks)


def means(
    times: Sequence[datetime], values: Sequence[float | None], low: float, high: float, size: Size
) -> Chart:
    """Return means over equal steps of time, in the middle of their steps, within `low` to `high`."""
    starts, width = _scale(times)
    step = (size.end - size.left) / len(times)
    points = tuple(
        (round(size.left + step * (at + 0.5), 1), _y(value, low, high, size))
        for at, value in enumerate(values)
        if value is not None
    )
    quarter = (high - low) / 4
    y_ticks = _value_ticks([low + quarter * at for at in range(5)], lambda value: f"{value:.2g}", size)
    return Chart(
        size,
        (Line("mean", _path(points), points),),
        (),
        _time_ticks(starts, width * len(times), size),
        y_ticks,
    )


def spreads(rows: Mapping[str, Sequence[float | None]], size: Size) -> Spreads | None:
    """Return percentiles (milliseconds) by row; a row that has none is left out. None without any row."""
    known = {name: [v for v in values if v is not None] for name, values in rows.items()}
    known = {name: values for name, values in known.items() if values}
    if not known:
        return None
    every = [max(value, 0.01) for values in known.values() for value in values]
    low = math.floor(math.log10(min(every)))
    high = max(math.ceil(math.log10(max(every))), low + 1)

    def x(value: float) -> float:
        share = (math.log10(max(value, 10**low)) - low) / (high - low)
        return round(size.left + (size.end - size.left) * min(share, 1.0), 1)

    row_height = 30.0
    drawn = tuple(
        Spread(name, size.top + row_height * (at + 0.5), tuple(map(x, values)))
        for at, (name, values) in enumerate(known.items())
    )
    fitting = Size(
        size.name, size.width, size.top + row_height * len(known) + size.bottom, size.left, size.right,
        size.top, size.bottom, size.x_ticks,
    )  # fmt: skip
    apart = math.ceil((high - low + 1) / (size.x_ticks + 1))
    ticks = tuple(Tick(x(10.0**power), _time(10.0**power)) for power in range(low, high + 1, apart))
    return Spreads(fitting, drawn, ticks)


def interval(value: float, low: float | None, high: float | None, show: Show, size: Size) -> Interval:
    """Return a value with its interval, on an axis from 0 or below it to beyond all of them."""
    ends = [0.0, value, *(end for end in (low, high) if end is not None)]
    step = _round_step((max(ends) - min(ends)) / (size.x_ticks - 1) or 1.0)
    first, last = math.floor(min(ends) / step + 1e-9), math.ceil(max(ends) / step - 1e-9)
    last = max(last, first + 1)
    left = size.left - 30

    def x(amount: float) -> float:
        return round(left + (size.end - left) * (amount / step - first) / (last - first), 1)

    ticks = tuple(
        Tick(x(at * step), show(at * step), "end" if at == last else "start" if at == first else "middle")
        for at in range(first, last + 1)
    )
    fitting = Size(size.name, size.width, 88, left, size.right, 0, size.bottom, size.x_ticks)
    return Interval(
        fitting, x(value), None if low is None else x(low), None if high is None else x(high), x(0.0), ticks
    )


def _scale(times: Sequence[datetime]) -> tuple[datetime, timedelta]:
    """Return where time begins, and how long a step is.

    Raises:
        ValueError: There is no step.
    """
    if not times:
        raise ValueError("a chart over time needs a step")
    return times[0], times[1] - times[0] if len(times) > 1 else timedelta(minutes=1)


def _running(values: Sequence[float]) -> list[float]:
    total = 0.0
    return [0.0, *(total := total + value for value in values)]


def _y(value: float, low: float, high: float, size: Size) -> float:
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return round(size.floor - (size.floor - size.top) * share, 1)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points) if points else ""


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def _up_to(most: float, *, least: float = 0.0) -> list[float]:
    """Return round values from 0 to no less than `most`; their distance is `least` or more."""
    step = max(_round_step(most / 4), least) if most > 0 else least or 1.0
    return [step * at for at in range(max(math.ceil(most / step - 1e-9), 1) + 1)]


def _value_ticks(values: Sequence[float], show: Show, size: Size) -> tuple[Tick, ...]:
    return tuple(Tick(_y(value, values[0], values[-1], size), show(value)) for value in values)


_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_TIME_STEPS = (
    _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR,
    12 * _HOUR, _DAY, 2 * _DAY, 4 * _DAY, 7 * _DAY, 14 * _DAY, 28 * _DAY, 56 * _DAY, 91 * _DAY, 182 * _DAY,
)  # fmt: skip


def _time_ticks(start: datetime, span: timedelta, size: Size) -> tuple[Tick, ...]:
    """Return round times (UTC), as many as there is room for."""
    begin, seconds = start.timestamp(), span.total_seconds()
    years = 365 * _DAY * math.ceil(seconds / size.x_ticks / (365 * _DAY))
    step = next((step for step in _TIME_STEPS if seconds / step <= size.x_ticks), years)
    form = (
        "%b %Y"
        if step >= 91 * _DAY
        else "%d %b"
        if step >= _DAY
        else "%H:%M"
        if seconds <= _DAY
        else "%d %b %H:%M"
    )
    ticks = []
    for at in range(math.ceil(begin / step), math.floor((begin + seconds) / step) + 1):
        share = (at * step - begin) / seconds
        # At an edge a text would be cut off.
        anchor = "start" if share < 0.05 else "end" if share > 0.95 else "middle"
        x = round(size.left + (size.end - size.left) * share, 1)
        ticks.append(Tick(x, datetime.fromtimestamp(at * step, UTC).strftime(form), anchor))
    return tuple(ticks)


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1000:g} s" if milliseconds >= 1000 else f"{milliseconds:g} ms"
