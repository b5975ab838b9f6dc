"""A process that is killed at any moment leaves a whole ledger, a second short at most."""

import random
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

RECORDER = """
    import sys, time
    from smallfirst.router.ledger import Entry, Ledger
    from smallfirst.router.settings import LedgerSettings
    ledger = Ledger(LedgerSettings(path=sys.argv[1]))
    ledger.start()
    # To open a new file takes its time on a busy machine; from then on the promise is counted.
    ledger.record(Entry(request_id=f"{sys.argv[2]}-{0:09d}", started_at=time.time(), duration_ms=1.0))
    while not ledger.health().written:
        time.sleep(0.01)
    at = 1
    while True:
        now = time.time()
        ledger.record(Entry(request_id=f"{sys.argv[2]}-{at:09d}", started_at=now, duration_ms=1.0))
        at += 1
        if at % 20 == 0:
            print(at, now, flush=True)
            time.sleep(0.002)
"""


def killed(path: Path, name: str, after: float) -> tuple[int, float]:
    """Kill a recorder so many seconds after its first entry; returns how many it had recorded, and when the last."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RECORDER), str(path), name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(after)
    process.kill()
    said = [first, *process.stdout.read().splitlines()]
    process.wait()
    process.stdout.close()
    # The last line may have been cut short by the kill.
    count, when = (said[-1] if len(said[-1].split()) == 2 else said[-2]).split()
    return int(count), float(when)


def test_it_loses_at_most_a_second_and_damages_nothing(tmp_path: Path) -> None:
    path, rng = tmp_path / "ledger.db", random.Random()
    for name in "abcd":
        recorded, last = killed(path, name, rng.uniform(0.6, 1.8))
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            stored, distinct, latest, highest = connection.execute(
                "SELECT count(*), count(DISTINCT request_id), max(started_at), max(request_id) FROM entries "
                "WHERE request_id LIKE ?",
                (f"{name}-%",),
            ).fetchone()
        # All up to the last one that is there, each once.
        assert stored == distinct == int(highest.removeprefix(f"{name}-")) + 1
        assert 0 < stored <= recorded + 1000
        assert last - latest <= 1.0
