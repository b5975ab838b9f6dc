"""Every way in which an upstream fails, and what becomes of it: for the client, the ledger, the next request.

The table in docs/faults.md says the same in words.
"""

from __future__ import annotations

import asyncio

import pytest
from fixtures.faults import (
    MATRIX,
    PATIENT,
    Row,
    break_,
    heal,
    is_busy,
    is_busy_for_long,
    leaves_done_and_reason_out,
)
from fixtures.faulty_upstream import USAGE_CHUNK, Call, OpenHouse, Seen, chunk, completion

ROWS = pytest.mark.parametrize("row", MATRIX, ids=lambda row: row.name)
FORMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@ROWS
@FORMS
async def test_the_client_is_told_and_the_ledger_has_it(
    open_house: OpenHouse, row: Row, stream: bool
) -> None:
    async with open_house(timeouts=row.times) as house:
        break_(house.upstream, row)
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
    async with open_house(breaker={"max_rest": 0.01}, timeouts=row.times) as house:
        assert (await house.ask()).status == 200
        tasks = asyncio.all_tasks()
        break_(house.upstream, row)
        await house.ask(stream=stream)
        await house.upstream.ended()
        await heal(house.upstream, row)
        await house.rested()
        for again in (False, True):
            seen = await house.ask(stream=again)
            assert (seen.status, seen.code, seen.done) == (200, None, True)
        assert await house.tasks_settle(tasks) == set()
        assert await house.connections_settle() <= 1
        assert b"smallfirst_requests_in_flight 0.0" in house.gateway.metrics.render()


@ROWS
async def test_a_model_that_is_down_is_not_asked_any_more(open_house: OpenHouse, row: Row) -> None:
    async with open_house(breaker={"failures": 2, "rest": 60}, timeouts=row.times) as house:
        break_(house.upstream, row)
        for stream in (False, True):
            await house.ask(stream=stream)
        asked = len(house.upstream.calls)
        seen = await house.ask()
        (*_, entry) = await house.entries(3)
        if row.down or row.rests:
            assert (seen.status, seen.code) == (503 if row.down else 429, "model_resting")
            assert 1 <= int(seen.retry_after or 0) <= (60 if row.down else 30)
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
    async with open_house(base_url="http://upstream.invalid/v1", timeouts=PATIENT) as house:
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
    async with server, open_house(base_url=f"https://127.0.0.1:{port}/v1", timeouts=PATIENT) as house:
        seen = await house.ask(stream=stream)
        (entry,) = await house.entries(1)
    assert (seen.status, seen.code) == (503, "upstream_unreachable")
    assert (entry.status, entry.cost_usd) == ("error", 0)


async def test_429_says_after_how_long_it_makes_sense(open_house: OpenHouse) -> None:
    async with open_house(breaker={"max_rest": 0.01}) as house:
        house.upstream.fault = is_busy_for_long
        assert (await house.ask()).retry_after == "30"
        await house.rested()
        house.upstream.fault = is_busy
        assert (await house.ask()).retry_after is None
