"""The ledger in a real PostgreSQL that goes away, comes back, and is brought up to date by several at once."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fixtures.postgres_server import PostgresServer
from pydantic import SecretStr

from smallfirst.router.errors import LedgerError, SettingsError
from smallfirst.router.ledger import Entry, Ledger, store_at
from smallfirst.router.ledger.report import make_report
from smallfirst.router.settings import LedgerSettings


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[Ledger]:
    made = Ledger(LedgerSettings(url=SecretStr(postgres_url), flush_interval=1.0, max_pending=10))
    yield made
    made.close()


def entry(name: str, **fields: Any) -> Entry:
    return Entry(**{"request_id": name, "started_at": 1000.0, "duration_ms": 5.0, **fields})


def names(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT request_id FROM smallfirst.entries ORDER BY request_id").fetchall()
        return [name for (name,) in found]


def test_entries_wait_while_the_server_is_away(
    ledger: Ledger, postgres_server: PostgresServer, postgres_url: str
) -> None:
    ledger.record(entry("r0"))
    ledger.flush()
    postgres_server.stop()
    try:
        for at in range(1, 16):
            ledger.record(entry(f"r{at:02d}"))
        ledger.flush()
        health = ledger.health()
        assert (health.pending, health.lost, health.healthy) == (10, 5, False)
        with pytest.raises(LedgerError, match="cannot be read"):
            make_report(ledger.store, since=None, until=None, by=(), prices="")
    finally:
        postgres_server.start()
    ledger.flush()
    assert ledger.health().last_error is None
    assert names(postgres_url) == ["r0", *(f"r{at:02d}" for at in range(6, 16))]


def test_a_connection_that_was_cut_is_opened_again(ledger: Ledger, postgres_url: str) -> None:
    ledger.record(entry("r1"))
    ledger.flush()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'smallfirst' AND datname = current_database()"
        )
    ledger.record(entry("r2"))
    ledger.flush()
    assert (ledger.health().pending, ledger.health().lost) == (1, 0)
    ledger.flush()
    assert names(postgres_url) == ["r1", "r2"]


def test_tables_that_were_dropped_are_made_anew_with_their_labels(ledger: Ledger, postgres_url: str) -> None:
    ledger.record(entry("r1", agent="a"))
    ledger.flush()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute("DROP SCHEMA smallfirst CASCADE")
    ledger.record(entry("r2", agent="a"))
    ledger.flush()
    ledger.flush()
    report = make_report(ledger.store, since=None, until=None, by=("agent",), prices="")
    assert [(row.key, row.requests) for row in report.rows] == [({"agent": "a"}, 1)]


def test_several_may_make_the_tables_at_once(postgres_url: str) -> None:
    ledgers = [Ledger(LedgerSettings(url=SecretStr(postgres_url))) for _ in range(6)]
    for at, one in enumerate(ledgers):
        one.record(entry(f"r{at}"))
    threads = [threading.Thread(target=one.flush) for one in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.health().last_error for one in ledgers] == [None] * 6
    for one in ledgers:
        one.close()
    assert len(names(postgres_url)) == 6


def test_other_tables_of_the_database_are_left_alone(ledger: Ledger, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE entries (mine TEXT)")
    ledger.record(entry("r1"))
    ledger.flush()
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM public.entries").fetchone() == (0,)
    assert names(postgres_url) == ["r1"]


def test_a_database_of_a_newer_version_is_left_alone(ledger: Ledger, postgres_url: str) -> None:
    ledger.flush()
    ledger.record(entry("r1"))
    ledger.flush()
    ledger.close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE smallfirst.schema_versions SET version = 99")
    ledger.record(entry("r2"))
    ledger.flush()
    assert "newer version" in (ledger.health().last_error or "")
    with pytest.raises(LedgerError, match="newer version"):
        make_report(ledger.store, since=None, until=None, by=(), prices="")


def test_without_the_right_to_make_tables_entries_wait(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS reader")
        admin.execute("CREATE ROLE reader LOGIN")
    own = postgres_url.replace("test@", "reader@")
    ledger = Ledger(LedgerSettings(url=SecretStr(own)))
    ledger.record(entry("r1"))
    ledger.flush()
    assert "permission denied" in (ledger.health().last_error or "")
    assert (ledger.health().pending, ledger.health().lost) == (1, 0)
    ledger.store.close()


def test_text_loses_what_postgres_has_no_letter_for(ledger: Ledger, postgres_url: str) -> None:
    ledger.record(entry("r1", agent="a\0b"))
    ledger.flush()
    rows = make_report(ledger.store, since=None, until=None, by=("agent",), prices="").rows
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT agent FROM smallfirst.entries").fetchone() == ("ab",)
    assert [row.requests for row in rows] == [1]


def test_no_password_is_said(caplog: pytest.LogCaptureFixture) -> None:
    settings = LedgerSettings(url=SecretStr("postgresql://bob:hunter2@127.0.0.1:1/db"))
    ledger = Ledger(settings)
    ledger.record(entry("r1"))
    with caplog.at_level(logging.DEBUG):
        ledger.flush()
    assert ledger.health().last_error is not None
    assert "hunter2" not in repr(settings) + str(ledger.health()) + caplog.text + ledger.store.where


@pytest.mark.parametrize("url", ["mysql://x", "postgresql://bob:hunter2@[::1"])
def test_a_url_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match=r"ledger\.url") as caught:
        store_at(url)
    assert "hunter2" not in str(caught.value)
