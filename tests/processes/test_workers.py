"""Several serving processes on one port: what is one for all of them is one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.loopback_cloud import Exchange, LoopbackCloud, usual
from fixtures.processes import (
    ADMIN,
    SMALLFIRST,
    Served,
    at,
    cloud_model,
    descendants,
    is_alive,
    smallfirst_serve,
    wait_until,
)

from smallfirst.router.settings import default_local_model

ALL, TEN, TWO = "k-for-all-0123456789", "k-for-ten-0123456789", "k-for-two-0123456789"

KEYS = [
    {"key": ALL, "tenant": "acme"},
    {"key": TEN, "tenant": "acme", "name": "ten", "requests": 10},
    {"key": TWO, "tenant": "acme", "name": "two", "max_concurrent": 2},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def upstream() -> Iterator[LoopbackCloud]:
    """A cloud on loopback that all tests of this file ask."""
    cloud = LoopbackCloud()
    for _ in cloud.run():
        yield cloud


@pytest.fixture(scope="module")
def small(model_path: Path) -> dict[str, Any]:
    default = default_local_model().model_dump(mode="json", include={"kind", "system_prompt"})
    return {**default, "name": "small", "source": f"file:{model_path}"}


@pytest.fixture(scope="module")
def served(folder: Path, upstream: LoopbackCloud, small: dict[str, Any]) -> Iterator[Served]:
    """Two processes over a cloud model and a local one."""
    models = [cloud_model("big", upstream.base_url), small]
    more: dict[str, Any] = {"server": {"keys": KEYS}, "cache": {"enabled": True}}
    with smallfirst_serve(folder, "--workers", "2", models=models, **more) as running:
        wait_until(lambda: set(owners(running, 8)) == set(running.workers()), seconds=30)
        yield running


def owners(served: Served, count: int) -> list[int]:
    """The ids of the processes that have some new connections."""
    with ExitStack() as opened:
        made = [
            opened.enter_context(socket.create_connection(("127.0.0.1", served.port))) for _ in range(count)
        ]
        ports = [each.getsockname()[1] for each in made]
        wait_until(lambda: len(served.owners(ports)) == count)
        return list(served.owners(ports).values())


@contextmanager
def both(served: Served, key: str = ALL) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A client of each of the two processes."""
    one, other = served.workers()
    with at(served, one, key) as first, at(served, other, key) as second:
        yield first, second


def body(model: str, text: str | None = None, **fields: Any) -> dict[str, Any]:
    """A request; each without a text has one that no other has."""
    return {"model": model, "messages": [{"role": "user", "content": text or uuid.uuid4().hex}], **fields}


def test_connections_are_spread(served: Served) -> None:
    found = Counter(owners(served, 64))
    assert sorted(found) == sorted(served.workers())
    # Of a fair coin 64 times: less than 12 once in ten million.
    assert min(found.values()) >= 12


def test_a_local_model_is_loaded_once_and_answers_all(served: Served) -> None:
    assert len(served.engines()) == 1
    for worker in served.workers():
        with at(served, worker, ALL) as http:
            answer = http.post("/v1/chat/completions", json=body("small", "What is the capital of France?"))
            assert "Paris" in answer.json()["choices"][0]["message"]["content"]


async def test_requests_of_all_processes_are_in_one_batch(served: Served) -> None:
    long = body("small", "Tell me a long story about a fox.", max_tokens=200, temperature=1)
    headers = {"authorization": f"Bearer {ALL}"}
    async with httpx.AsyncClient(base_url=served.root, headers=headers, timeout=30, verify=False) as http:
        with both(served) as clients:
            asking = [
                asyncio.create_task(asyncio.to_thread(each.post, "/v1/chat/completions", json=long))
                for each in clients
            ]
            answers = asyncio.gather(*asking)
            busy = set()
            while not answers.done():
                text = (await http.get("/metrics")).text
                busy |= {
                    line.split()[1] for line in text.splitlines() if line.startswith("smallfirst_local_busy")
                }
                await asyncio.sleep(0.1)
            assert [answer.status_code for answer in await answers] == [200, 200]
    assert "2.0" in busy


def sample(text: str, start: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))


def test_one_scrape_tells_of_all_processes(served: Served) -> None:
    counter = 'smallfirst_requests_total{model="big",route="cloud",status="ok"}'
    with both(served) as (one, other):
        before = sample(one.get("/metrics").text, counter)
        for number in range(7):
            assert (one, other)[number % 2].post("/v1/chat/completions", json=body("big")).status_code == 200
        assert [sample(http.get("/metrics").text, counter) - before for http in (one, other)] == [7, 7]
        assert sample(other.get("/metrics").text, "smallfirst_local_loaded") == 1


async def test_a_budget_without_redis_holds_for_all_processes(served: Served) -> None:
    headers = {"authorization": f"Bearer {TEN}"}
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=served.root, headers=headers, limits=limits, timeout=30) as http:
        asked = [http.post("/v1/chat/completions", json=body("big")) for _ in range(40)]
        found = Counter(answer.status_code for answer in await asyncio.gather(*asked))
    assert found == {200: 10, 429: 30}


def test_slots_are_counted_for_all_processes(served: Served, upstream: LoopbackCloud) -> None:
    refused = threading.Event()

    async def held(exchange: Exchange) -> bool:
        while not refused.is_set():
            await asyncio.sleep(0.01)
        return await usual(exchange)

    async def ask() -> list[int]:
        refused.clear()
        found: list[int] = []
        with both(served, TWO) as (one, other), both(served, TWO) as (third, fourth):
            asked = [
                asyncio.to_thread(each.post, "/v1/chat/completions", json=body("big"))
                for each in (one, other, third, fourth)
            ]
            for answer in asyncio.as_completed(asked):
                found.append((await answer).status_code)
                if found.count(429) == 2:
                    refused.set()
        return sorted(found)

    upstream.default = held
    try:
        assert asyncio.run(ask()) == [200, 200, 429, 429]
        assert asyncio.run(ask()) == [200, 200, 429, 429]
    finally:
        refused.set()
        upstream.default = None


def test_a_response_is_known_to_all_processes(served: Served, upstream: LoopbackCloud) -> None:
    with both(served) as (one, other):
        first = one.post("/v1/responses", json={"model": "big", "input": "My name is Ada."}).json()
        second = {"model": "big", "input": "What is my name?", "previous_response_id": first["id"]}
        assert other.post("/v1/responses", json=second).status_code == 200
        told = [message["content"] for message in upstream.requests[-1].body["messages"]]
        assert "My name is Ada." in str(told)
        assert other.get(f"/v1/responses/{first['id']}").json()["id"] == first["id"]
        assert one.delete(f"/v1/responses/{first['id']}").json()["deleted"] is True
        gone = other.post("/v1/responses", json=second)
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "previous_response_not_found")


def test_feedback_is_taken_by_another_process(served: Served) -> None:
    with both(served) as (one, other):
        answer = one.post("/v1/chat/completions", json=body("big"))
        rating = {"request_id": answer.headers["x-smallfirst-request-id"], "score": 1}
        assert other.post("/v1/feedback", json=rating).status_code == 200


def test_who_signed_in_is_known_to_all_processes(folder: Path, served: Served) -> None:
    with both(served, "") as (one, other):
        done = one.post("/dashboard/login", data={"key": ALL})
        cookie = done.headers["set-cookie"].partition(";")[0]
        assert other.get("/dashboard/figures", headers={"cookie": cookie}).status_code == 200


def is_unknown(http: httpx.Client, model: str) -> bool:
    return http.post("/v1/chat/completions", json=body(model)).status_code == 404


def test_a_reload_reaches_all_processes(served: Served, upstream: LoopbackCloud) -> None:
    before = served.settings["models"]
    headers = {"authorization": f"Bearer {ADMIN}"}
    try:
        served.write(models=[*before, cloud_model("more", upstream.base_url)])
        answer = httpx.post(f"{served.root}/admin/reload", headers=headers, timeout=30)
        assert answer.json()["models"]["added"] == ["more"]
        for worker in served.workers():
            with at(served, worker, ALL) as http:
                assert http.post("/v1/chat/completions", json=body("more")).status_code == 200
    finally:
        served.write(models=before)
    served.process.send_signal(signal.SIGHUP)
    for worker in served.workers():
        with at(served, worker, ALL) as http:
            wait_until(partial(is_unknown, http, "more"))
    # Local models are the same: they went on.
    assert len(served.engines()) == 1


def test_a_changed_local_model_is_loaded_once_and_the_old_one_is_gone(served: Served) -> None:
    before, (old,) = served.settings["models"], served.engines()
    headers = {"authorization": f"Bearer {ADMIN}"}
    big, small = before
    try:
        served.write(models=[big, {**small, "max_output_tokens": 64}])
        answer = httpx.post(f"{served.root}/admin/reload", headers=headers, timeout=60)
        assert answer.json()["models"]["changed"] == ["small"]
        wait_until(lambda: old not in served.engines())
        assert len(served.engines()) == 1
    finally:
        served.write(models=before)
        httpx.post(f"{served.root}/admin/reload", headers=headers, timeout=60)


def test_answers_are_forgotten_by_all_processes(served: Served) -> None:
    question = body("big", "Which river flows through Vienna?", temperature=0)

    def ask(http: httpx.Client) -> str:
        return http.post("/v1/chat/completions", json=question).headers["x-smallfirst-cache"]

    with both(served) as (one, other):
        for http in (one, other):
            assert ask(http) == "miss"
            wait_until(partial(lambda http: ask(http) == "exact", http))
        assert one.delete("/v1/cache").json()["deleted"] >= 2
        assert [ask(http) for http in (one, other)] == ["miss", "miss"]


def test_a_broken_file_changes_nothing(served: Served) -> None:
    before = served.settings["models"]
    headers = {"authorization": f"Bearer {ADMIN}"}
    try:
        served.write(models=[])
        answer = httpx.post(f"{served.root}/admin/reload", headers=headers, timeout=30)
    finally:
        served.write(models=before)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "settings_error"
    for worker in served.workers():
        with at(served, worker, ALL) as http:
            assert http.post("/v1/chat/completions", json=body("big")).status_code == 200


def test_the_end_of_all_processes_cuts_nothing(upstream: LoopbackCloud, tmp_path: Path) -> None:
    async def slow(exchange: Exchange) -> bool:
        await asyncio.sleep(0.7)
        return await usual(exchange)

    async def load(served: Served) -> list[str]:
        ended = asyncio.Event()

        async def ask(http: httpx.AsyncClient, at: int) -> list[str]:
            found: list[str] = []
            while True:
                try:
                    answer = await http.post(
                        "/v1/chat/completions", json=body("big", f"{at}", stream=at % 2 == 0)
                    )
                except httpx.ConnectError:
                    assert ended.is_set()
                    return found
                assert answer.status_code == 200
                found.append(answer.headers["x-smallfirst-request-id"])

        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
        async with httpx.AsyncClient(base_url=served.root, timeout=30, limits=limits) as http:
            asking = [asyncio.create_task(ask(http, at)) for at in range(40)]
            await asyncio.sleep(1.2)
            ended.set()
            served.process.send_signal(signal.SIGTERM)
            return [identity for found in await asyncio.gather(*asking) for identity in found]

    upstream.default = slow
    try:
        with smallfirst_serve(
            tmp_path, "--workers", "2", models=[cloud_model("big", upstream.base_url)]
        ) as served:
            wait_until(lambda: set(owners(served, 8)) == set(served.workers()), seconds=30)
            everybody = descendants(served.process.pid)
            answered = asyncio.run(load(served))
            assert served.process.wait(15) == 0
            assert not any(map(is_alive, everybody))
            assert sorted(entry["request_id"] for entry in served.entries()) == sorted(answered)
    finally:
        upstream.default = None


def test_a_port_that_is_taken_is_an_error(served: Served, tmp_path: Path) -> None:
    command = [
        SMALLFIRST,
        "--config",
        str(served.file),
        "serve",
        "--workers",
        "2",
        "--port",
        str(served.port),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert f"server.port {served.port}: Address already in use" in done.stderr


def test_what_no_process_can_begin_with_is_an_error(tmp_path: Path) -> None:
    labels = {"name": "labels", "kind": "classifier", "path": str(tmp_path / "none.json")}
    with smallfirst_serve(tmp_path, "--workers", "2", ready=False, models=[labels]) as served:
        assert served.process.wait(20) == 1
        assert str(tmp_path / "none.json") in served.said()


@pytest.mark.skipif(sys.platform != "linux", reason="where connections are spread by the system")
def test_processes_end_with_their_parent(
    upstream: LoopbackCloud, small: dict[str, Any], tmp_path: Path
) -> None:
    with smallfirst_serve(tmp_path, "--workers", "2", models=[small]) as served:
        everybody = descendants(served.process.pid)
        assert len(everybody) == 3
        os.kill(served.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, everybody)))
