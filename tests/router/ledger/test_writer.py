"""The ledger on a real disk: what survives, what waits, what is given up."""

import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from smallfirst.router.ledger import AttemptRecord, Entry, Ledger
from smallfirst.router.ledger.report import make_report
from smallfirst.router.ledger.sqlite import SqliteStore
from smallfirst.router.ledger.store import Connection
from smallfirst.router.settings import LedgerSettings

MakeLedger = Callable[..., Ledger]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "ledger.db"


@pytest.fixture
def make(path: Path) -> Iterator[MakeLedger]:
    made: list[Ledger] = []

    def ledger(**fields: Any) -> Ledger:
        settings = LedgerSettings(**{"path": path, "flush_interval": 0.05, **fields})
        made.append(Ledger(settings))
        made[-1].start()
        return made[-1]

    yield ledger
    for ledger_ in made:
        ledger_.close()


def entry(name: str = "r1", **fields: Any) -> Entry:
    return Entry(**{"request_id": name, "started_at": 1000.0, "duration_ms": 5.0, **fields})


def rows(path: Path, columns: str = "request_id") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        query = f"SELECT {columns} FROM entries ORDER BY started_at, request_id"  # noqa: S608
        return connection.execute(query).fetchall()


def test_an_entry_is_on_disk_soon_and_whole(make: MakeLedger, path: Path) -> None:
    attempt = AttemptRecord("m", "cloud", "ok", 1, 4.0, 10, 2, None)
    ledger = make()
    ledger.record(entry(tags=("a", "b"), scores={"m": 0.5}, attempts=(attempt,), cost_usd=None, stream=True))
    for _ in range(100):
        if ledger.health().written:
            break
        time.sleep(0.05)
    (row,) = rows(path, "tags, scores, attempts, cost_usd, stream")
    assert row[:2] == ('["a","b"]', '{"m":0.5}')
    assert '"retries":1' in row[2]
    assert row[3:] == (None, 1)


def test_a_request_that_is_recorded_twice_counts_once(make: MakeLedger, path: Path) -> None:
    first, second = make(), make()
    for ledger in (first, first, second):
        ledger.record(entry())
        ledger.flush()
    assert rows(path) == [("r1",)]


def test_closing_flushes_and_may_be_done_twice(make: MakeLedger, path: Path) -> None:
    ledger = make(flush_interval=1.0)
    for at in range(12_000):
        ledger.record(entry(f"r{at}"))
    ledger.close()
    ledger.close()
    assert len(rows(path)) == 12_000


def test_nobody_else_can_read_it(make: MakeLedger, path: Path) -> None:
    make().flush()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_locked_file_makes_entries_wait(make: MakeLedger, path: Path) -> None:
    ledger = make(flush_interval=1.0)
    ledger.record(entry())
    ledger.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger.record(entry("r2"))
        ledger.flush()
        health = ledger.health()
        assert (health.pending, health.healthy) == (1, False)
        assert "locked" in (health.last_error or "")
        other.execute("ROLLBACK")
    ledger.flush()
    assert (ledger.health().healthy, len(rows(path))) == (True, 2)


def test_what_waits_is_bounded_and_the_loss_is_counted(make: MakeLedger, path: Path) -> None:
    path.mkdir(parents=True)  # a folder where the file should be: nothing can be written
    ledger = make(max_pending=10)
    for at in range(25):
        ledger.record(entry(f"r{at}"))
    ledger.flush()
    health = ledger.health()
    assert (health.pending, health.lost, health.healthy) == (10, 15, False)
    path.rmdir()
    ledger.flush()
    assert [name for (name,) in rows(path)] == sorted(f"r{at}" for at in range(15, 25))


def test_a_full_disk_loses_nothing_that_can_wait(make: MakeLedger, path: Path) -> None:
    ledger = make(flush_interval=1.0)
    ledger.record(entry())
    ledger.flush()
    connection = ledger.store._open()  # type: ignore[attr-defined]
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for at in range(2000):
        ledger.record(entry(f"x{at}"))
    ledger.flush()
    assert "full" in (ledger.health().last_error or "")
    connection.execute("PRAGMA max_page_count = 1000000")
    ledger.flush()
    assert (ledger.health().healthy, len(rows(path))) == (True, 2001)


def test_a_file_of_a_newer_version_is_left_alone(make: MakeLedger, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    ledger = make()
    ledger.record(entry())
    ledger.flush()
    assert "newer version" in (ledger.health().last_error or "")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_file_that_was_removed_is_made_anew_with_its_labels(path: Path) -> None:
    ledger = Ledger(LedgerSettings(path=path))
    ledger.record(entry("r1", agent="a"))
    ledger.flush()
    for file in path.parent.iterdir():
        file.unlink()
    ledger.record(entry("r2", agent="a"))
    ledger.flush()
    assert "removed or replaced" in (ledger.health().last_error or "")
    ledger.flush()
    assert (ledger.health().pending, ledger.health().last_error) == (0, None)
    report = make_report(ledger.store, since=None, until=None, by=("agent",), prices="")
    assert [(row.key, row.requests) for row in report.rows] == [({"agent": "a"}, 1)]
    ledger.close()


def test_what_is_being_written_still_waits(path: Path) -> None:
    class Slow(SqliteStore):
        def write(self, work: Callable[[Connection], None]) -> None:
            seen.append(ledger.health().pending)
            super().write(work)

    seen: list[int] = []
    ledger = Ledger(LedgerSettings(path=path), store=Slow(path))
    for at in range(3):
        ledger.record(entry(f"r{at}"))
    ledger.flush()
    ledger.close()
    assert (seen, ledger.health().pending, ledger.health().written) == ([3], 0, 3)


def test_closing_waits_a_moment_for_another_that_writes(make: MakeLedger, path: Path) -> None:
    ledger = make(flush_interval=1.0)
    ledger.record(entry())
    ledger.flush()
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.4, other.execute, ("ROLLBACK",)).start()
        ledger.record(entry("r2"))
        ledger.close()
    assert len(rows(path)) == 2
