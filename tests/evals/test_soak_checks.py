"""Every way in which the books of a soak may differ is noticed; each test spoils one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from smallfirst.evals.bench.soak_checks import MOMENT, Books, Rules, audit
from smallfirst.evals.bench.soak_clients import Plan, SeenLine, asks
from smallfirst.evals.bench.soak_faults import CALM, CHANCES, draw
from smallfirst.evals.bench.soak_upstream import CallLine
from smallfirst.router.ledger import Entry, Ledger
from smallfirst.router.ledger.entry import AttemptRecord
from smallfirst.router.settings import LedgerSettings

ID = "soak-000000002"
RULES = Rules(prices={"a": (1.0, 2.0), "b": (3.0, 4.0)}, bound=10, limited=5, rest=5, failures=3)
AuditOf = Callable[..., Books]


def seen(**fields: Any) -> SeenLine:
    given = {
        "kind": "plain",
        "at": 100.0,
        "seconds": 0.1,
        "status": 200,
        "whole": True,
        "request_id": "req_1",
    }
    return SeenLine(**{"identity": ID, **given, **fields})


def call(**fields: Any) -> CallLine:
    given = {"model": "a", "at": 100.0, "whole": True, "held": True, "input_tokens": 10, "output_tokens": 20}
    return CallLine(**{"identity": ID, "ended": 100.05, **given, **fields})


def closed(at: float, **fields: Any) -> CallLine:
    """The port of a model was closed."""
    return CallLine(**{"model": "a", "at": at, "until": at + 0.5, "fault": "down", **fields})


def failing(fault: str, **fields: Any) -> CallLine:
    return call(fault=fault, whole=False, held=False, **fields)


def attempt(**fields: Any) -> AttemptRecord:
    given = {"model": "a", "tier": "cloud", "outcome": "ok", "retries": 0, "duration_ms": 50.0}
    used = {"input_tokens": 10, "output_tokens": 20, "cost_usd": 50 / 1e6}
    return AttemptRecord(**{**given, **used, **fields})


def failed(code: str, **fields: Any) -> AttemptRecord:
    return attempt(outcome="error", error_code=code, input_tokens=0, output_tokens=0, cost_usd=0.0, **fields)


def entry(*attempts: AttemptRecord, **fields: Any) -> Entry:
    made = attempts or (attempt(),)
    cost = sum(one.cost_usd or 0.0 for one in made)
    given = {
        "request_id": "req_1",
        "started_at": 100.0,
        "duration_ms": 100.0,
        "session": ID,
        "cost_usd": cost,
    }
    return Entry(**{**given, "attempts": made, **fields})


def error(*attempts: AttemptRecord, code: str = "injected", status: int = 500) -> Entry:
    return entry(*attempts, status="error", error_code=code, http_status=status)


def got(code: str, status: int = 500, **fields: Any) -> SeenLine:
    return seen(status=status, code=code, whole=False, request_id=None, **fields)


@pytest.fixture
def audit_of(tmp_path: Path) -> AuditOf:
    """Holds given lines against given entries."""

    def held(lines: list[SeenLine], calls: list[CallLine], *entries: Entry) -> Books:
        for name, rows in (("seen", lines), ("calls", calls)):
            (tmp_path / name).write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        ledger = Ledger(LedgerSettings(path=tmp_path / "ledger.db"))
        ledger.start()
        for one in entries:
            ledger.record(one)
        ledger.close()
        return audit(
            tmp_path / "seen", tmp_path / "calls", tmp_path / "ledger.db", tmp_path / "joined", RULES
        )

    return held


# --- what is right ------------------------------------------------------------------------------------------------


def test_an_answer_that_all_three_have_is_right(audit_of: AuditOf) -> None:
    books = audit_of([seen()], [call()], entry())
    assert (books.told, books.answered, books.compared) == ([], 1, 1)
    assert books.booked_usd == books.used_usd == 50 / 1e6


def test_a_failure_that_another_model_made_good_counts_as_recovered(audit_of: AuditOf) -> None:
    calls = [failing("error"), call(model="b")]
    second = attempt(model="b", cost_usd=110 / 1e6)
    books = audit_of([seen()], calls, entry(failed("injected"), second))
    assert (books.told, books.hit, books.recovered, books.errors) == ([], 1, 1, 0)


def test_an_error_is_explained_by_a_fault_for_each_try(audit_of: AuditOf) -> None:
    books = audit_of([got("injected")], [failing("error")] * 2, error(failed("injected", retries=1)))
    assert (books.told, books.hit, books.recovered, books.errors) == ([], 1, 0, 1)


def test_an_error_is_explained_by_a_port_that_was_closed(audit_of: AuditOf) -> None:
    down = CallLine(model="a", at=99.0, until=100.05, fault="down")
    code = "upstream_unreachable"
    books = audit_of([got(code, 503)], [down], error(failed(code, retries=2), code=code, status=503))
    assert (books.told, books.downs) == ([], 1)


AFTER = 100.05 + MOMENT / 2
BROKEN = error(failed("stream_broken"), code="stream_broken", status=200)


def test_an_answer_may_be_lost_to_a_port_that_was_closed_right_after_it(audit_of: AuditOf) -> None:
    books = audit_of([got("stream_broken", 200)], [call(), closed(AFTER)], BROKEN)
    assert (books.told, books.torn, books.errors, books.hit) == ([], 1, 1, 1)


def test_an_answer_that_was_lost_so_may_be_made_good_by_another_model(audit_of: AuditOf) -> None:
    second = attempt(model="b", cost_usd=110 / 1e6)
    calls = [call(), closed(AFTER), call(model="b")]
    books = audit_of([seen()], calls, entry(failed("upstream_unreachable"), second))
    assert (books.told, books.torn, books.recovered, books.compared) == ([], 1, 1, 1)


def test_an_answer_that_was_lost_so_may_be_given_again_by_the_same_model(audit_of: AuditOf) -> None:
    again = call(at=101.0, ended=101.0, output_tokens=30)
    used = attempt(retries=1, output_tokens=30, cost_usd=70 / 1e6)
    books = audit_of([seen()], [call(), closed(AFTER), again], entry(used))
    assert (books.told, books.torn, books.compared) == ([], 1, 1)


def test_an_answer_right_before_a_port_was_closed_may_have_arrived_too(audit_of: AuditOf) -> None:
    books = audit_of([seen()], [call(), closed(AFTER)], entry())
    assert (books.told, books.torn, books.answered, books.compared) == ([], 0, 1, 1)


def test_a_refusal_is_explained_by_failures_shortly_before(audit_of: AuditOf) -> None:
    before = [failing("error", identity=f"soak-{n}", model=m, at=98.0) for n in range(3) for m in ("a", "b")]
    code = "no_model_available"
    made = error(code=code, status=503)
    books = audit_of([got(code, 503)], before, msgspec.structs.replace(made, attempts=(), cost_usd=0.0))
    assert (books.told, books.resting) == ([], 1)


def test_who_left_may_find_anything(audit_of: AuditOf) -> None:
    lines = [
        seen(left=True, whole=False, status=0),
        seen(identity="soak-000000004", left=True, status=0, whole=False),
    ]
    cancelled = entry(attempt(outcome="cancelled", estimated=True), status="cancelled", http_status=499)
    books = audit_of(lines, [call(held=False)], cancelled)
    assert (books.told, books.left, books.left_early, books.estimated) == ([], 1, 1, 1)


def test_a_wrong_request_is_refused_and_costs_nothing(audit_of: AuditOf) -> None:
    books = audit_of([got("invalid_json", 400, kind="invalid")], [])
    assert (books.told, books.invalid) == ([], 1)


def test_a_request_that_was_shed_has_no_entry(audit_of: AuditOf) -> None:
    assert audit_of([got("overloaded", 503)], []).shed == 1


# --- what is wrong ------------------------------------------------------------------------------------------------


def defects(books: Books) -> dict[str, int]:
    return dict(books.defects)


def test_a_lost_entry_is_noticed(audit_of: AuditOf) -> None:
    assert defects(audit_of([seen()], [call()])) == {"lost": 1}


def test_a_second_entry_is_noticed(audit_of: AuditOf) -> None:
    books = audit_of([seen()], [call()], entry(), entry(request_id="req_2"))
    assert defects(books) == {"double": 1}


def test_an_entry_that_says_something_else_is_noticed(audit_of: AuditOf) -> None:
    books = audit_of([got("injected")], [failing("error")], entry(failed("injected")))
    assert defects(books) == {"outcome": 1}


def test_an_entry_of_another_request_is_noticed(audit_of: AuditOf) -> None:
    assert defects(audit_of([seen(request_id="req_7")], [call()], entry())) == {"outcome": 1}


def test_an_error_without_a_fault_is_noticed(audit_of: AuditOf) -> None:
    books = audit_of([got("timeout", 504)], [], error(failed("timeout"), code="timeout", status=504))
    assert defects(books) == {"unexplained": 1}


def test_an_error_although_the_model_answered_is_noticed(audit_of: AuditOf) -> None:
    made = error(failed("timeout"), code="timeout", status=504)
    books = audit_of([got("timeout", 504)], [failing("error"), call()], made)
    assert defects(books)["unexplained"] == 1


@pytest.mark.parametrize(
    "down",
    [closed(100.0), closed(100.06 + MOMENT), closed(AFTER, model="b")],
    ids=["before it", "a while after it", "of another model"],
)
def test_an_answer_is_not_lost_to_a_port_that_was_closed_otherwise(audit_of: AuditOf, down: CallLine) -> None:
    books = audit_of([got("stream_broken", 200)], [call(), down], BROKEN)
    assert defects(books) == {"unexplained": 1, "money": 1}
    assert books.torn == 0


def test_an_answer_before_a_port_was_closed_is_not_lost_by_a_timeout(audit_of: AuditOf) -> None:
    made = error(failed("timeout"), code="timeout", status=504)
    books = audit_of([got("timeout", 504)], [call(), closed(AFTER)], made)
    assert defects(books) == {"unexplained": 1, "money": 1}


def test_an_answer_right_before_a_port_was_closed_is_booked_as_it_was_told(audit_of: AuditOf) -> None:
    books = audit_of([seen()], [call(output_tokens=21), closed(AFTER)], entry())
    assert defects(books) == {"money": 1}


def test_two_answers_where_the_model_was_not_asked_again_are_noticed(audit_of: AuditOf) -> None:
    calls = [call(), closed(AFTER), call(at=101.0, ended=101.0)]
    assert defects(audit_of([seen()], calls, entry())) == {"money": 1}


def test_a_refusal_without_failures_before_it_is_noticed(audit_of: AuditOf) -> None:
    made = error(failed("model_resting"), code="model_resting", status=503)
    assert defects(audit_of([got("model_resting", 503)], [], made)) == {"unexplained": 1}


def test_a_count_that_is_not_the_upstreams_is_noticed(audit_of: AuditOf) -> None:
    assert defects(audit_of([seen()], [call(output_tokens=21)], entry())) == {"money": 1}


def test_a_price_that_does_not_follow_from_the_counts_is_noticed(audit_of: AuditOf) -> None:
    assert defects(audit_of([seen()], [call()], entry(attempt(cost_usd=51 / 1e6)))) == {"money": 1}


def test_an_answer_that_is_not_booked_is_noticed(audit_of: AuditOf) -> None:
    second = attempt(model="b", cost_usd=110 / 1e6)
    assert defects(audit_of([seen()], [call(), call(model="b")], entry(second))) == {"money": 1}


def test_a_request_that_takes_longer_than_its_own_limit_is_noticed(audit_of: AuditOf) -> None:
    other = "soak-000000003"
    lines = [seen(seconds=7.0), seen(identity=other, seconds=7.0, request_id="req_2")]
    books = audit_of(lines, [call(), call(identity=other)], entry(), entry(request_id="req_2", session=other))
    assert defects(books) == {"hung": 1}


def test_the_answer_to_another_request_is_noticed(audit_of: AuditOf) -> None:
    assert defects(audit_of([seen(foreign=True)], [call()], entry())) == {"foreign": 1}


def test_a_wrong_request_that_was_served_is_noticed(audit_of: AuditOf) -> None:
    assert defects(audit_of([seen(kind="invalid")], [call()], entry()))["outcome"] > 0


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_faults_are_as_frequent_as_they_should_be_and_the_same_again() -> None:
    drawn = [draw(1, f"soak-{number}", "a", 0).fault for number in range(20_000)]
    assert drawn == [draw(1, f"soak-{number}", "a", 0).fault for number in range(20_000)]
    for fault, chance in CHANCES.items():
        assert drawn.count(fault) == pytest.approx(20_000 * chance, rel=0.5, abs=15)


def test_calm_requests_are_answered_well() -> None:
    assert {draw(1, f"{CALM}{number}", "a", 0).fault for number in range(1000)} == {None}


def test_clients_ask_in_every_way_and_the_same_again() -> None:
    plan = Plan(port=1, names=["auto"], seed=3, seconds=1, rate=10)
    first, again = asks(plan), asks(plan)
    made = [next(first) for _ in range(300)]
    assert made == [next(again) for _ in range(300)]
    assert {one.kind for one in made} == {"plain", "stream", "tools", "repeat", "leave", "invalid"}
    assert all((one.leaves is not None) == (one.kind == "leave") for one in made)
