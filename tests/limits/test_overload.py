"""More than the process can do is refused at once, in the caller's own words, and probes never are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fixtures.bounded_server import BoundedServer, Client, OpenServer, until
from fixtures.faulty_upstream import House, OpenHouse
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from smallfirst.router.server.bounds import Bounded, Bounds
from smallfirst.router.settings import Limits

CHAT = "/v1/chat/completions"


class Slow:
    """An app that reads the body, and answers once it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        self.asked.append(scope["path"])
        while (await receive()).get("more_body"):
            pass
        if not scope["path"].startswith(("/health", "/metrics")):
            await self.let.wait()
        await PlainTextResponse("done")(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def bounded(**limits: Any) -> tuple[Slow, Bounded]:
    app = Slow()
    return app, Bounded(app, Bounds(Limits(**limits)))


async def occupy(server: BoundedServer, app: Slow, count: int, body: bytes = b"{}") -> None:
    """Have requests answered, and not end."""
    before = server.bounds.in_flight
    for _ in range(count):
        client = await server.connect()
        await client.post(CHAT, body)
    assert await until(lambda: server.bounds.in_flight == before + count)


async def test_one_request_too_many_is_refused_with_when_to_come_back(bounded_server: OpenServer) -> None:
    app, front = bounded(max_in_flight=2)
    async with bounded_server(front) as server:
        await occupy(server, app, 2)
        refused = await server.ask(CHAT, {"model": "auto"})
        app.let.set()
        assert await until(lambda: server.bounds.in_flight == 0)
        after = await server.ask(CHAT, {"model": "auto"})
    assert (refused.status, refused.error["code"], refused.error["type"]) == (
        503,
        "overloaded",
        "server_error",
    )
    assert "limits.max_in_flight" in refused.error["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 4
    assert server.bounds.load().shed["in_flight"] == 1
    assert after.status == 200
    assert len(app.asked) == 3


async def test_who_is_refused_is_not_told_to_come_back_with_all_the_others(
    bounded_server: OpenServer,
) -> None:
    app, front = bounded(max_in_flight=1)
    async with bounded_server(front) as server:
        await occupy(server, app, 1)
        times = [(await server.ask(CHAT, {})).headers["retry-after"] for _ in range(8)]
        app.let.set()
    assert sorted(set(times)) == ["1", "2", "3", "4"]


async def test_anthropics_clients_are_refused_in_anthropics_words(bounded_server: OpenServer) -> None:
    app, front = bounded(max_in_flight=1)
    async with bounded_server(front) as server:
        await occupy(server, app, 1)
        refused = await server.ask("/v1/messages", {})
        app.let.set()
    assert (refused.status, refused.error["type"]) == (503, "overloaded_error")


async def test_probes_and_scrapes_are_answered_all_the_same(bounded_server: OpenServer) -> None:
    app, front = bounded(max_in_flight=1)
    async with bounded_server(front) as server:
        await occupy(server, app, 1)
        paths = ("/health", "/health/ready", "/metrics")
        assert [(await server.ask(path)).status for path in paths] == [200, 200, 200]
        app.let.set()


async def test_the_connection_of_a_refused_request_goes_on(bounded_server: OpenServer) -> None:
    """Even where a large body follows, which is read past: its sender gets to see why."""
    app, front = bounded(max_in_flight=1)
    async with bounded_server(front) as server:
        await occupy(server, app, 1)
        client = await server.connect()
        await client.post(CHAT, b"x" * 3_000_000)
        refused = await client.answer()
        app.let.set()
        assert await until(lambda: server.bounds.in_flight == 0)
        await client.post(CHAT, b"{}")
        after = await client.answer()
    assert refused is not None
    assert after is not None
    assert (refused.status, after.status) == (503, 200)


async def test_bodies_are_refused_beyond_what_may_be_held(bounded_server: OpenServer) -> None:
    app, front = bounded(max_held_bytes=300_000, max_body_bytes=200_000)
    async with bounded_server(front) as server:
        await occupy(server, app, 1, b"x" * 190_000)
        assert await until(lambda: server.bounds.held_bytes == 190_000)
        refused = await server.ask(CHAT, b"x" * 190_000)
        small = await server.connect()
        await small.post(CHAT, b"x" * 1000)
        assert await until(lambda: server.bounds.held_bytes == 191_000)
        app.let.set()
        assert await until(lambda: server.bounds.held_bytes == 0)
    assert (refused.status, server.bounds.shed["held_bytes"]) == (503, 1)
    assert "limits.max_held_bytes" in refused.error["message"]


async def test_what_is_announced_but_does_not_come_holds_nothing(bounded_server: OpenServer) -> None:
    app, front = bounded(max_held_bytes=300_000, max_body_bytes=200_000)
    async with bounded_server(front) as server:
        for _ in range(5):
            client = await server.connect()
            await client.send(f"POST {CHAT} HTTP/1.1\r\ncontent-length: 190000\r\n\r\nx".encode())
        assert await until(lambda: server.bounds.in_flight == 5)
        app.let.set()
        served = await server.ask(CHAT, b"x" * 190_000)
    assert served.status == 200


async def test_a_loop_that_is_late_refuses_a_share_until_it_is_not(bounded_server: OpenServer) -> None:
    app, front = bounded(max_queue_delay=0.01)
    async with bounded_server(front) as server:
        await occupy(server, app, 10)
        for _ in range(30):
            server.bounds.shedder.saw(0.05, 0.1)
        asking = [asyncio.create_task(server.ask(CHAT, {})) for _ in range(20)]
        assert await until(lambda: len(app.asked) + server.bounds.shed["queue_delay"] == 30)
        app.let.set()
        refused = [answer for answer in await asyncio.gather(*asking) if answer.status == 503]
    assert 20 > server.bounds.shed["queue_delay"] == len(refused) > 10
    assert refused[0].error["code"] == "overloaded"


async def overloaded(server: BoundedServer, app: Slow) -> None:
    """Have nearly all refused."""
    await occupy(server, app, 10)
    server.bounds.shedder.share = 1.0
    server.bounds.shedder.refuses()


async def test_a_refused_request_costs_no_connection_and_its_body_is_dropped(
    bounded_server: OpenServer,
) -> None:
    app, front = bounded()
    async with bounded_server(front) as server:
        await overloaded(server, app)
        client, answers = await server.connect(), []
        for size in (10, 200_000, 0):
            await client.post(CHAT, b"x" * size)
            answers.append(await client.answer())
        asked = len(app.asked)
        server.bounds.shedder.share = 0.0
        app.let.set()
        await client.post(CHAT, b"{}")
        answers.append(await client.answer())
    assert [answer and answer.status for answer in answers] == [503, 503, 503, 200]
    assert (asked, server.bounds.shed["queue_delay"]) == (10, 3)


async def test_whoever_is_refused_early_hears_it_in_the_words_of_the_wire(bounded_server: OpenServer) -> None:
    app, front = bounded()
    async with bounded_server(front) as server:
        await overloaded(server, app)
        openai, anthropic = await server.ask(CHAT, {}), await server.ask("/v1/messages?beta=true", {})
        vital = [(await server.ask(path)).status for path in ("/health", "/health/ready", "/metrics")]
        app.let.set()
    assert (openai.status, openai.error["code"], anthropic.error["type"]) == (
        503,
        "overloaded",
        "overloaded_error",
    )
    assert openai.headers["retry-after"] in "1234"
    assert vital == [200, 200, 200]


async def ask_on(client: Client) -> None:
    for _ in range(500):
        await client.send(b"GET /v1/models HTTP/1.1\r\n\r\n" * 1000)


async def test_refusals_that_nobody_reads_are_not_kept_without_bound(bounded_server: OpenServer) -> None:
    app, front = bounded()
    async with bounded_server(front) as server:
        await overloaded(server, app)
        client = await server.connect(limit=1)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            await ask_on(client)
        assert await until(lambda: server.bounds.load().connections == 10)
        app.let.set()


async def test_who_waits_to_be_asked_for_a_body_is_not_waited_for(bounded_server: OpenServer) -> None:
    app, front = bounded()
    async with bounded_server(front) as server:
        await overloaded(server, app)
        client = await server.connect()
        await client.send(
            f"POST {CHAT} HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n".encode()
        )
        answer = await client.answer()
        assert await client.closed()
        app.let.set()
    assert answer is not None
    assert answer.status == 503


async def test_a_few_requests_are_never_refused_for_a_late_loop(bounded_server: OpenServer) -> None:
    app, front = bounded(max_queue_delay=0.01)
    app.let.set()
    async with bounded_server(front) as server:
        server.bounds.start()
        for _ in range(30):
            server.bounds.shedder.saw(0.05, 0.1)
        assert server.bounds.shedder.share > 0.5
        assert {(await server.ask(CHAT, {})).status for _ in range(10)} == {200}
        server.bounds.stop()


# --- through the whole gateway ------------------------------------------------------------------------------------


async def test_a_chunked_body_is_refused_as_soon_as_there_is_no_room(
    open_house: OpenHouse, bounded_server: OpenServer
) -> None:
    async with open_house() as house, bounded_server(house.gateway) as server:
        server.bounds.follow(Limits(max_held_bytes=100_000, max_body_bytes=50_000))
        server.bounds.held_bytes = 90_000
        client = await server.connect()
        await client.send(
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )
        await client.send(b"4e20\r\n" + b"x" * 20_000 + b"\r\n")
        refused = await client.answer()
        server.bounds.held_bytes -= 90_000
        assert refused is not None
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        assert await until(lambda: server.bounds.held_bytes == 0)


async def test_load_is_in_the_metrics(open_house: OpenHouse, bounded_server: OpenServer) -> None:
    async with open_house() as house, bounded_server(house.gateway) as server:
        server.bounds.shed["queue_delay"] += 3
        text = (await server.ask("/metrics")).body.decode()
    lines = text.splitlines()
    assert 'smallfirst_shed_total{reason="queue_delay"} 3.0' in lines
    assert "smallfirst_server_in_flight 1.0" in lines
    assert "smallfirst_connections 1.0" in lines
    assert 'smallfirst_slow_clients_total{part="body"} 0.0' in lines


async def test_other_limits_hold_once_the_settings_are_read_again(open_house: OpenHouse) -> None:
    async with open_house() as house:
        limits = Limits(max_in_flight=7)
        assert isinstance(house, House)
        bounds = Bounds(house.gateway.settings.limits)
        bounds.follow(limits)
    assert (bounds.limits.max_in_flight, bounds.shedder.target) == (7, limits.max_queue_delay)


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
async def test_a_compressed_body_is_not_understood(bounded_server: OpenServer, encoding: str) -> None:
    app, front = bounded()
    async with bounded_server(front) as server:
        refused = await server.ask(CHAT, b"\x1f\x8b", content_encoding=encoding)
    assert (refused.status, refused.error["code"]) == (415, "unsupported_encoding")
    assert app.asked == []
