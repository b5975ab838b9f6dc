"""What holds for the ledger whichever database it is in: a file of SQLite, or a real PostgreSQL."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from smallfirst.router.errors import LedgerError
from smallfirst.router.ledger import (
    AttemptRecord,
    Entry,
    Finding,
    Ledger,
    Outcome,
    Text,
    find,
    store_at,
)
from smallfirst.router.ledger.report import make_report
from smallfirst.router.ledger.schema import COLUMNS, from_row
from smallfirst.router.privacy import redact
from smallfirst.router.settings import LedgerSettings

MakeLedger = Callable[..., Ledger]
PlaceOf = Callable[[], Path | str]


def settings_of(place: Path | str, **fields: Any) -> LedgerSettings:
    where = {"path": place} if isinstance(place, Path) else {"url": SecretStr(place)}
    return LedgerSettings(**{"flush_interval": 1.0, **where, **fields})


@pytest.fixture
def place(ledger_place: PlaceOf) -> Path | str:
    return ledger_place()


@pytest.fixture
def make(place: Path | str) -> Iterator[MakeLedger]:
    made: list[Ledger] = []

    def ledger(**fields: Any) -> Ledger:
        made.append(Ledger(settings_of(place, **fields)))
        return made[-1]

    yield ledger
    for ledger_ in made:
        ledger_.close()


def entry(name: str = "r1", **fields: Any) -> Entry:
    return Entry(**{"request_id": name, "started_at": 1000.0, "duration_ms": 5.0, **fields})


def rows(place: Path | str, columns: str = "request_id", table: str = "entries") -> list[tuple[Any, ...]]:
    with store_at(place).read() as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY request_id").fetchall()  # noqa: S608


def test_an_entry_comes_back_as_it_went(make: MakeLedger, place: Path | str) -> None:
    attempt = AttemptRecord("m", "cloud", "discarded", 1, 4.0, 10, 2, None, "unsure", early=True)
    whole = entry(
        tags=("b", "a"), scores={"m": 0.5}, attempts=(attempt,), known=True, stream=True, explored=True,
        cost_usd=0.1 + 0.2, session="s", baseline_output_tokens=7, key_id="k", trace_id="t",
    )  # fmt: skip
    ledger = make()
    ledger.record(whole)
    ledger.record(entry("r2"))
    ledger.flush()
    assert [from_row(row) for row in rows(place, ", ".join(COLUMNS))] == [whole, entry("r2")]


def test_a_request_that_is_recorded_twice_counts_once(make: MakeLedger, place: Path | str) -> None:
    first, second = make(), make()
    for ledger, cost in ((first, 1.0), (first, 2.0), (second, 3.0)):
        ledger.record(entry(cost_usd=cost))
        ledger.flush()
    assert rows(place, "request_id, cost_usd") == [("r1", 1.0)]


def test_of_outcomes_the_latest_stays_whenever_it_arrives(make: MakeLedger, place: Path | str) -> None:
    ledger = make()
    for recorded_at, score in ((20.0, 0.5), (10.0, 1.0), (30.0, 0.0), (25.0, 1.0)):
        ledger.record(
            Outcome(request_id="r1", source="feedback", tenant="t", recorded_at=recorded_at, score=score)
        )
        ledger.flush()
    assert rows(place, "recorded_at, score", "outcomes") == [(30.0, 0.0)]


def test_a_request_is_found_by_its_own_tenant_only(make: MakeLedger, place: Path | str) -> None:
    ledger = make()
    ledger.record(
        entry(
            tenant="a", policy="p", model="m", scores={"m": 0.2, "big": 0.9}, known=True, baseline_model="big"
        )
    )
    ledger.flush()
    assert find(ledger.store, "r1", "a") == Finding("r1", "a", "p", "m", "big", 0.9)
    assert find(ledger.store, "r1", "b") is None


def test_before_the_first_entry_nothing_is_found_and_a_report_says_why(place: Path | str) -> None:
    assert find(store_at(place), "r1", "a") is None
    with pytest.raises(LedgerError, match="nothing is recorded yet"):
        make_report(store_at(place), since=None, until=None, by=(), prices="")


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"input_tokens": 2**70}, id="a number too large"),
        pytest.param({"agent": "\ud800"}, id="half a character"),
        pytest.param({"attempts": 5}, id="a list that is none"),
        pytest.param({"step": object()}, id="a type of no column"),
    ],
)
def test_an_entry_that_cannot_be_stored_holds_up_no_other(
    make: MakeLedger, place: Path | str, bad: dict[str, Any]
) -> None:
    ledger = make()
    for name, fields in (("r1", {}), ("bad", bad), ("r2", {})):
        ledger.record(entry(name, **fields))
    ledger.flush()
    ledger.record(entry("r3"))
    ledger.flush()
    assert rows(place) == [("r1",), ("r2",), ("r3",)]
    health = ledger.health()
    assert (health.written, health.lost, health.pending) == (3, 1, 0)


def test_numbers_beyond_a_record_s_are_in_the_report_all_the_same(make: MakeLedger) -> None:
    ledger = make()
    ledger.record(entry(input_tokens=5, cost_usd=0.25, duration_ms=1e300))
    ledger.record(entry("r2", input_tokens=7, cost_usd=0.5))
    ledger.flush()
    total = make_report(ledger.store, since=None, until=None, by=(), prices="").total
    assert (total.requests, total.input_tokens, total.cost_usd) == (2, 12, 0.75)


def test_words_are_kept_where_the_settings_ask_for_it(make: MakeLedger, place: Path | str) -> None:
    said = Text(
        request_id="r1",
        tenant="t",
        recorded_at=5.0,
        prompt="I am jane@example.org",
        reply="Hi jane@example.org",
    )
    for mode, name in (("off", "r1"), ("redacted", "r2"), ("full", "r3")):
        ledger = make(texts=mode)
        ledger.record(entry(name))
        ledger.record(
            Text(request_id=name, tenant="t", recorded_at=5.0, prompt=said.prompt, reply=said.reply)
        )
        ledger.flush()
        assert ledger.health().written == 1
    redacted, full = rows(place, "request_id, prompt, reply", "texts")
    assert full == ("r3", said.prompt, said.reply)
    assert redacted == ("r2", redact(said.prompt), redact(said.reply))
    assert "jane" not in "".join(redacted)


RECORDER = """
    import sys, time
    from smallfirst.router.ledger import Entry, Ledger
    from smallfirst.router.settings import LedgerSettings
    place, name, count = sys.argv[1:]
    where = {"url": place} if "://" in place else {"path": place}
    ledger = Ledger(LedgerSettings(flush_interval=0.02, **where))
    ledger.start()
    for at in range(int(count)):
        # Half of them are others' as well, and all have the same labels.
        own = name if at % 2 else ""
        ledger.record(Entry(request_id=f"{own}{at}", started_at=at, duration_ms=1.0, agent=f"a{at % 7}"))
        if at % 50 == 0:
            time.sleep(0.002)
    ledger.close()
    sys.exit(ledger.health().lost)
"""


def test_processes_that_write_at_once_lose_nothing_and_count_nothing_twice(place: Path | str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(RECORDER), str(place)]
    processes = [subprocess.Popen([*command, name, "4000"]) for name in "abc"]
    assert [process.wait(timeout=90) for process in processes] == [0, 0, 0]
    report = make_report(store_at(place), since=None, until=None, by=("agent",), prices="")
    assert (report.total.requests, len(report.rows)) == (2000 + 3 * 2000, 7)
