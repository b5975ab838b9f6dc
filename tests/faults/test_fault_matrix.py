"""Every way in which an upstream fails, and what becomes of it: for the client, the ledger, the next request.

The table in docs/faults.md says the same in words.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from fixtures.faulty_upstream import (
    USAGE_CHUNK,
    Call,
    Fault,
    House,
    OpenHouse,
    Seen,
    chunk,
    completion,
    healthy,
    reset,
)

# --- faults -------------------------------------------------------------------------------------------------------


async def resets_in_the_header(call: Call) -> bool:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
    return await reset(call)


async def hangs_before(call: Call) -> bool:
    await asyncio.sleep(60)
    return False


async def hangs_in_it(call: Call) -> bool:
    if call.streamed:
        await call.begin_stream()
        await call.event(chunk("Paris"))
    else:
        await call.head(content_type="application/json", content_length=500)
        await call.send(b'{"id": ')
    return await hangs_before(call)


async def trickles(call: Call) -> bool:
    """No byte is late by itself: all of it is."""
    whole = b": " + b"x" * 500 if call.streamed else b"{" + b" " * 500
    kind = "text/event-stream" if call.streamed else "application/json"
    await call.head(content_type=kind, content_length=len(whole))
    for at in range(len(whole)):
        await asyncio.sleep(0.1)
        await call.send(whole[at : at + 1])
    return False


async def trickles_in_it(call: Call) -> bool:
    if not call.streamed:
        return await trickles(call)
    await call.begin_stream()
    await call.event(chunk("Paris"))
    while True:
        await asyncio.sleep(0.1)
        await call.send(b"1\r\n:\r\n")


async def trickles_slower(call: Call) -> bool:
    """A byte a second, and each is late."""
    kind = "text/event-stream" if call.streamed else "application/json"
    await call.head(content_type=kind, content_length=500)
    for _ in range(500):
        await call.send(b" ")
        await asyncio.sleep(1)
    return False


async def sends_broken_json(call: Call) -> bool:
    if call.streamed:
        await call.begin_stream()
        await call.event(chunk("Paris"))
        await call.event(b'{"choices": [{"delta":')
        return await call.end_stream()
    await call.head(content_type="application/json", content_length=4)
    await call.send(b'{"id')
    return True


async def is_busy(call: Call) -> bool:
    return await call.json({"error": {"message": "slow down", "type": "t", "code": "busy"}}, 429)


async def is_busy_for_long(call: Call) -> bool:
    error = {"message": "slow down", "type": "t", "code": "busy"}
    return await call.json({"error": error}, 429, retry_after=30)


async def fails(call: Call) -> bool:
    return await call.json({"error": {"message": "oh", "type": "t", "code": "oh"}}, 500)


async def breaks_off(call: Call) -> bool:
    if call.streamed:
        await call.begin_stream()
        await call.event(chunk("Paris"))
    else:
        await call.head(content_type="application/json", transfer_encoding="chunked")
        await call.send(b'7\r\n{"id": \r\n')
    return False


async def announces_too_much(call: Call) -> bool:
    if call.streamed:
        data = b"data: " + chunk("Paris") + b"\n\n"
        await call.head(content_type="text/event-stream", content_length=len(data) + 99)
        await call.send(data)
    else:
        await call.head(content_type="application/json", content_length=500)
        await call.send(b'{"id": 1}')
    return False


async def announces_too_little(call: Call) -> bool:
    body = b"data: " + chunk("Paris", "stop") + b"\n\n"
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9\r\n\r\n" + body)
    return True


async def sends_more_later(call: Call) -> bool:
    """What is beyond the announced length must not be read as the next answer's beginning."""
    if call.streamed:
        data = b"data: " + chunk("Paris") + b"\n\n"
        await call.head(content_type="text/event-stream", content_length=len(data))
        await call.send(data)
    else:
        await call.head(content_type="application/json", content_length=5)
        await call.send(b'{"id"')
    await asyncio.sleep(0.05)
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
    return True


async def leaves_done_and_reason_out(call: Call) -> bool:
    if not call.streamed:
        return await healthy(call)
    await call.begin_stream()
    await call.event(chunk("Paris"))
    return await call.end_stream()


async def sends_a_huge_event(call: Call) -> bool:
    if not call.streamed:
        return await call.json({"error": {"message": "x" * 10_000_000}}, 500)
    await call.begin_stream()
    await call.event(chunk("Paris"))
    await call.event(chunk("x" * 10_000_000))
    return await call.end_stream()


# --- the matrix ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A fault and what comes of it.

    Attributes:
        plain, streamed: What the client sees of an answer in one piece, and of a stream: status, code, text.
        outcome: The attempt's in the ledger, of either.
        billed: Whether the provider may bill it, so that it has a cost, of either.
        down: Whether it opens the breaker.
    """

    name: str
    fault: Fault | None
    plain: tuple[int, str | None, str]
    streamed: tuple[int, str | None, str]
    outcome: tuple[str, str] = ("error", "error")
    billed: tuple[bool, bool] = (True, True)
    down: bool = True


UNREACHABLE = 503, "upstream_unreachable", ""
LATE = 504, "timeout", ""
FAULTY = 502, None, ""
BROKEN = 200, "stream_broken", "Paris"

MATRIX = (
    Row("refuses", None, UNREACHABLE, UNREACHABLE, billed=(False, False)),
    Row("resets in the header", resets_in_the_header, UNREACHABLE, UNREACHABLE, billed=(False, False)),
    Row("hangs before", hangs_before, LATE, LATE, ("timeout", "timeout")),
    Row("hangs in it", hangs_in_it, LATE, (200, "timeout", "Paris"), ("timeout", "timeout")),
    Row("trickles", trickles, LATE, LATE, ("timeout", "timeout")),
    Row("trickles in it", trickles_in_it, LATE, (200, "timeout", "Paris"), ("timeout", "timeout")),
    Row("trickles slower", trickles_slower, LATE, LATE, ("timeout", "timeout")),
    Row("broken JSON", sends_broken_json, FAULTY, BROKEN, ("error", "broken")),
    Row("429", is_busy, (429, "busy", ""), (429, "busy", ""), billed=(False, False), down=False),
    Row(
        "429, wait", is_busy_for_long, (429, "busy", ""), (429, "busy", ""), billed=(False, False), down=False
    ),
    Row("500", fails, (500, "oh", ""), (500, "oh", ""), billed=(False, False)),
    Row("breaks off", breaks_off, UNREACHABLE, BROKEN, ("error", "broken")),
    Row("announces too much", announces_too_much, UNREACHABLE, BROKEN, ("error", "broken")),
    Row("announces too little", announces_too_little, UNREACHABLE, UNREACHABLE, billed=(False, False)),
    Row("sends more later", sends_more_later, FAULTY, BROKEN, ("error", "broken")),
    Row("a huge event", sends_a_huge_event, (500, None, ""), BROKEN, ("error", "broken"), (False, True)),
)

ROWS = pytest.mark.parametrize("row", MATRIX, ids=lambda row: row.name)
FORMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


def break_(house: House, row: Row) -> None:
    if row.fault is None:
        house.upstream.refuse()
    else:
        house.upstream.fault = row.fault


async def heal(house: House, row: Row) -> None:
    if row.fault is None:
        await house.upstream.listen()
    house.upstream.fault = healthy


@ROWS
@FORMS
async def test_the_client_is_told_and_the_ledger_has_it(
    open_house: OpenHouse, row: Row, stream: bool
) -> None:
    async with open_house() as house:
        break_(house, row)
        seen = await house.ask(stream=stream)
        assert (seen.status, seen.code, seen.text) == (row.streamed if stream else row.plain)
        assert not seen.done
        (entry,) = await house.entries(1)
    assert (entry.status, entry.error_code) == ("error", seen.code)
    assert [attempt.outcome for attempt in entry.attempts] == [row.outcome[stream]]
    assert entry.cost_usd is not None
    assert (entry.cost_usd > 0) is row.billed[stream]


@ROWS
@FORMS
async def test_nothing_is_left_behind_and_the_next_request_is_answered(
    open_house: OpenHouse, row: Row, stream: bool
) -> None:
    """There is room for one connection: a leaked one would keep the next request out."""
    async with open_house() as house:
        assert (await house.ask()).status == 200
        tasks = asyncio.all_tasks()
        break_(house, row)
        await house.ask(stream=stream)
        await house.upstream.ended()
        await heal(house, row)
        for again in (False, True):
            seen = await house.ask(stream=again)
            assert (seen.status, seen.code, seen.done) == (200, None, True)
        assert await house.tasks_settle(tasks) == set()
        assert await house.connections_settle() <= 1
        assert b"smallfirst_requests_in_flight 0.0" in house.gateway.metrics.render()


@ROWS
async def test_a_model_that_is_down_is_not_asked_any_more(open_house: OpenHouse, row: Row) -> None:
    async with open_house(breaker={"failures": 2, "rest": 60}) as house:
        break_(house, row)
        for stream in (False, True):
            await house.ask(stream=stream)
        asked = len(house.upstream.calls)
        seen = await house.ask()
        (*_, entry) = await house.entries(3)
        if row.down:
            assert (seen.status, seen.code) == (503, "model_resting")
            assert 1 <= int(seen.retry_after or 0) <= 60
            assert len(house.upstream.calls) == asked
            assert (entry.error_code, entry.cost_usd) == ("model_resting", 0)
        else:
            assert len(house.upstream.calls) == asked + 1
            assert house.gateway.health.available("big")


# --- faults that are none for the client --------------------------------------------------------------------------


async def test_ten_megabytes_are_passed_on_whole(open_house: OpenHouse) -> None:
    words = "x" * 10_000_000

    async def answers_at_length(call: Call) -> bool:
        if not call.streamed:
            return await call.json(completion(words))
        await call.begin_stream()
        for _ in range(10):
            await call.event(chunk(words[:1_000_000]))
        await call.event(chunk(None, "stop"))
        await call.event(b"[DONE]")
        return await call.end_stream()

    slow = {"connect": 5.0, "first_byte": 10.0, "between_bytes": 10.0, "total": 60.0}
    async with open_house(timeouts=slow) as house:
        house.upstream.fault = answers_at_length
        assert await house.ask() == Seen(200, None, words)
        assert await house.ask(stream=True) == Seen(200, None, words)


async def test_duplicate_chunks_are_passed_on_as_they_are(open_house: OpenHouse) -> None:
    """Nothing in a chunk tells a repeated one from words that are said twice."""

    async def stutters(call: Call) -> bool:
        await call.begin_stream()
        for data in (chunk("ha"), chunk(None, "stop"), USAGE_CHUNK, b"[DONE]"):
            await call.event(data)
            await call.event(data)
        return await call.end_stream()

    async with open_house() as house:
        house.upstream.fault = stutters
        assert await house.ask(stream=True) == Seen(200, None, "haha")
        assert (await house.ask(stream=True)).status == 200
        entries = await house.entries(2)
    assert [(entry.status, entry.output_tokens) for entry in entries] == [("ok", 5), ("ok", 5)]


async def test_a_stream_without_done_is_whole_where_it_says_why_it_ended(open_house: OpenHouse) -> None:
    async def forgets_done(call: Call) -> bool:
        await call.begin_stream()
        for data in (chunk("Paris"), chunk(None, "stop")):
            await call.event(data)
        return await call.end_stream()

    async with open_house() as house:
        house.upstream.fault = forgets_done
        assert await house.ask(stream=True) == Seen(200, None, "Paris")


async def test_a_stream_without_done_and_reason_is_broken(open_house: OpenHouse) -> None:
    async with open_house() as house:
        house.upstream.fault = leaves_done_and_reason_out
        assert await house.ask(stream=True) == Seen(200, "stream_broken", "Paris", done=False)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_name_that_nobody_has_cannot_be_reached(open_house: OpenHouse, stream: bool) -> None:
    async with open_house(base_url="http://upstream.invalid/v1") as house:
        seen = await house.ask(stream=stream)
        (entry,) = await house.entries(1)
    # A resolver that does not answer is as good as a name that it does not know, but later.
    assert (seen.status, seen.code) in [(503, "upstream_unreachable"), (504, "timeout")]
    assert (entry.status, entry.cost_usd) == ("error", 0)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_server_that_speaks_no_tls_cannot_be_reached(open_house: OpenHouse, stream: bool) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, open_house(base_url=f"https://127.0.0.1:{port}/v1") as house:
        seen = await house.ask(stream=stream)
        (entry,) = await house.entries(1)
    assert (seen.status, seen.code) == (503, "upstream_unreachable")
    assert (entry.status, entry.cost_usd) == ("error", 0)


async def test_429_says_after_how_long_it_makes_sense(open_house: OpenHouse) -> None:
    async with open_house() as house:
        house.upstream.fault = is_busy_for_long
        assert (await house.ask()).retry_after == "30"
        house.upstream.fault = is_busy
        assert (await house.ask()).retry_after is None
