"""Several processes write one ledger: none of them loses what it wrote."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from smallfirst.router.ledger.sqlite import SqliteStore
from smallfirst.router.ledger.store import Connection

OTHER = """
import sys
from pathlib import Path
from smallfirst.router.ledger.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
for number in sys.stdin:
    store.write(lambda connection: connection.execute("INSERT INTO labels VALUES (?, 'other', 0)", (int(number),)))
    print("written", flush=True)
store.close()
"""


def write(store: SqliteStore, number: int) -> None:
    def work(connection: Connection) -> None:
        connection.execute("INSERT INTO labels VALUES (?, 'one', 0)", (number,))

    store.write(work)


def other(path: Path) -> subprocess.Popen[str]:
    """Another process with the ledger at `path`: it writes the numbers that it is sent."""
    command = [sys.executable, "-c", OTHER, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def has_written(process: subprocess.Popen[str], number: int) -> bool:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{number}\n")
    return process.stdout.readline() == "written\n"


def test_one_that_closes_takes_nothing_from_others_that_go_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = SqliteStore(path)
    write(store, 1)
    # Who reads a file of an older version brings it up to date by a connection of its own.
    SqliteStore(path).migrate()
    with other(path) as short:
        assert has_written(short, 2)
    with other(path) as long:
        assert has_written(long, 3)
        write(store, 4)
        assert has_written(long, 5)
        store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert [row[0] for row in connection.execute("SELECT id FROM labels ORDER BY id")] == [1, 2, 3, 4, 5]


def test_nobody_else_may_read_a_ledger_that_is_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "ledger.db"
    store = SqliteStore(path)
    write(store, 1)
    store.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["ledger.db"]
