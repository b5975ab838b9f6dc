"""Reports add up, and show what they are given as text."""

import csv
import io
import json
import math
import random
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smallfirst.router.errors import LedgerError
from smallfirst.router.ledger import AttemptRecord, Entry, Ledger, store_at
from smallfirst.router.ledger.page import html
from smallfirst.router.ledger.render import table, to_csv
from smallfirst.router.ledger.report import Report, make_report, parse_time
from smallfirst.router.ledger.schema import SQLITE_MIGRATIONS
from smallfirst.router.settings import LedgerSettings

NOW = datetime(2026, 5, 2, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"


def write(path: Path, entries: list[Entry]) -> None:
    ledger = Ledger(LedgerSettings(path=path))
    for entry in entries:
        ledger.record(entry)
    ledger.close()


def make(path: Path, **fields: Any) -> Report:
    return make_report(
        store_at(path), **{"since": None, "until": None, "by": ("model", "route"), "prices": "p 1", **fields}
    )


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    rng = random.Random(1)
    made = []
    for at in range(1000):
        route = rng.choice(["local", "cloud", "cache", "none"])
        cost = None if rng.random() < 0.05 else 0.0 if route in ("local", "cache") else rng.random() / 100
        attempt = AttemptRecord("m", "cloud", "ok", 0, 1.0, 1, 1, cost)
        made.append(
            Entry(
                request_id=f"r{at}",
                started_at=(NOW - timedelta(hours=rng.random() * 72)).timestamp(),
                duration_ms=rng.random() * 1000,
                agent=rng.choice(["triage", "=1+1", HOSTILE, "[bold]x"]),
                tags=tuple(rng.sample(["a", "b", "c"], rng.randint(0, 3))),
                policy="balanced",
                route=route,  # type: ignore[arg-type]
                model=None if route == "none" else rng.choice(["small", "big"]),
                input_tokens=rng.randint(1, 1000),
                output_tokens=rng.randint(1, 100),
                cost_usd=cost,
                baseline_cost_usd=None if route == "none" else rng.random() / 50,
                attempts=(attempt,) * rng.choice([1, 1, 1, 2]),
                status="error" if route == "none" else "ok",
            )
        )
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]) -> Path:
    file = tmp_path_factory.mktemp("report") / "ledger.db"
    write(file, entries)
    return file


def test_totals_equal_an_independent_sum(path: Path, entries: list[Entry]) -> None:
    total = make(path).total
    known = [e for e in entries if e.cost_usd is not None and e.baseline_cost_usd is not None]
    assert total.requests == 1000
    assert total.cost_usd == pytest.approx(math.fsum(e.cost_usd or 0 for e in entries), abs=1e-9)
    assert total.unknown_cost == sum(e.cost_usd is None for e in entries)
    assert total.saved_usd == pytest.approx(math.fsum(e.saved_usd or 0 for e in known), abs=1e-9)
    assert total.baseline_usd == pytest.approx(math.fsum(e.baseline_cost_usd or 0 for e in known), abs=1e-9)
    assert total.input_tokens == sum(e.input_tokens for e in entries)
    assert total.errors == sum(e.status == "error" for e in entries)
    assert total.cache_hits == sum(e.route == "cache" for e in entries)
    assert total.fallbacks == sum(e.status == "ok" and len(e.attempts) > 1 for e in entries)
    answered = [e.route for e in entries if e.route in ("local", "cloud")]
    assert total.local_share == pytest.approx(answered.count("local") / len(answered))


@pytest.mark.parametrize("by", [("model",), ("route", "agent"), ("day",), ("policy", "tenant", "task")])
def test_groups_add_up_to_the_total(path: Path, by: tuple[str, ...]) -> None:
    report = make(path, by=by)
    assert sum(row.requests for row in report.rows) == report.total.requests
    assert math.fsum(row.saved_usd for row in report.rows) == pytest.approx(report.total.saved_usd, abs=1e-9)
    assert len({tuple(row.key.values()) for row in report.rows}) == len(report.rows)


def test_a_request_counts_in_each_of_its_tags(path: Path, entries: list[Entry]) -> None:
    found = {row.key["tag"]: row.requests for row in make(path, by=("tag",)).rows}
    assert found["a"] == sum("a" in e.tags for e in entries)
    assert found["-"] == sum(not e.tags for e in entries)


def test_time_bounds_are_kept(path: Path, entries: list[Entry]) -> None:
    since, until = NOW - timedelta(hours=24), NOW - timedelta(hours=12)
    expected = sum(since.timestamp() <= e.started_at < until.timestamp() for e in entries)
    assert make(path, since=since, until=until).total.requests == expected


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01T10:00:00+02:00", datetime(2026, 5, 1, 8, tzinfo=UTC)),
    ],
)
def test_times_are_read(text: str, when: datetime) -> None:
    assert parse_time(text, NOW) == when


@pytest.mark.parametrize("text", ["yesterday", "7y", "99999999999d", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"calendar|isoformat"):
        parse_time(text, NOW)


def test_the_page_needs_no_network_and_shows_labels_as_text(path: Path) -> None:
    page = html(make(path, by=("agent", "tag")))
    assert "<svg" in page
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert re.findall(r"src=|href=\"(?!#|data:,)|url\((?!#)|@import|<script|https?://", page) == []


def test_an_empty_time_says_so(path: Path) -> None:
    report = make(path, since=NOW + timedelta(days=1))
    assert "No requests were recorded" in html(report)
    assert "total" in table(report)
    assert report.to_json()["total"]["local_share"] is None


def test_the_table_shows_labels_as_they_are(path: Path) -> None:
    shown = table(make(path, by=("agent",)))
    assert "[bold]x" in shown
    assert HOSTILE in shown


def test_csv_runs_nothing_in_a_spreadsheet(path: Path) -> None:
    found = list(csv.DictReader(io.StringIO(to_csv(make(path, by=("agent",))))))
    assert {row["agent"] for row in found} == {"triage", "'=1+1", HOSTILE, "[bold]x"}
    assert sum(int(row["requests"]) for row in found) == 1000


def test_json_is_json(path: Path) -> None:
    assert json.loads(json.dumps(make(path).to_json()))["by"] == ["model", "route"]


def test_no_ledger_and_a_broken_one_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="nothing is recorded yet"):
        make(tmp_path / "none.db")
    (tmp_path / "bad.db").write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerError, match="cannot be read"):
        make(tmp_path / "bad.db")


def shadowed(path: Path) -> Report:
    """A local answer that saved 3 cents, and what comparing it cost: 2 cents."""
    usual: dict[str, Any] = {
        "started_at": NOW.timestamp(),
        "duration_ms": 5.0,
        "tags": ("t",),
        "input_tokens": 10,
    }
    answer = Entry(
        request_id="r1", route="local", model="small", cost_usd=0.0, baseline_cost_usd=0.03, **usual
    )
    comparison = Entry(
        request_id="shadow_r1",
        kind="shadow",
        route="cloud",
        model="big",
        cost_usd=0.02,
        baseline_cost_usd=0.0,
        **{**usual, "duration_ms": 900.0},
    )
    write(path, [answer, comparison])
    return make(path, by=("tag",))


def test_comparisons_with_the_baseline_cost_money_and_are_no_requests(tmp_path: Path) -> None:
    total = shadowed(tmp_path / "ledger.db").total
    assert (total.requests, total.local_share, total.latency_ms_p99) == (1, 1.0, 5.0)
    assert (total.shadows, total.shadow_usd, total.cost_usd) == (1, 0.02, 0.02)
    assert total.saved_usd == pytest.approx(0.01)
    assert total.input_tokens == 20


def test_comparisons_are_billed_to_the_request_s_groups_and_said_on_the_page(tmp_path: Path) -> None:
    report = shadowed(tmp_path / "ledger.db")
    assert [(row.key, row.requests, row.cost_usd) for row in report.rows] == [({"tag": "t"}, 1, 0.02)]
    assert sum(step.local + step.cloud for step in report.steps) == 1
    assert "$0.0200 of it for 1 comparisons" in html(report)


def test_a_ledger_of_the_first_version_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SQLITE_MIGRATIONS[0])
        connection.execute("PRAGMA user_version = 1")
        names = [row[1] for row in connection.execute("PRAGMA table_info(entries)")]
        row: dict[str, Any] = dict.fromkeys(names, 0)
        row |= {"request_id": "old", "scores": "{}", "tags": "[]", "attempts": "[]"}
        row |= dict.fromkeys(("tenant", "policy", "requested_model", "reason", "reason_code"), "x")
        row |= {"route": "local", "cache": "off", "status": "ok", "model": "m", "started_at": NOW.timestamp()}
        nothing = ("agent", "step", "session", "task", "baseline_model", "error_code")
        marks = ", ".join("?" * len(row))
        connection.execute(
            f"INSERT INTO entries ({', '.join(row)}) VALUES ({marks})",  # noqa: S608
            list((row | dict.fromkeys(nothing)).values()),
        )
        connection.commit()
    assert make(path).total.requests == 1
