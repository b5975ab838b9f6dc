"""A server that is told to end: what it has begun comes to its end, or is told that it does not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.loopback_cloud import DONE, Exchange, LoopbackCloud, chunks, usual
from fixtures.processes import Served, cloud_model, smallfirst_serve, wait_until

LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=200)


async def slow(exchange: Exchange) -> bool:
    """Answer after a while; a stream in pieces that take as long together."""
    if not exchange.request.raw or not exchange.request.body.get("stream"):
        await asyncio.sleep(1.0)
        return await usual(exchange)
    await exchange.start_stream()
    for piece in chunks(exchange):
        await asyncio.sleep(0.25)
        await exchange.piece(b"data: " + json.dumps(piece).encode() + b"\n\n")
    await exchange.piece(DONE)
    return await exchange.end_stream()


async def endless(exchange: Exchange) -> bool:
    """Never end: a stream says something every now and then."""
    if not exchange.request.raw:
        return await usual(exchange)
    if not exchange.request.body.get("stream"):
        await asyncio.sleep(60)
    await exchange.start_stream()
    for piece in chunks(exchange):
        await exchange.piece(b"data: " + json.dumps(piece).encode() + b"\n\n")
        await asyncio.sleep(60)
    return False


@pytest.fixture
def served(cloud: LoopbackCloud, tmp_path: Path) -> Iterator[Served]:
    with smallfirst_serve(
        tmp_path, models=[cloud_model("big", cloud.base_url)], server={"grace": 10}
    ) as running:
        yield running


def body(at: int, *, stream: bool) -> dict[str, Any]:
    return {"model": "big", "messages": [{"role": "user", "content": f"Number {at}"}], "stream": stream}


async def test_no_request_that_was_taken_is_cut_and_each_has_its_entry(
    served: Served, cloud: LoopbackCloud
) -> None:
    cloud.default = slow
    ends = asyncio.Event()
    whole: list[str] = []
    refused = 0

    async def client(http: httpx.AsyncClient, at: int) -> None:
        """Ask again and again until nobody listens."""
        nonlocal refused
        turn = 0
        while True:
            stream = bool((at + turn) % 2)
            turn += 1
            try:
                response = await http.post("/v1/chat/completions", json=body(at, stream=stream))
            except httpx.ConnectError:
                refused += 1
                assert ends.is_set()
                return
            assert response.status_code == 200, response.text
            complete = response.text.endswith("data: [DONE]\n\n") if stream else "choices" in response.json()
            assert complete
            whole.append(response.headers["x-smallfirst-request-id"])

    async with httpx.AsyncClient(base_url=served.root, timeout=30, limits=LIMITS) as http:
        clients = [asyncio.create_task(client(http, at)) for at in range(60)]
        await asyncio.sleep(1.7)
        ends.set()
        served.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*clients)
    assert await asyncio.to_thread(served.process.wait, 10) == 0
    assert refused == 60
    entries = served.entries()
    assert sorted(entry["request_id"] for entry in entries) == sorted(whole)
    assert {entry["status"] for entry in entries} == {"ok"}


def test_probes_are_told_at_once_and_connections_are_not_kept(served: Served, cloud: LoopbackCloud) -> None:
    cloud.default = slow
    with (
        httpx.Client(base_url=served.root, timeout=30) as waiting,
        httpx.Client(base_url=served.root) as probe,
    ):
        kept = probe.get("/health/ready")
        assert kept.status_code == 200
        assert "connection" not in kept.headers
        with waiting.stream("POST", "/v1/chat/completions", json=body(0, stream=True)) as response:
            served.process.send_signal(signal.SIGTERM)
            told = wait_until(lambda: (found := probe.get("/health/ready")).status_code == 503 and found)
            assert told.json()["status"] == "draining"
            assert told.headers["connection"] == "close"
            with pytest.raises(httpx.ConnectError):
                wait_until(lambda: httpx.get(f"{served.root}/health").status_code != 200)
            assert response.read().endswith(b"data: [DONE]\n\n")
    assert served.process.wait(10) == 0


def test_connections_that_wait_in_the_queue_are_served(served: Served) -> None:
    # Stopped, it takes none, and the system does in its place.
    os.kill(served.process.pid, signal.SIGSTOP)
    with ExitStack() as opened:
        waiting = [
            opened.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=30))
            for _ in range(400)
        ]
        for each in waiting:
            each.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        served.process.send_signal(signal.SIGTERM)
        os.kill(served.process.pid, signal.SIGCONT)
        assert {each.recv(15) for each in waiting} == {b"HTTP/1.1 200 OK"}
    assert served.process.wait(10) == 0


def test_a_hangup_meanwhile_loses_nothing(cloud: LoopbackCloud, tmp_path: Path) -> None:
    # The last entries are written at the end.
    ledger = {"path": str(tmp_path / "ledger.db"), "flush_interval": 1}
    models = [cloud_model("big", cloud.base_url)]
    with smallfirst_serve(tmp_path, models=models, ledger=ledger) as served:
        with httpx.Client(base_url=served.root, timeout=30) as http:
            for at in range(3):
                assert http.post("/v1/chat/completions", json=body(at, stream=False)).status_code == 200
        served.process.send_signal(signal.SIGTERM)
        while served.process.poll() is None:
            served.process.send_signal(signal.SIGHUP)
            time.sleep(0.003)
        assert len(served.entries()) == 3


def test_an_idle_connection_does_not_hold_up_the_end(served: Served) -> None:
    with httpx.Client(base_url=served.root) as idle:
        idle.get("/health")
        served.process.send_signal(signal.SIGTERM)
        # Less than the grace.
        assert served.process.wait(9) == 0


def cut(served: Served, cloud: LoopbackCloud, path: str, **fields: Any) -> httpx.Response:
    """Ask for what never ends, have the server end twice over, and return what came."""
    cloud.default = endless
    with (
        httpx.Client(base_url=served.root, timeout=30) as http,
        http.stream("POST", path, json={"model": "big", **fields}) as response,
    ):
        if response.status_code == 200:
            served.process.send_signal(signal.SIGTERM)
            # Two signals at once are one.
            wait_until(lambda: "about to end" in served.said())
            served.process.send_signal(signal.SIGTERM)
        response.read()
        return response


CHAT = {"messages": [{"role": "user", "content": "Tell me more."}]}


def test_a_second_signal_cuts_a_stream_with_an_error_event(served: Served, cloud: LoopbackCloud) -> None:
    answer = cut(served, cloud, "/v1/chat/completions", **CHAT, stream=True)
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert json.loads(events[-1])["error"]["code"] == "server_stopping"
    assert "[DONE]" not in events
    assert served.process.wait(10) == 128 + signal.SIGTERM
    assert [(entry["status"], entry["stream"]) for entry in served.entries()] == [("cancelled", 1)]


def test_an_anthropic_stream_is_cut_in_its_own_form(served: Served, cloud: LoopbackCloud) -> None:
    answer = cut(served, cloud, "/v1/messages", **CHAT, stream=True, max_tokens=9)
    name, data = answer.text.rstrip("\n").split("\n\n")[-1].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["type"] == "error"
    assert "message_stop" not in answer.text


def test_a_stream_of_responses_is_cut_in_its_own_form(served: Served, cloud: LoopbackCloud) -> None:
    answer = cut(served, cloud, "/v1/responses", input="Tell me more.", stream=True)
    assert "server_stopping" in answer.text.rstrip("\n").split("\n\n")[-1]
    assert "response.completed" not in answer.text


@pytest.mark.parametrize(("path", "where"), [("/v1/chat/completions", "error"), ("/v1/messages", "error")])
async def test_what_is_not_done_after_the_grace_gets_503(
    cloud: LoopbackCloud, tmp_path: Path, path: str, where: str
) -> None:
    cloud.default = endless
    with smallfirst_serve(
        tmp_path, models=[cloud_model("big", cloud.base_url)], server={"grace": 0.5}
    ) as served:
        async with httpx.AsyncClient(base_url=served.root, timeout=30) as http:
            asking = asyncio.create_task(http.post(path, json={"model": "big", **CHAT, "max_tokens": 9}))
            await asyncio.to_thread(wait_until, lambda: cloud.requests)
            served.process.send_signal(signal.SIGTERM)
            answer = await asking
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        assert "being stopped" in answer.json()[where]["message"]
        assert await asyncio.to_thread(served.process.wait, 10) == 0
        assert [entry["status"] for entry in served.entries()] == ["cancelled"]
