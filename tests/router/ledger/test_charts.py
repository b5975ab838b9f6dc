"""Charts as numbers: what is drawn is what was counted."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from smallfirst.router.ledger.charts import (
    NARROW,
    SIZES,
    WIDE,
    Size,
    bars,
    interval,
    means,
    spreads,
    sums,
)

START = datetime(2026, 5, 1, tzinfo=UTC)
HOURS = [START + timedelta(hours=at) for at in range(24)]


def value_of(y: float, top: float, size: Size) -> float:
    return (size.floor - y) / (size.floor - size.top) * top


def test_a_running_sum_begins_at_nothing_and_ends_at_the_whole() -> None:
    chart = sums(HOURS, {"paid": [1.0] * 24, "all": [2.0] * 24}, str, WIDE)
    paid, everything = chart.lines
    assert paid.path.startswith(f"M{WIDE.left:g},{WIDE.floor:g}L")
    assert paid.points[0][0] == everything.points[0][0] == WIDE.end
    assert value_of(paid.points[0][1], 60, WIDE) == pytest.approx(24, abs=0.2)
    assert value_of(everything.points[0][1], 60, WIDE) == pytest.approx(48, abs=0.2)
    assert chart.between.endswith("Z")
    assert [tick.text for tick in chart.y_ticks] == ["0.0", "20.0", "40.0", "60.0"]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_stacked_bars_are_as_high_as_their_counts_and_stay_in_the_picture(size: Size) -> None:
    chart = bars(HOURS, {"local": list(range(24)), "cloud": [0, 5] * 12}, size)
    assert [tick.text for tick in chart.y_ticks] == ["0", "10", "20", "30"]
    scale = (size.floor - size.top) / 30
    for bar in chart.bars:
        assert bar.height == pytest.approx(int(bar.hint.split(": ")[1].split()[0]) * scale, abs=0.15)
        assert size.left <= bar.x
        assert bar.x + bar.width <= size.end
        assert size.top <= bar.y < bar.y + bar.height <= size.floor + 0.1
    assert sum(bar.name == "cloud" for bar in chart.bars) == 12


@pytest.mark.parametrize(
    "span", [timedelta(minutes=1), timedelta(hours=3), timedelta(days=9), timedelta(days=900)]
)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_there_are_a_few_round_times_on_an_axis(span: timedelta, size: Size) -> None:
    times = [START + timedelta(minutes=7) + span * at for at in range(48)]
    ticks = sums(times, {"paid": [0.0] * 48}, str, size).x_ticks
    assert 1 <= len(ticks) <= size.x_ticks + 1
    assert len({tick.text for tick in ticks}) == len(ticks)
    assert all(size.left <= tick.at <= size.end for tick in ticks)


def test_one_step_and_no_money_can_be_drawn() -> None:
    chart = sums([START], {"paid": [0.0], "all": [0.0]}, str, NARROW)
    assert all("nan" not in line.path for line in chart.lines)
    assert bars([START], {"local": [0]}, NARROW).bars == ()


def test_steps_without_a_value_have_no_mark() -> None:
    chart = means(HOURS, [0.5, None, 1.0, *[None] * 21], 0.0, 1.0, WIDE)
    assert [y for _, y in chart.lines[0].points] == [(WIDE.top + WIDE.floor) / 2, WIDE.top]


def test_percentiles_stand_on_a_logarithmic_axis() -> None:
    chart = spreads({"local": (10.0, 100.0, 1000.0), "cloud": (None, None, None)}, WIDE)
    assert chart is not None
    assert [row.name for row in chart.rows] == ["local"]
    low, middle, high = chart.rows[0].marks
    assert middle - low == pytest.approx(high - middle, abs=0.2)
    assert [tick.text for tick in chart.x_ticks] == ["10 ms", "100 ms", "1 s"]
    assert spreads({"none": (None, None, None)}, WIDE) is None


@pytest.mark.parametrize(("value", "low", "high"), [(68.0, 60.0, 70.0), (-3.0, -5.0, 1.0), (0.0, None, None)])
def test_an_interval_is_on_one_axis_with_zero(value: float, low: float | None, high: float | None) -> None:
    chart = interval(value, low, high, lambda amount: f"{amount:g}", WIDE)
    drawn = [(chart.zero, 0.0), (chart.at, value)]
    drawn += [
        (at, end) for at, end in ((chart.low, low), (chart.high, high)) if at is not None and end is not None
    ]
    assert [at for at, _ in sorted(drawn)] == [
        at for at, _ in sorted(drawn, key=lambda pair: (pair[1], pair[0]))
    ]
    assert all(chart.size.left <= at <= chart.size.end for at, _ in drawn)
    assert any(math.isclose(tick.at, chart.zero) for tick in chart.x_ticks)
