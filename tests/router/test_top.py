"""`smallfirst top`: one frame, from a gateway or from the ledger itself."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fixtures.office import fill
from fixtures.serving import MakeSettings, Served
from pydantic import SecretStr

from smallfirst.router import Gateway
from smallfirst.router.cli import cli
from smallfirst.router.errors import SmallfirstError
from smallfirst.router.ledger import AttemptRecord, Entry, Ledger
from smallfirst.router.settings import Key, LedgerSettings, ServerSettings

Serve = Callable[[Gateway], Served]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    fill(path, 200, time.time(), length=0.04)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["top", "--once", *map(str, arguments)])


def test_a_frame_shows_rates_routes_money_and_escalations(ledger: Path) -> None:
    shown = run("--ledger", ledger).stdout
    for word in (
        "requests/s",
        "last hour",
        "today",
        "cost",
        "saved",
        "p95 ms",
        "errors",
        "local",
        "cloud",
        "cache",
        "why",
    ):
        assert word in shown
    assert "200 in the last hour" in shown
    assert "100 in the last hour" not in shown


def test_a_running_gateway_shows_the_same(ledger: Path, serve: Serve, make_settings: MakeSettings) -> None:
    served = serve(Gateway(make_settings(local=False)))
    for url in (served.root, served.base_url):
        assert "200 in the last hour" in run("--url", url).stdout
    whole, acme = (run("--url", served.root, *more).stdout for more in ((), ("--tenant", "acme")))
    assert ("all tenants" in whole, "tenant acme" in acme) == (True, True)
    assert "200 in the last hour" not in acme


def test_a_gateway_with_keys_wants_one(ledger: Path, serve: Serve, make_settings: MakeSettings) -> None:
    server = ServerSettings(keys=(Key(key=SecretStr("k-all"), tenant="ops"),))
    served = serve(Gateway(make_settings(local=False, server=server)))
    refused = run("--url", served.root)
    assert isinstance(refused.exception, SmallfirstError)
    assert "SMALLFIRST_KEY" in str(refused.exception)
    assert "200 in the last hour" in run("--url", served.root, "--key", "k-all").stdout


def test_labels_do_not_move_the_cursor(tmp_path: Path) -> None:
    attempt = AttemptRecord("\x1b[2J[bold]x", "local", "discarded", 0, 1.0, 1, 1, 0.0, "unsure")
    ledger = Ledger(LedgerSettings(path=tmp_path / "l.db"))
    ledger.record(
        Entry(request_id="r", started_at=time.time(), duration_ms=1.0, route="cloud", attempts=(attempt,))
    )
    ledger.close()
    shown = run("--ledger", tmp_path / "l.db").stdout
    assert "?[2J[bold]x" in shown
    assert "\x1b" not in shown


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    ledger = Ledger(LedgerSettings(path=tmp_path / "l.db"))
    ledger.record(Entry(request_id="r", started_at=time.time(), duration_ms=1.0, route="cloud", model="m"))
    ledger.close()
    lines = run("--ledger", tmp_path / "l.db").stdout.splitlines()
    line = next(line for line in lines if line.startswith("last hour"))
    assert line.split()[2:4] == ["unknown", "unknown"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "http://127.0.0.1:9"), "no gateway answers at"),
        (("--url", "nonsense"), "no gateway answers at"),
        (("--ledger", "/nonexistent/ledger.db"), "nothing is recorded yet"),
    ],
)
def test_where_there_is_nothing_it_says_what_to_do(arguments: tuple[str, str], said: str) -> None:
    done = run(*arguments)
    assert isinstance(done.exception, SmallfirstError)
    assert said in str(done.exception)
    assert "`smallfirst serve`" in str(done.exception)


def test_what_answers_must_be_a_gateway(serve: Serve, make_settings: MakeSettings) -> None:
    served = serve(Gateway(make_settings(local=False)))
    done = run("--url", f"{served.root}/elsewhere")
    assert "shows no figures (status 404)" in str(done.exception)


def test_ctrl_c_ends_it_and_leaves_the_terminal_as_it_was(ledger: Path) -> None:
    program = str(Path(sys.executable).parent / "smallfirst")
    command = [program, "top", "--ledger", str(ledger), "--every", "0.2"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    try:
        while shown.count(b"requests/s") < 2:
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        # Reading from a terminal that nobody has any more is an error.
        with contextlib.suppress(OSError):
            while more := os.read(ours, 65536):
                shown += more
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(ours)
    assert shown.index(b"\x1b[?1049h") < shown.rindex(b"requests/s") < shown.rindex(b"\x1b[?1049l")
    assert b"Traceback" not in shown
