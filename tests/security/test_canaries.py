"""One run with secrets and prompts that can be told from all else, by every path and fault; then all that came out of
the gateway is searched for them: logs, metrics, traces, ledger, Redis, reports, pages, answers to other callers.
"""

from __future__ import annotations

import gzip
import http.server
import json
import subprocess
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fixtures import plain_http
from fixtures.loopback_cloud import (
    Behaviour,
    Exchange,
    LoopbackCloud,
    cut,
    events,
    hang_up,
    raw,
    status,
    usual,
)
from fixtures.real_server import PROGRAM, RealServer, StartServer, environ
from fixtures.redis_server import RedisServer

KEYS = {
    "cloud": "sk-canary-of-the-cloud-4f1a",
    "header": "canary-of-a-cloud-header-77b2",
    "caller": "canary-of-a-caller-key-90c3",
    "tenant": "canary-of-a-tenant-key-18d4",
    "admin": "canary-of-the-admin-key-52e5",
    "collector": "canary-of-the-collector-63f6",
    "wrong": "canary-of-a-wrong-key-a7a7",
}
PROMPT, REPLY, LABEL = "canary-of-the-prompt-2c8b", "canary-of-the-reply-be19", "canary-of-metadata-d0d1"


@dataclass
class Collector:
    """An OTLP collector that keeps what it is sent."""

    port: int = 0
    bodies: list[bytes] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()

    class Take(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            coding = self.headers.get("content-encoding")
            made.bodies.append(
                gzip.decompress(body) if coding == "gzip" else zlib.decompress(body) if coding else body
            )
            made.headers.append(str(self.headers))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()


def echo(code: int) -> Behaviour:
    """Quote all that was sent, as a proxy in debug mode does."""

    async def behave(exchange: Exchange) -> bool:
        quoted = f"{exchange.request.headers} {exchange.request.raw!r}"
        error = {"message": quoted, "type": quoted, "code": quoted, "param": quoted}
        return await exchange.whole(code, json.dumps({"error": error}).encode(), {"x-quoted": KEYS["cloud"]})

    return behave


def told() -> bytes:
    quoted = json.dumps({"error": {"message": f"Bearer {KEYS['cloud']}", "code": REPLY}}).encode()
    return b"data: " + quoted + b"\n\n"


FAULTS: tuple[Behaviour, ...] = (
    usual,
    *(echo(code) for code in (400, 401, 403, 404, 408, 422, 429, 500, 503)),
    status(302, location=f"http://{KEYS['cloud']}.example/"),
    raw(b"<html>" + REPLY.encode(), content_type="text/html"),
    raw(b'{"choices": "' + REPLY.encode() + b'"}'),
    hang_up(),
    cut(after=2),
    events(told()),
    events(b"data: {" + REPLY.encode() + b"\n\n"),
)


@dataclass
class Run:
    """What came out.

    Attributes:
        outputs: By name, in bytes.
        strangers: What a caller without a key, or with another tenant's, was answered.
    """

    outputs: dict[str, bytes]
    strangers: list[bytes]
    answers: list[bytes]


def ask(root: str, key: str | None, path: str, body: dict[str, Any] | None = None) -> bytes:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    method, content = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
    try:
        answer = plain_http.request(method, root + path, content=content, headers=headers, timeout=30)
    except httpx.TransportError as exc:
        return repr(exc).encode()
    return str(answer.headers).encode() + answer.content


def stored(client: Any, key: bytes) -> bytes:
    """What Redis has under a key; its own dump may be compressed."""
    kind = client.type(key)
    read = {b"string": client.get, b"hash": client.hgetall, b"set": client.smembers}.get(kind, client.dump)
    return repr((key, read(key))).encode()


def talk(server: RealServer, cloud: LoopbackCloud) -> tuple[list[bytes], list[bytes]]:
    """Ask in every way, over every fault; returns what the tenant and what strangers got."""
    said: dict[str, Any] = {
        "model": "big",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 5,
    }
    said["metadata"] = {"agent": "a", "note": LABEL}
    answers = [ask(server.root, KEYS["tenant"], "/v1/chat/completions", {**said, "cache": {}})]
    strangers: list[bytes] = []
    for stream in (False, True):
        for fault in FAULTS:
            cloud.enqueue(fault)
            answers.append(
                ask(
                    server.root,
                    KEYS["tenant"],
                    "/v1/chat/completions",
                    {**said, "stream": stream, "user": str(stream)},
                )
            )
        for path in ("/v1/messages", "/v1/responses", "/v1/completions", "/v1/moderations", "/v1/route"):
            shaped = {"/v1/responses": {"input": PROMPT}, "/v1/completions": {"prompt": PROMPT}}
            body = {"model": "big", **shaped.get(path, {"messages": said["messages"], "max_tokens": 5})}
            body |= {"input": PROMPT} if path == "/v1/moderations" else {"stream": stream}
            cloud.enqueue(usual, echo(429))
            answers += [ask(server.root, KEYS["tenant"], path, body) for _ in range(2)]
    ask(server.root, KEYS["admin"], "/admin/reload", {})
    broken = b'{"model": "big", "messages": [{"role": "user", "content": "' + PROMPT.encode()
    for content in (broken, b"\xff" + PROMPT.encode(), b"[" * 5000 + PROMPT.encode()):
        headers = {"authorization": f"Bearer {KEYS['tenant']}"}
        plain_http.post(f"{server.root}/v1/chat/completions", content=content, headers=headers)
    for key in (None, KEYS["wrong"]):
        for path in ("/v1/chat/completions", "/admin/reload", "/dashboard/login"):
            strangers.append(ask(server.root, key, path, said))
    for path in (
        "/health",
        "/health/ready",
        "/openapi.json",
        "/dashboard",
        "/v1/models",
        f"/{KEYS['wrong']}",
    ):
        strangers.append(ask(server.root, None, path))
    plain_http.get(
        f"{server.root}/v1/report", params={"key": KEYS["wrong"]}, headers={"x-api-key": KEYS["wrong"]}
    )
    server.raw(b"GET /?k=%b HTTP/1.1\r\nx: %b\x00\r\n\r\n" % ((KEYS["wrong"].encode(),) * 2), wait=0.5)
    return answers, strangers


@pytest.fixture(scope="module")
def run(
    start_server: StartServer,
    _cloud_server: LoopbackCloud,
    collector: Collector,
    _redis_process: RedisServer,
) -> Run:
    """The run, once for all tests of what came out."""
    cloud = _cloud_server
    cloud.reset()
    cloud.answer_text = REPLY
    with _redis_process.client() as client:
        client.flushall()
    settings = {
        "models": [
            {
                "name": "big",
                "kind": "openai",
                "base_url": cloud.base_url,
                "api_key": "${CLOUD_KEY}",
                "headers": {"x-second": KEYS["header"]},
                "retries": {"max": 0},
                "breaker": {"failures": 1000, "least_calls": 1000},
            }
        ],
        "cache": {"url": _redis_process.url},
        "ledger": {"path": "ledger.db", "flush_interval": 0.05},
        "log": {"level": "debug", "format": "json"},
        "server": {
            "admin_key": KEYS["admin"],
            "keys": [
                {"key": KEYS["caller"], "tenant": "ops"},
                {"key": KEYS["tenant"], "tenant": "acme", "admin": False, "name": "acme", "rpm": 10000},
            ],
        },
        "telemetry": {
            "endpoint": f"http://127.0.0.1:{collector.port}",
            "headers": {"x-collector": KEYS["collector"]},
        },
    }
    server = start_server(json.dumps(settings), env={"CLOUD_KEY": KEYS["cloud"]})
    answers, strangers = talk(server, cloud)
    folder, out = server.said.parent, {}
    for path in (
        "/metrics",
        "/v1/report?by=agent,tenant,model,session,tag",
        "/dashboard",
        "/dashboard/figures",
    ):
        out[path] = ask(server.root, KEYS["caller"], path)
    with _redis_process.client() as client:
        out["redis"] = b"\n".join(stored(client, key) for key in client.keys("*"))
    server.stop()
    for command in (
        "report",
        "report --format json",
        "ledger export --output x.jsonl",
        "config check --show",
    ):
        done = subprocess.run(
            [PROGRAM, *command.split()],
            cwd=folder,
            env=environ(CLOUD_KEY=KEYS["cloud"]),
            capture_output=True,
            check=False,
            timeout=60,
        )
        out[command] = done.stdout + done.stderr
    out["standard error"] = server.said.read_bytes()
    out["traces"] = b"\n".join(collector.bodies)
    for file in folder.iterdir():
        if file.name not in ("smallfirst.yaml", "stderr"):
            out[file.name] = file.read_bytes()
    return Run(out, strangers, answers)


def found(outputs: dict[str, bytes], *canaries: str) -> set[tuple[str, str]]:
    return {(name, each) for name, data in outputs.items() for each in canaries if each.encode() in data}


def test_the_run_was_one(run: Run) -> None:
    assert b"smallfirst.request" in run.outputs["standard error"]
    assert b"smallfirst_requests_total" in run.outputs["/metrics"]
    assert b"smallfirst.request_id" in run.outputs["traces"]
    assert b"acme" in run.outputs["ledger.db"]
    assert b"big" in run.outputs["report"]
    assert b"<main" in run.outputs["/dashboard"]
    assert b"******" in run.outputs["config check --show"]
    # The cache keeps answers: that is what it is for.
    assert REPLY.encode() in run.outputs["redis"]
    assert any(REPLY.encode() in answer for answer in run.answers)


def test_no_key_is_in_anything_that_came_out(run: Run) -> None:
    assert found(run.outputs, *KEYS.values()) == set()


def test_no_key_is_in_an_answer(run: Run) -> None:
    answers = {str(at): answer for at, answer in enumerate([*run.answers, *run.strangers])}
    given = {name: key for name, key in KEYS.items() if name != "wrong"}
    assert found(answers, *given.values()) == set()


def test_no_prompt_and_no_answer_is_in_anything_but_the_cache(run: Run) -> None:
    outputs = {name: data for name, data in run.outputs.items() if name != "redis"}
    assert found(outputs, PROMPT, REPLY, LABEL) == set()


def test_strangers_are_told_nothing_of_requests(run: Run) -> None:
    strangers = {str(at): answer for at, answer in enumerate(run.strangers)}
    assert found(strangers, PROMPT, REPLY, LABEL, "acme", "ledger.db") == set()


def test_nothing_ended_in_a_traceback(run: Run) -> None:
    said = run.outputs["standard error"].decode()
    assert "Traceback" not in said
    assert "internal_error" not in said
    assert [
        line for line in said.splitlines() if line.startswith("{") and json.loads(line)["level"] == "error"
    ] == []


def test_the_collector_was_sent_its_own_key_alone(run: Run, collector: Collector) -> None:
    assert all(KEYS["collector"] in headers for headers in collector.headers)
    others = [key for name, key in KEYS.items() if name != "collector"]
    assert not any(key in headers for key in others for headers in collector.headers)
