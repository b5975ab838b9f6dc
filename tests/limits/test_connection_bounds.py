"""How many connections there are, and what a header may be."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fixtures.bounded_server import Answered, Client, OpenServer, until
from fixtures.faulty_upstream import OpenHouse
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from smallfirst.router.server.bounds import Bounded, Bounds
from smallfirst.router.server.connections import MOST_PIPELINED, SPARE, allow_files
from smallfirst.router.settings import Limits

CHAT = "/v1/chat/completions"


async def says_done(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for done in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{done}.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    await PlainTextResponse("done")(scope, receive, send)


def bounded(**limits: Any) -> Bounded:
    return Bounded(says_done, Bounds(Limits(**limits)))


async def asked(client: Client, raw: bytes) -> Answered | None:
    await client.send(raw)
    return await client.answer()


# --- number -------------------------------------------------------------------------------------------------------


async def test_one_connection_too_many_is_refused_until_another_one_is_closed(
    bounded_server: OpenServer,
) -> None:
    async with bounded_server(bounded(max_connections=2)) as server:
        held = [await server.connect() for _ in range(2)]
        for client in held:
            await client.post(CHAT, b"{}")
            assert await client.answer() is not None
        refused = await server.ask(CHAT, {})
        held[0].close()
        assert await until(lambda: server.bounds.load().connections == 1)
        after = await server.ask(CHAT, {})
    assert (refused.status, refused.error["code"]) == (503, "overloaded")
    assert refused.headers["connection"] == "close"
    assert "limits.max_connections" in refused.error["message"]
    assert after.status == 200


async def test_probes_get_through_on_a_few_connections_more(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(max_connections=2)) as server:
        for _ in range(2):
            await (await server.connect()).post(CHAT, b"{}")
        assert [(await server.ask(path)).status for path in ("/health", "/metrics")] == [200, 200]


async def test_far_too_many_connections_are_refused_unheard(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(max_connections=2)) as server:
        for _ in range(2 + SPARE):
            await server.connect()
        assert await until(lambda: server.bounds.load().connections == 2 + SPARE)
        more = await server.connect()
        refused = await more.answer()
        assert await more.closed()
    assert refused is not None
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert server.bounds.shed["connections"] == 1


def test_the_process_may_open_as_many_files_as_it_needs() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        allow_files(Limits(max_connections=100, max_in_flight=100))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100 + 2 * 100 + 128, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- headers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [b"x-long: " + b"y" * 100_000, b"".join(b"x-%d: %s\r\n" % (at, b"y" * 1000) for at in range(90))],
    ids=["one that is long", "many that are together"],
)
async def test_a_header_that_is_too_large_is_refused(bounded_server: OpenServer, header: bytes) -> None:
    async with bounded_server(bounded()) as server:
        client = await server.connect()
        answer = await asked(
            client, b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + header.rstrip() + b"\r\n\r\n"
        )
    assert answer is not None
    assert (answer.status, answer.error["code"]) == (431, "header_too_large")
    assert "limits.max_header_bytes" in answer.error["message"]


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nx-endless: ", b"GET /"], ids=["a header", "a URL in it"]
)
async def test_a_header_without_end_is_not_kept(bounded_server: OpenServer, start: bytes) -> None:
    async with bounded_server(bounded(max_header_bytes=10_000)) as server:
        client = await server.connect()
        answer = await asked(client, start + b"y" * 20_000)
        assert await client.closed()
    assert answer is not None
    assert answer.status == 431


async def test_too_many_headers_are_refused_in_the_callers_words(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(max_headers=20)) as server:
        headers = {f"x_{at}": "1" for at in range(30)}
        openai = await server.ask(CHAT, {}, **headers)
        anthropic = await server.ask("/v1/messages", {}, **headers)
    assert (openai.status, openai.error["code"]) == (431, "header_too_large")
    assert (anthropic.status, anthropic.error["type"]) == (431, "invalid_request_error")
    assert json.loads(anthropic.body)["type"] == "error"


async def test_what_is_no_http_gets_a_clear_answer(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded()) as server:
        client = await server.connect()
        answer = await asked(client, b"\x16\x03\x01 hello\r\n\r\n")
        assert await client.closed()
    assert answer is not None
    assert (answer.status, answer.error["code"]) == (400, "invalid_http")


async def test_requests_that_wait_on_one_connection_are_answered_in_turn(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded()) as server:
        client = await server.connect()
        await client.send(b"GET /slow HTTP/1.1\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 5)
        answers = [await client.answer() for _ in range(6)]
    assert [answer is not None and answer.status for answer in answers] == [200] * 6


async def test_what_is_no_http_behind_a_request_is_not_told_in_its_answers_place(
    bounded_server: OpenServer,
) -> None:
    async with bounded_server(bounded()) as server:
        client = await server.connect()
        chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n"
        assert await asked(client, b"GET /slow HTTP/1.1\r\n\r\n" + chunked) is None


async def test_a_heap_of_requests_on_one_connection_is_cut_off(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded()) as server:
        client = await server.connect()
        await client.send(b"GET /slow HTTP/1.1\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * (MOST_PIPELINED + 5))
        assert await client.answer() is None
        assert await until(lambda: server.bounds.load().connections == 0)


# --- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/v1/embeddings", "/v1/feedback"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_refused_however_it_comes(
    open_house: OpenHouse, bounded_server: OpenServer, path: str, *, chunked: bool
) -> None:
    async with open_house() as house, bounded_server(house.gateway) as server:
        client = await server.connect()
        size = house.gateway.settings.limits.max_body_bytes + 1
        how = "transfer-encoding: chunked" if chunked else f"content-length: {size}"
        await client.send(f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{how}\r\n\r\n".encode())
        if chunked:
            for _ in range(size // 0x100000 + 1):
                await client.send(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
        answer = await client.answer()
    assert answer is not None
    assert answer.status == 413
    assert "limits.max_body_bytes" in answer.error["message"]


async def flood(client: Client) -> None:
    for _ in range(1000):
        await client.send(b"x" * 1_000_000)


async def test_what_follows_a_refused_body_is_dropped_to_an_end(
    open_house: OpenHouse, bounded_server: OpenServer
) -> None:
    async with open_house() as house, bounded_server(house.gateway) as server:
        client = await server.connect()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n"
        await client.send(head.encode())
        answer = await client.answer()
        with pytest.raises(ConnectionError):
            await flood(client)
    assert answer is not None
    assert answer.status == 413
