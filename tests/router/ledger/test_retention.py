"""What is old goes, with all that belongs to it; what an older version wrote is packed."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from smallfirst.router.cli import cli
from smallfirst.router.errors import LedgerError
from smallfirst.router.ledger import Entry, Ledger, Outcome, Text, store_at
from smallfirst.router.ledger.report import make_report
from smallfirst.router.ledger.retention import DAY, START, Housekeeping, Place, pack_all, pack_some, prune
from smallfirst.router.ledger.schema import COLUMNS, SQLITE_MIGRATIONS, to_row
from smallfirst.router.settings import LedgerSettings

PlaceOf = Callable[[], Path | str]
NOW = 1_800_000_000.0


def make(place: Path | str, **fields: Any) -> Ledger:
    where = {"path": place} if isinstance(place, Path) else {"url": SecretStr(place)}
    return Ledger(
        LedgerSettings(**{"texts": "full", "flush_interval": 0.05, **where, **fields}), clock=lambda: NOW
    )


def record(ledger: Ledger, name: str, days_ago: float, **fields: Any) -> None:
    at = NOW - days_ago * DAY
    ledger.record(Entry(request_id=name, started_at=at, duration_ms=1.0, agent=f"agent of {name}", **fields))
    ledger.record(Outcome(request_id=name, source="feedback", tenant="t", recorded_at=NOW, score=1.0))
    ledger.record(Text(request_id=name, tenant="t", recorded_at=at, prompt="p", reply="r"))


def delete_before(place: Path | str, before: float) -> int:
    with closing(store_at(place)) as store:
        return prune(store, before)


def left(place: Path | str) -> dict[str, list[str]]:
    with store_at(place).read() as connection:
        found = {
            table: [name for (name,) in connection.execute(f"SELECT request_id FROM {table} ORDER BY 1")]  # noqa: S608
            for table in ("entries", "outcomes", "texts")
        }
        labels = [label for (label,) in connection.execute("SELECT label FROM labels ORDER BY 1")]
    return found | {"labels": [label.split("agent of ")[1].split('"')[0] for label in labels]}


def test_what_is_older_goes_with_all_that_belongs_to_it(ledger_place: PlaceOf) -> None:
    place = ledger_place()
    ledger = make(place)
    for name, days in (("old", 40.0), ("new", 20.0)):
        record(ledger, name, days)
    ledger.close()
    assert delete_before(place, NOW - 30 * DAY) == 1
    assert left(place) == {name: ["new"] for name in ("entries", "outcomes", "texts", "labels")}


def test_a_label_stays_as_long_as_an_entry_has_it(ledger_place: PlaceOf) -> None:
    place = ledger_place()
    ledger = make(place)
    for at, days in enumerate((50.0, 40.0, 30.2, 29.8)):
        ledger.record(Entry(request_id=f"r{at}", started_at=NOW - days * DAY, duration_ms=1.0, agent="a"))
        ledger.flush()
    ledger.close()
    delete_before(place, NOW - 30 * DAY)
    rows = make_report(store_at(place), since=None, until=None, by=("agent",), prices="").rows
    assert [(row.key, row.requests) for row in rows] == [({"agent": "a"}, 1)]


def test_the_writer_prunes_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = make(path, keep=30.0)
    for at in range(1200):
        record(ledger, f"old{at}", 31.0)
    record(ledger, "new", 1.0)
    ledger.flush()
    ledger.start()
    for _ in range(200):
        if left(path)["entries"] == ["new"]:
            break
        time.sleep(0.05)
    ledger.close()
    assert left(path)["entries"] == ["new"]


def unpack(place: Path | str) -> None:
    with closing(store_at(place)) as store:
        store.write(lambda connection: connection.executemany("UPDATE entries SET fact = NULL", [()]))


def test_entries_that_cannot_be_packed_hold_up_no_other(ledger_place: PlaceOf) -> None:
    place = ledger_place()
    ledger = make(place)
    for at in range(6):
        ledger.record(
            Entry(request_id=f"r{at}", started_at=NOW + at // 2, duration_ms=1e300 if at < 5 else 1.0)
        )
    ledger.close()
    unpack(place)
    with closing(store_at(place)) as store:
        place_: Place | None = START
        while place_ is not None:
            place_ = pack_some(store, place_, 2)
        with store.read() as connection:
            left_over = connection.execute("SELECT request_id FROM entries WHERE fact IS NULL ORDER BY 1")
            assert [name for (name,) in left_over] == [f"r{at}" for at in range(5)]
    assert make_report(store_at(place), since=None, until=None, by=(), prices="").total.requests == 6


@pytest.mark.parametrize("change", ["attempts = '[{'", "route = 'mars'"])
def test_an_entry_that_somebody_spoilt_holds_up_nothing(ledger_place: PlaceOf, change: str) -> None:
    place = ledger_place()
    ledger = make(place, keep=30.0)
    record(ledger, "old", 40.0)
    record(ledger, "spoilt", 20.0)
    ledger.close()
    with closing(store_at(place)) as store:
        spoil = f"UPDATE entries SET fact = NULL, {change} WHERE request_id = 'spoilt'"  # noqa: S608
        store.write(lambda connection: connection.executemany(spoil, [()]))
        housekeeping = Housekeeping(store, 30.0, clock=lambda: NOW)
        for _ in range(3):
            housekeeping.step()
        assert left(place)["entries"] == ["spoilt"]
        with pytest.raises(LedgerError, match="spoilt cannot be read"):
            make_report(store, since=None, until=None, by=(), prices="")


def test_without_a_term_nothing_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = make(path)
    record(ledger, "old", 4000.0)
    ledger.close()
    Housekeeping(store_at(path), None, clock=lambda: NOW).step()
    assert left(path)["entries"] == ["old"]


def test_what_was_deleted_is_not_left_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = make(path)
    record(ledger, "needle-in-the-file", 40.0)
    record(ledger, "new", 1.0)
    ledger.close()
    delete_before(path, NOW - 30 * DAY)
    assert b"needle-in-the-file" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_the_command_prunes_and_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = make(path)
    record(ledger, "old", 3 + (NOW - time.time()) / DAY)
    record(ledger, "new", 1 + (NOW - time.time()) / DAY)
    ledger.close()
    settings = tmp_path / "smallfirst.yaml"
    settings.write_text(f"ledger: {{path: {path}}}\n")
    run = CliRunner().invoke
    without = run(cli, ["--config", str(settings), "ledger", "prune"])
    assert "ledger.keep" in str(without.exception)
    assert (
        run(cli, ["--config", str(settings), "ledger", "prune", "--keep", "2"]).output
        == "1 entries deleted\n"
    )
    assert left(path)["entries"] == ["new"]


def old_file(path: Path, entries: list[Entry]) -> None:
    """Write a ledger as the version before packed records did."""
    with closing(sqlite3.connect(path)) as connection:
        for migration in SQLITE_MIGRATIONS[:3]:
            connection.executescript(migration)
        connection.execute("PRAGMA user_version = 3")
        marks = ", ".join("?" * len(COLUMNS))
        connection.executemany(
            f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({marks})",  # noqa: S608
            map(to_row, entries),
        )
        connection.commit()


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_an_older_version_is_reported_alike_before_and_after_packing(
    tmp_path: Path, packed: bool
) -> None:
    entries = [
        Entry(
            request_id=f"r{at}", started_at=NOW + at, duration_ms=float(at), agent=f"a{at % 3}", cost_usd=0.1
        )
        for at in range(1200)
    ]
    old_file(tmp_path / "old.db", entries)
    old, new = store_at(tmp_path / "old.db"), make(tmp_path / "new.db")
    for entry in entries:
        new.record(entry)
    new.close()
    if packed:
        pack_all(old)
        with old.read() as connection:
            assert connection.execute("SELECT count(*) FROM entries WHERE fact IS NULL").fetchone() == (0,)
    reports = [make_report(s, since=None, until=None, by=("agent",), prices="") for s in (old, new.store)]
    assert reports[0] == reports[1]
    assert reports[0].total.requests == 1200
    old.close()


def test_the_command_brings_an_older_file_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old_file(path, [Entry(request_id="r1", started_at=NOW, duration_ms=1.0)])
    assert CliRunner().invoke(cli, ["ledger", "migrate", "--ledger", str(path)]).exit_code == 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(SQLITE_MIGRATIONS),)
        assert connection.execute("SELECT count(*) FROM entries WHERE fact IS NULL").fetchone() == (0,)


def test_an_entry_that_somebody_else_spoilt_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = make(path)
    record(ledger, "spoilt", 1.0)
    ledger.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE entries SET route = 'nowhere', fact = NULL")
        connection.commit()
    with pytest.raises(LedgerError, match="spoilt cannot be read"):
        make_report(store_at(path), since=None, until=None, by=(), prices="")
