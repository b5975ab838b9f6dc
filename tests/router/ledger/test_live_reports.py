"""Reports that keep what was read say the same as those that read all."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from smallfirst.router.ledger import Entry, Ledger, Outcome
from smallfirst.router.ledger.live import LiveReports
from smallfirst.router.ledger.report import Report, make_report
from smallfirst.router.settings import LedgerSettings

PlaceOf = Callable[[], Path | str]
START = 1_800_000_000.0


class Room:
    """A ledger, live reports of it, and a clock."""

    def __init__(self, place: Path | str) -> None:
        where = {"path": place} if isinstance(place, Path) else {"url": SecretStr(place)}
        self.ledger = Ledger(LedgerSettings(**where))
        self.now = START
        self.live = LiveReports(self.ledger.store, clock=lambda: self.now)
        self._count = 0

    def serve(self, at: float, **fields: Any) -> str:
        self._count += 1
        name = f"r{self._count}"
        entry = Entry(request_id=name, started_at=at, duration_ms=5.0, agent=f"a{self._count % 3}", **fields)
        self.ledger.record(entry)
        self.ledger.flush()
        return name

    def rate(self, name: str) -> None:
        self.ledger.record(
            Outcome(request_id=name, source="feedback", tenant="t", recorded_at=self.now, score=0.5)
        )
        self.ledger.flush()

    def both(self, **fields: Any) -> tuple[Report, Report]:
        asked = {"since": None, "until": None, "by": ("agent",), "prices": "", **fields}
        return self.live.make(**asked), make_report(self.ledger.store, **asked)


def test_new_entries_and_feedback_are_seen_at_once(ledger_place: PlaceOf) -> None:
    room = Room(ledger_place())
    with closing(room.ledger):
        for ago in (90_000.0, 4000.0, 600.0, 1.0):
            room.serve(START - ago, cost_usd=0.1)
        assert room.both()[0].total.requests == 4
        for _ in range(3):
            room.now += 30
            room.rate(room.serve(room.now - 20, cost_usd=0.2, tenant="t"))
            live, whole = room.both()
            assert live == whole
        assert live.total.requests == 7


def test_a_part_of_the_time_or_one_tenant_is_taken_of_what_was_read(tmp_path: Path) -> None:
    room = Room(tmp_path / "ledger.db")
    with closing(room.ledger):
        for ago in range(0, 90_000, 3000):
            room.serve(START - ago, tenant=f"t{ago % 2}")
        room.both()
        since = datetime.fromtimestamp(START - 40_000, UTC)
        until = datetime.fromtimestamp(START - 10_000, UTC)
        for fields in ({"since": since}, {"since": since, "until": until}, {"tenant": "t0"}):
            live, whole = room.both(**fields)
            assert live == whole
            assert 0 < live.total.requests <= 30


def test_an_earlier_beginning_is_read_anew(tmp_path: Path) -> None:
    room = Room(tmp_path / "ledger.db")
    with closing(room.ledger):
        room.serve(START - 90_000)
        room.serve(START - 10)
        assert room.both(since=datetime.fromtimestamp(START - 60, UTC))[0].total.requests == 1
        assert room.both()[0].total.requests == 2


def test_what_came_late_or_was_deleted_is_seen_when_all_is_read_anew(tmp_path: Path) -> None:
    room = Room(tmp_path / "ledger.db")
    with closing(room.ledger):
        room.serve(START - 10)
        room.both()
        room.serve(START - 90_000)
        assert room.both()[0].total.requests == 1
        room.now += 601
        assert room.both()[0].total.requests == 2
        room.serve(START - 80_000)
        room.live.forget()
        assert room.both()[0].total.requests == 3
