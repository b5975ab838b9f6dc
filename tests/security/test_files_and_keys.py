"""Files that nobody else may read, keys that open one thing each, and text that a terminal takes for text."""

from __future__ import annotations

import ast
import json
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures import plain_http
from fixtures.door import new_key
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.real_server import PROGRAM, RealServer, StartServer, environ

from smallfirst.router.access.store import SqliteKeyStore
from smallfirst.router.ledger import AttemptRecord, Entry, Ledger
from smallfirst.router.settings import LedgerSettings

ROOT = Path(__file__).parents[2]
ADMIN, OPS, TENANT = "admin-key-0123456789", "key-of-ops-0123", "key-of-acme-0123"


@pytest.fixture(scope="module")
def server(start_server: StartServer, _cloud_server: LoopbackCloud) -> RealServer:
    """A server whose umask hides nothing, with all kinds of keys."""
    before = os.umask(0)
    try:
        return start_server(
            json.dumps(
                {
                    "models": [{"name": "big", "kind": "openai", "base_url": _cloud_server.base_url}],
                    "ledger": {"path": "data/ledger.db", "flush_interval": 0.05, "texts": "full"},
                    "server": {
                        "admin_key": ADMIN,
                        "keys": [
                            {"key": OPS, "tenant": "ops"},
                            {"key": TENANT, "tenant": "acme", "admin": False},
                        ],
                    },
                }
            )
        )
    finally:
        os.umask(before)


def ask(server: RealServer, key: str | None, path: str, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return plain_http.request(
        "POST" if body else "GET", server.root + path, json=body or None, headers=headers
    )


CHAT = {"model": "big", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.usefixtures("cloud")
def test_nobody_else_may_read_what_is_kept(server: RealServer) -> None:
    folder = server.said.parent / "data"
    assert ask(server, TENANT, "/v1/chat/completions", **CHAT).status_code == 200
    SqliteKeyStore(folder / "keys.db").add(new_key().key)
    for _ in range(100):
        if (folder / "ledger.db").exists():
            break
        time.sleep(0.05)
    command = [str(PROGRAM), "ledger", "export", "--output", "data/entries.jsonl"]
    subprocess.run(command, cwd=server.said.parent, env=environ(), check=True, capture_output=True)
    made = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert {"ledger.db", "keys.db", "entries.jsonl"} <= set(made)
    assert {name: mode for name, mode in made.items() if mode & 0o077} == {}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "key", [None, "", TENANT, OPS, ADMIN[:-1], ADMIN + "x", " ", "Bearer", "\u00e9" * 20]
)
def test_no_other_key_opens_what_is_the_operators(server: RealServer, key: str | None) -> None:
    sent = b"" if key is None else b"authorization: Bearer " + key.encode() + b"\r\n"
    request = b"POST /admin/reload HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n%b\r\n" % sent
    assert server.raw(request).startswith(b"HTTP/1.1 401 ")


def test_the_admin_key_opens_it_and_spends_nothing(server: RealServer, cloud: LoopbackCloud) -> None:
    assert ask(server, ADMIN, "/admin/reload", a=1).status_code == 200
    assert ask(server, ADMIN, "/v1/chat/completions", **CHAT).status_code == 401
    assert cloud.requests == []


def test_a_tenants_key_sees_its_own_alone(server: RealServer) -> None:
    assert ask(server, TENANT, "/metrics").status_code == 403
    assert ask(server, OPS, "/metrics").status_code == 200
    for wanted in ("ops", "%", "*", "acme'--"):
        assert ask(server, TENANT, f"/v1/report?tenant={wanted}").json()["tenant"] == "acme"
        figures = ask(server, TENANT, f"/dashboard/figures?tenant={wanted}").json()
        assert figures["tenant"] == "acme"


def test_a_key_in_the_address_is_none(server: RealServer) -> None:
    for name in ("key", "api_key", "api-key", "access_token", "authorization"):
        assert ask(server, None, f"/v1/models?{name}={TENANT}").status_code == 401


def test_a_cookie_of_the_dashboard_opens_nothing_else(server: RealServer) -> None:
    with plain_http.Client(base_url=server.root) as client:
        client.post("/dashboard/login", data={"key": ADMIN})
        cookies = {"smallfirst_session": client.cookies["smallfirst_session"]}
    for path in ("/v1/models", "/metrics", "/v1/report"):
        assert plain_http.get(server.root + path, cookies=cookies).status_code == 401
    assert plain_http.post(f"{server.root}/admin/reload", cookies=cookies).status_code == 401
    assert plain_http.get(f"{server.root}/dashboard/figures", cookies=cookies).status_code == 200


HOSTILE = "\x1b]0;a\x07\x9b1m\u202e[b]x[/b]\r"


@pytest.mark.parametrize("command", ["report --by agent,tenant", "top --once", "keys list"])
def test_a_name_moves_no_cursor_and_sets_no_title(tmp_path: Path, command: str) -> None:
    file = tmp_path / "smallfirst.yaml"
    file.write_text("ledger: {path: ledger.db}\n")
    ledger = Ledger(LedgerSettings(path=tmp_path / "ledger.db"))
    attempts = (AttemptRecord(HOSTILE, "local", "discarded", 0, 1.0, 1, 1, 0.0, HOSTILE),)
    ledger.record(
        Entry(
            request_id="r",
            started_at=time.time(),
            duration_ms=9.0,
            agent=HOSTILE,
            tags=(HOSTILE,),
            tenant=HOSTILE,
            model=HOSTILE,
            route="cloud",
            attempts=attempts,
        )
    )
    ledger.close()
    SqliteKeyStore(tmp_path / "keys.db").add(new_key(HOSTILE).key)
    done = subprocess.run(
        [PROGRAM, *command.split()], cwd=tmp_path, env=environ(), capture_output=True, text=True, check=True
    )
    assert "?]0;a??1m?[b]x[/b]?" in done.stdout
    bad = {char for char in done.stdout if char != "\n" and not char.isprintable()}
    assert bad == set()


# What runs code that a file brings, or fetches one by itself.
FORBIDDEN = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "torch",
    "xmlrpc",
    "telnetlib",
}


def test_no_module_reads_files_that_are_programs() -> None:
    found = set()
    for folder in ("router", "agents", "policies", "evals"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    names = (
                        [node.func.id] if node.func.id in ("eval", "exec", "__import__", "compile") else []
                    )
                elif isinstance(node, ast.keyword) and node.arg in (
                    "allow_pickle",
                    "trust_remote_code",
                    "shell",
                ):
                    is_off = isinstance(node.value, ast.Constant) and node.value.value is False
                    names = [] if is_off else [f"{node.arg}="]
                bad = FORBIDDEN | {"eval", "exec", "__import__", "compile"}
                found |= {
                    (str(path.relative_to(ROOT)), name)
                    for name in names
                    if name.split(".")[0] in bad or name.endswith("=")
                }
    assert found == set()
