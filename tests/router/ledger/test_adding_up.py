"""What a report adds up: groups, tenants, what was paid for nothing, quality, times and exact money."""

import math
import random
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smallfirst.router.ledger import AttemptRecord, Entry, Ledger, Outcome, store_at
from smallfirst.router.ledger.reading import facts_of
from smallfirst.router.ledger.report import Escalation, Report, add_up, make_report
from smallfirst.router.settings import LedgerSettings

NOW = datetime(2026, 5, 2, 12, tzinfo=UTC)


def request(name: str, **fields: Any) -> Entry:
    return Entry(**{"request_id": name, "started_at": NOW.timestamp(), "duration_ms": 5.0, **fields})


def write(path: Path, entries: list[Entry]) -> None:
    ledger = Ledger(LedgerSettings(path=path))
    for entry in entries:
        ledger.record(entry)
    ledger.close()


def make(path: Path, **fields: Any) -> Report:
    asked = {"since": None, "until": None, "by": ("model", "route"), "prices": "p 1", **fields}
    return make_report(store_at(path), **asked)


def test_one_tenant_s_report_is_of_its_requests_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    write(path, [request(f"r{at}", tenant=f"t{at % 3}", cost_usd=0.01) for at in range(9)])
    report = make(path, by=("tenant",), tenant="t1")
    assert [(row.key, row.requests, row.cost_usd) for row in report.rows] == [({"tenant": "t1"}, 3, 0.03)]
    assert (report.tenant, report.total.requests, sum(step.none for step in report.steps)) == ("t1", 3, 3)


def test_groups_cross_and_empty_values_are_a_dash(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    write(
        path,
        [
            request("r1", tags=("x", "y"), key_id="k"),
            request("r2", tags=("y",), key_id="k"),
            request("r3"),
        ],
    )
    found = {tuple(row.key.items()): row.requests for row in make(path, by=("tag", "key")).rows}
    assert found == {
        (("tag", "x"), ("key", "k")): 1,
        (("tag", "y"), ("key", "k")): 2,
        (("tag", "-"), ("key", "-")): 1,
    }


def test_a_group_that_is_named_twice_is_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    write(path, [request("r1", model="m")])
    report = make(path, by=("model", "route", "model"))
    assert (report.by, [dict(row.key) for row in report.rows]) == (
        ("model", "route"),
        [{"model": "m", "route": "none"}],
    )


def test_an_empty_tag_is_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    write(path, [request("r1", tags=("",)), request("r2", tags=("", "-", "x")), request("r3")])
    assert {row.key["tag"]: row.requests for row in make(path, by=("tag",)).rows} == {"-": 3, "x": 1}


def test_a_clock_that_was_wrong_once_takes_no_memory(tmp_path: Path) -> None:
    """Labels times days are 40 million here; entries are two thousand."""
    path = tmp_path / "ledger.db"
    entries = [request(f"r{at}", tags=(f"t{at}",)) for at in range(2000)]
    write(path, [*entries, request("z", started_at=0.0)])
    tracemalloc.start()
    report = make(path, by=("day",))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(row.key["day"], row.requests) for row in report.rows] == [
        ("1970-01-01", 1),
        ("2026-05-02", 2000),
    ]
    assert most < 50 * 2**20


def test_what_was_paid_and_not_shown_is_told_apart(tmp_path: Path) -> None:
    def attempt(model: str, outcome: str, cost: float | None, **fields: Any) -> AttemptRecord:
        return AttemptRecord(model, "cloud", outcome, fields.pop("retries", 0), 1.0, 1, 1, cost, **fields)  # type: ignore[arg-type]

    path = tmp_path / "ledger.db"
    unsure = attempt("small", "discarded", 0.001, error_code="unsure")
    write(
        path,
        [
            request("r1", attempts=(unsure, attempt("big", "ok", 0.02)), cost_usd=0.021),
            request("r2", attempts=(unsure, attempt("big", "unused", 0.002)), cost_usd=0.003),
            request(
                "r3",
                attempts=(attempt("a", "error", 0.0, retries=2), attempt("b", "ok", 0.01)),
                cost_usd=0.01,
            ),
            request("r4", attempts=(attempt("b", "cancelled", 0.004),), cost_usd=0.004, status="cancelled"),
            request("r5", attempts=(attempt("b", "broken", None),), cost_usd=None, status="error"),
        ],
    )
    report = make(path)
    total = report.total
    assert [total.discarded_usd, total.abandoned_usd] == pytest.approx([0.004, 0.004])
    assert (total.escalations, total.fallbacks, total.retries) == ({"unsure": 2}, 1, 2)
    assert (total.unknown_cost, total.errors, total.cancelled) == (1, 1, 1)
    assert report.escalations == (Escalation("small", "unsure", 2),)


def test_energy_that_is_not_known_is_counted_and_not_taken_for_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    write(
        path,
        [
            request("r1", energy_wh=0.5, gco2e=0.2, cpu_seconds=1.5),
            request("r2", energy_wh=0.25, gco2e=None),
            request("r3"),
        ],
    )
    total = make(path).total
    assert (total.energy_wh, total.unknown_energy, total.gco2e, total.unknown_gco2e) == (0.75, 1, 0.2, 2)
    assert total.cpu_seconds == 1.5


def test_quality_is_of_the_requests_it_speaks_of(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(LedgerSettings(path=path))
    for at, agent in enumerate(("a", "a", "b")):
        ledger.record(request(f"r{at}", agent=agent))

    def outcome(name: str, source: str, **fields: Any) -> None:
        recorded_at = NOW.timestamp() + 9e6
        ledger.record(Outcome(request_id=name, source=source, tenant="t", recorded_at=recorded_at, **fields))  # type: ignore[arg-type]

    outcome("r0", "feedback", score=1.0)
    outcome("r1", "feedback", score=0.5)
    outcome("r0", "shadow", loss=0.25)
    outcome("r2", "shadow", loss=None)
    outcome("unknown", "feedback", score=0.0)
    ledger.close()
    report = make(path, by=("agent",))
    found = {
        row.key["agent"]: (row.feedback, row.feedback_score, row.compared, row.compared_loss)
        for row in report.rows
    }
    assert found == {"a": (2, 0.75, 1, 0.25), "b": (0, None, 0, None)}
    assert [(q.feedback, q.score, q.compared, q.loss) for q in report.quality] == [(2, 0.75, 1, 0.25)]


def test_the_dearest_agents_come_first(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    write(path, [request(f"r{at}", agent=f"a{at % 12:02}", cost_usd=float(at % 12)) for at in range(24)])
    assert [(row.key["agent"], row.cost_usd) for row in make(path).top_agents] == [
        (f"a{at:02}", 2.0 * at) for at in range(11, 1, -1)
    ]


def test_times_are_those_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    write(
        path,
        [
            *(request(f"r{at}", duration_ms=float(at), ttft_ms=at / 2) for at in range(101)),
            request("x", duration_ms=9e9, status="error"),
            request("y", duration_ms=9e9, kind="refresh"),
        ],
    )
    total = make(path).total
    assert (total.latency_ms_p50, total.latency_ms_p95, total.latency_ms_p99) == (50.0, 95.0, 99.0)
    assert (total.ttft_ms_p50, total.ttft_ms_p95) == (25.0, 47.5)


def test_money_of_many_requests_is_exact(tmp_path: Path) -> None:
    rng = random.Random(3)
    costs = [rng.choice((1e-9, 3.3e-7, 0.0123456789, 12.5)) * rng.random() for _ in range(20_000)]
    facts = facts_of([request(f"r{at}", cost_usd=cost) for at, cost in enumerate(costs)])
    total = add_up(facts, since=None, until=None, by=(), prices="").total
    assert abs(total.cost_usd - math.fsum(costs)) < 1e-10
