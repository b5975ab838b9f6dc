"""A serving process that is killed: the others go on, and nothing that was written is damaged."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.loopback_cloud import DONE, Exchange, LoopbackCloud, chunks, usual
from fixtures.processes import Served, cloud_model, is_alive, port_of, smallfirst_serve, wait_until

from smallfirst.router.settings import default_local_model

# Entries that a killed process had not written yet are lost: it writes every 0.1 s, here.
UNWRITTEN = 0.5


async def slow(exchange: Exchange) -> bool:
    """Answer after a while; a stream takes longer."""
    if not exchange.request.raw or not exchange.request.body.get("stream"):
        await asyncio.sleep(0.05)
        return await usual(exchange)
    await exchange.start_stream()
    for piece in chunks(exchange):
        await exchange.piece(b"data: " + json.dumps(piece).encode() + b"\n\n")
        await asyncio.sleep(0.6)
    await exchange.piece(DONE)
    return await exchange.end_stream()


@pytest.fixture
def served(cloud: LoopbackCloud, model_path: Path, tmp_path: Path) -> Iterator[Served]:
    """Two processes over a cloud model that takes its time, and a local one."""
    cloud.default = slow
    default = default_local_model().model_dump(mode="json", include={"kind", "system_prompt"})
    small = {**default, "name": "small", "source": f"file:{model_path}"}
    models = [cloud_model("big", cloud.base_url), small]
    with smallfirst_serve(tmp_path, "--workers", "2", models=models) as running:
        wait_until(lambda: len(running.workers()) == 2 and len(running.engines()) == 1)
        yield running


def body(model: str, text: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


class Load:
    """Clients with streams and clients that ask again and again, each on connections of their own.

    Attributes:
        whole: When answers ended, and their ids.
        failed: When requests began that got no answer.
        owners: By a stream's id the process that had it.
        complete: Whether it came whole.
    """

    def __init__(self, served: Served, http: httpx.AsyncClient) -> None:
        self._served, self._http = served, http
        self.stop = asyncio.Event()
        self.whole: list[tuple[float, str]] = []
        self.failed: list[float] = []
        self.owners: dict[str, int] = {}
        self.complete: dict[str, bool] = {}

    async def stream(self, number: int) -> None:
        text = ""
        asked = self._http.stream("POST", "/v1/chat/completions", json=body("big", f"{number}", stream=True))
        async with asked as response:
            identity = response.headers["x-smallfirst-request-id"]
            port = port_of(response)
            self.owners[identity] = (await asyncio.to_thread(self._served.owners, [port]))[port]
            with suppress(httpx.TransportError):
                async for part in response.aiter_text():
                    text += part
        self.complete[identity] = text.endswith("data: [DONE]\n\n")

    async def ask_again_and_again(self) -> None:
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                answer = await self._http.post("/v1/chat/completions", json=body("big"))
            except httpx.TransportError:
                self.failed.append(began)
            else:
                assert answer.status_code == 200
                self.whole.append((time.monotonic(), answer.headers["x-smallfirst-request-id"]))


async def test_only_its_own_requests_fail_and_the_ledger_is_sound(served: Served) -> None:
    apart = httpx.Limits(max_connections=100, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=served.root, timeout=30, verify=False, limits=apart) as http:
        load = Load(served, http)
        streams = [asyncio.create_task(load.stream(number)) for number in range(12)]
        short = [asyncio.create_task(load.ask_again_and_again()) for _ in range(8)]
        while len(load.owners) < 12:
            await asyncio.sleep(0.02)
        victim, other = served.workers()
        killed_at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        await asyncio.gather(*streams)
        await asyncio.to_thread(wait_until, lambda: len(served.workers()) == 2)
        await asyncio.sleep(0.5)
        load.stop.set()
        await asyncio.gather(*short)

    assert set(load.owners.values()) == {victim, other}
    assert load.complete == {identity: pid == other for identity, pid in load.owners.items()}
    # Only what it had begun, or what it had taken right then; the others serve who comes.
    assert all(began <= killed_at + 0.05 for began in load.failed)
    assert any(ended > killed_at + 0.1 for ended, _ in load.whole)
    assert served.end() == 0
    entries = served.entries()
    known = [entry["request_id"] for entry in entries]
    assert len(known) == len(set(known))
    sure = {name for ended, name in load.whole if not killed_at - UNWRITTEN < ended < killed_at + UNWRITTEN}
    assert sure | {name for name, done in load.complete.items() if done} <= set(known)
    assert {entry["status"] for entry in entries} == {"ok"}


ENDLESS = body(
    "small",
    "Count.",
    stream=True,
    response_format={
        "type": "json_schema",
        "json_schema": {
            "name": "numbers",
            "schema": {
                "type": "object",
                "properties": {"numbers": {"type": "array", "minItems": 900, "items": {"type": "integer"}}},
                "required": ["numbers"],
            },
        },
    },
)


async def busy(http: httpx.AsyncClient) -> float:
    """How many sequences the local model has in its batch."""
    text = (await http.get("/metrics")).text
    return sum(
        float(line.split()[1]) for line in text.splitlines() if line.startswith("smallfirst_local_busy")
    )


async def test_what_the_local_model_made_for_it_is_given_up(served: Served) -> None:
    engine = served.engines()
    counts: list[float] = []
    apart = httpx.Limits(max_connections=100, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=served.root, timeout=30, verify=False, limits=apart) as http:
        pids: dict[int, int] = {}

        async def stream() -> None:
            async with http.stream("POST", "/v1/chat/completions", json=ENDLESS) as response:
                port = port_of(response)
                pids[port] = await asyncio.to_thread(lambda: served.owners([port])[port])
                try:
                    async for _ in response.aiter_raw():
                        pass
                except httpx.TransportError:
                    pids[port] = 0

        victim, other = served.workers()
        streams = []
        while set(pids.values()) != {victim, other} or len(pids) < 4:
            streams.append(asyncio.create_task(stream()))
            while len(pids) < len(streams):
                await asyncio.sleep(0.02)
        mine = sum(pid == other for pid in pids.values())
        while await busy(http) != len(pids):
            await asyncio.sleep(0.1)
        os.kill(victim, signal.SIGKILL)
        while await busy(http) != mine:
            await asyncio.sleep(0.1)
        counts = [float(sum(pid == 0 for pid in pids.values())), float(mine)]
        for each in streams:
            each.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        while await busy(http) != 0:
            await asyncio.sleep(0.1)
    assert sum(counts) == len(pids)
    assert min(counts) > 0
    assert served.engines() == engine


def test_a_local_model_that_is_killed_is_there_again_for_all(served: Served) -> None:
    (engine,) = served.engines()
    os.kill(engine, signal.SIGKILL)
    wait_until(lambda: not is_alive(engine))
    with httpx.Client(
        base_url=served.root, timeout=30, verify=False, limits=httpx.Limits(max_keepalive_connections=0)
    ) as http:
        for _ in range(6):
            wait_until(
                lambda: http.post("/v1/chat/completions", json=body("small", max_tokens=3)).status_code == 200
            )
    (successor,) = served.engines()
    assert successor != engine


async def test_a_second_signal_cuts_what_a_local_model_makes(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.root, timeout=30, verify=False) as http:
        asked = http.stream("POST", "/v1/chat/completions", json=ENDLESS)
        async with asked as response:
            served.process.send_signal(signal.SIGTERM)
            # Two signals at once are one.
            await asyncio.to_thread(wait_until, lambda: "about to end" in served.said())
            served.process.send_signal(signal.SIGTERM)
            events = [part async for part in response.aiter_lines() if part]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "server_stopping"
    assert await asyncio.to_thread(served.process.wait, 10) == 128 + signal.SIGTERM
    assert [entry["status"] for entry in served.entries()] == ["cancelled"]


def test_one_that_cannot_be_started_is_tried_again(served: Served) -> None:
    victim, other = served.workers()
    limits = resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: "cannot be started: Too many open files" in served.said())
    assert served.workers() == [other]
    resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: len(served.workers()) == 2)
    assert served.end() == 0


def test_one_that_is_told_to_end_ends_well_and_is_replaced(served: Served, cloud: LoopbackCloud) -> None:
    first = served.workers()
    with httpx.Client(base_url=served.root, timeout=30, verify=False) as http:
        asked = http.stream("POST", "/v1/chat/completions", json=body("big", stream=True))
        with asked as response:
            pid = served.owners([port_of(response)]).popitem()[1]
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: len(served.workers()) == 3)
            assert response.read().endswith(b"data: [DONE]\n\n")
    wait_until(lambda: len(served.workers()) == 2 and pid not in served.workers())
    assert set(first) - set(served.workers()) == {pid}
    assert served.end() == 0
    assert [entry["status"] for entry in served.entries()] == ["ok"]
