"""Feedback on requests of this process and of the ledger: who may rate, what counts, what is kept."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from smallfirst.router.drift import DriftMonitor
from smallfirst.router.errors import InvalidRequest, LedgerUnavailable, RequestNotFound
from smallfirst.router.feedback import REMEMBERED_SECONDS, Feedback, parse
from smallfirst.router.ledger import Entry, Ledger
from smallfirst.router.settings import DriftSettings, LedgerSettings

LOCAL, CLOUD = "small", "big"


class Room:
    """Feedback over a real ledger, with a clock that stands still."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.now = 0.0
        drift = DriftSettings(**settings)
        self.ledger = Ledger(LedgerSettings(path=path, flush_interval=1.0))
        self.drift = DriftMonitor(drift, budgets={"careful": 0.02}, local=[LOCAL])
        self.feedback = Feedback(self.ledger, self.drift, drift, clock=lambda: self.now)

    def serve(self, name: str = "r1", **fields: Any) -> None:
        usual = {
            "request_id": name,
            "started_at": 0.0,
            "duration_ms": 1.0,
            "tenant": "ann",
            "policy": "careful",
            "route": "local",
            "model": LOCAL,
            "baseline_model": CLOUD,
            "scores": {LOCAL: 0.7, CLOUD: 0.9},
            "known": True,
        }
        entry = Entry(**{**usual, **fields})
        self.ledger.record(entry)
        self.feedback.remember(entry)

    def forget(self) -> None:
        """Flush, and let so much time pass that only the ledger knows."""
        self.ledger.flush()
        self.now += REMEMBERED_SECONDS + 1
        self.serve("another", tenant="zoe")

    async def rate(self, score: Any, name: str = "r1", tenant: str = "ann", **fields: Any) -> float:
        return await self.feedback.take(name, score, tenant=tenant, **fields)

    @property
    def counted(self) -> int:
        return int(self.drift.report()["policies"]["careful"]["tests"]["feedback"]["n"])

    def stored(self, columns: str = "request_id, tenant, score, loss") -> list[tuple[Any, ...]]:
        self.ledger.flush()
        with closing(sqlite3.connect(self.ledger.path)) as connection:
            return connection.execute(f"SELECT {columns} FROM outcomes").fetchall()  # noqa: S608


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "ledger.db")
    yield made
    made.ledger.close()


async def test_feedback_on_a_recent_request_is_stored_and_counts(room: Room) -> None:
    room.serve()
    assert await room.rate(0.25) == 0.25
    assert room.stored() == [("r1", "ann", 0.25, pytest.approx(0.65))]
    assert room.counted == 1


async def test_feedback_on_a_request_that_only_the_ledger_knows_counts_alike(room: Room) -> None:
    room.serve()
    room.forget()
    await room.rate("bad")
    assert room.stored() == [("r1", "ann", 0.0, pytest.approx(0.9))]
    assert room.counted == 1


@pytest.mark.parametrize("late", [False, True])
async def test_of_several_the_last_is_kept_and_the_first_counts(room: Room, late: bool) -> None:
    room.serve()
    await room.rate("good")
    if late:
        room.forget()
    await room.rate("bad")
    assert [row[2] for row in room.stored()] == [0.0]
    assert room.counted == 1


async def test_a_rating_before_a_restart_is_known_after_it(room: Room) -> None:
    room.serve()
    await room.rate("good")
    room.ledger.close()
    again = Room(room.ledger.path)
    await again.rate("bad")
    assert ([row[2] for row in again.stored()], again.counted) == ([0.0], 0)
    again.ledger.close()


@pytest.mark.parametrize("late", [False, True])
async def test_another_tenants_request_is_as_unknown_as_one_that_never_was(room: Room, late: bool) -> None:
    room.serve()
    if late:
        room.forget()
    told = []
    for name in ("r1", "never"):
        with pytest.raises(RequestNotFound) as caught:
            await room.rate("bad", name, tenant="bob")
        told.append(caught.value.body())
    assert told[0] == told[1]
    assert (room.stored(), room.counted) == ([], 0)


@pytest.mark.parametrize(
    ("fields", "loss", "counts"),
    [
        pytest.param(
            {"model": CLOUD, "route": "cloud"}, 0.0, 1, id="the baseline's own answer loses nothing"
        ),
        pytest.param({"known": False}, None, 0, id="unlike everything measured"),
        pytest.param({"scores": {}, "known": None}, None, 0, id="not scored"),
        pytest.param({"status": "error", "model": None}, None, 0, id="nothing answered"),
        pytest.param({"status": "cancelled"}, None, 0, id="stopped midway"),
        pytest.param({"policy": "no budget"}, 0.9, 0, id="a policy without a budget"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_what_a_bad_answer_lost(
    room: Room, fields: dict[str, Any], loss: float | None, counts: int, late: bool
) -> None:
    room.serve(**fields)
    if late:
        room.forget()
    await room.rate("bad")
    assert ([row[3] for row in room.stored()], room.counted) == ([loss], counts)


async def test_our_own_comparisons_cannot_be_rated(room: Room) -> None:
    room.serve("shadow_r1", kind="shadow")
    room.ledger.flush()
    with pytest.raises(RequestNotFound):
        await room.rate("bad", "shadow_r1")


@pytest.mark.parametrize(("kept", "stored"), [(False, None), (True, "wrong city")])
async def test_comments_are_kept_only_where_the_settings_say_so(
    tmp_path: Path, kept: bool, stored: str | None
) -> None:
    room = Room(tmp_path / "l.db", comments=kept)
    room.serve()
    await room.rate("bad", comment="wrong city")
    assert room.stored("comment") == [(stored,)]
    room.ledger.close()


async def test_a_ledger_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database, and it is long enough to be looked at as one " * 20)
    with pytest.raises(LedgerUnavailable) as caught:
        await Room(path).rate("bad")
    assert (caught.value.status, caught.value.retry_after) == (503, 5.0)


async def test_without_a_ledger_file_a_request_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(RequestNotFound):
        await Room(tmp_path / "none.db").rate("bad")


@pytest.mark.parametrize(
    ("given", "score"),
    [(0, 0.0), (1, 1.0), (0.3, 0.3), (True, 1.0), (False, 0.0), ("good", 1.0), (" Bad ", 0.0)],
)
async def test_scores_are_given_in_several_ways(room: Room, given: Any, score: float) -> None:
    room.serve()
    assert await room.rate(given) == score


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"score": 1}, "request_id"),
        ({"request_id": "r1"}, "score"),
        ({"request_id": 5, "score": 1}, "request_id"),
        ({"request_id": "", "score": 1}, "request_id"),
        ({"request_id": "x" * 201, "score": 1}, "request_id"),
        ({"request_id": "r1", "score": 1.01}, "score"),
        ({"request_id": "r1", "score": -0.01}, "score"),
        ({"request_id": "r1", "score": "fine"}, "score"),
        ({"request_id": "r1", "score": None}, "score"),
        ({"request_id": "r1", "score": float("nan")}, "score"),
        ({"request_id": "r1", "score": 1, "comment": 7}, "comment"),
        ({"request_id": "r1", "score": 1, "comment": "x" * 2001}, "comment"),
    ],
)
def test_a_wrong_body_is_refused_and_the_field_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert (caught.value.param, param in caught.value.message) == (param, True)


@pytest.mark.parametrize("raw", [b"{", b"[1]", b"\xff", b""])
def test_a_broken_body_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(raw)


def test_a_file_of_the_first_version_is_brought_up_to_date_and_keeps_its_entries(tmp_path: Path) -> None:
    from smallfirst.router.ledger.schema import SQLITE_MIGRATIONS as MIGRATIONS

    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(MIGRATIONS[0])
        connection.execute("PRAGMA user_version = 1")
        names = [row[1] for row in connection.execute("PRAGMA table_info(entries)")]
        row = dict.fromkeys(names, 0) | {"request_id": "old", "scores": "{}", "tags": "[]", "attempts": "[]"}
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO entries ({', '.join(row)}) VALUES ({marks})", list(row.values()))  # noqa: S608
        connection.commit()
    room = Room(path)
    room.serve("new")
    room.ledger.close()
    with closing(sqlite3.connect(path)) as connection:
        kinds = connection.execute("SELECT request_id, kind FROM entries ORDER BY request_id").fetchall()
    assert kinds == [("new", "request"), ("old", "request")]
