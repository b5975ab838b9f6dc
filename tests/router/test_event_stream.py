"""Streams as they are written to a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from smallfirst.router.answer import AnswerStream, Receipt
from smallfirst.router.errors import StreamBroken
from smallfirst.router.server.clients import SCOPE_KEY, Client
from smallfirst.router.server.drain import Drain
from smallfirst.router.server.http import ClientGone
from smallfirst.router.server.serve import MOST_HELD, UNWATCHED_SECONDS, EventStream, unless_gone
from smallfirst.router.wire import ChatRequest
from smallfirst.router.wires.chat import ChatCall

CALL = ChatCall(ChatRequest.parse({"messages": [{"role": "user", "content": "Hi"}]}))


class Source:
    """Gives chunks; a None stands for what has not arrived yet."""

    def __init__(self, *chunks: bytes | None, error: StreamBroken | None = None) -> None:
        self.receipt = Receipt("req_1", "cloud", "m", "because", None, "off", None, None, 0.1, 1)
        self.usage = None
        self.closed = False
        self._left = list(chunks)
        self._error = error

    @property
    def ready(self) -> bool:
        return bool(self._left) and self._left[0] is not None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._left:
            chunk = self._left.pop(0)
            if chunk is None:
                await asyncio.sleep(0)
            else:
                yield chunk
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        self.closed = True


async def never() -> Any:
    await asyncio.Event().wait()


async def bodies(source: Source) -> list[bytes]:
    """Return what is written, but for the headers."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["body"])

    await EventStream(AnswerStream(source), CALL)({"type": "http"}, never, send)
    assert source.closed
    return sent


async def test_what_has_arrived_goes_out_with_one_write() -> None:
    sent = await bodies(Source(b"1", b"2", b"3", None, b"4", None))
    assert sent == [b"data: 1\n\ndata: 2\n\ndata: 3\n\n", b"data: 4\n\n", b"data: [DONE]\n\n"]


async def test_what_is_there_does_not_wait_for_what_is_not() -> None:
    assert await bodies(Source(b"1", None, b"2")) == [b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"]


async def test_so_much_waits_and_no_more() -> None:
    sent = await bodies(Source(*[b"x" * (MOST_HELD // 2)] * 4))
    assert [body.count(b"data: ") for body in sent] == [2, 2, 1]


async def test_what_came_before_an_error_is_not_lost() -> None:
    class Wrong(Source):
        # It says that there is more, and then it breaks.
        ready = True

    *_, last = await bodies(Wrong(b"1", b"2", error=StreamBroken("It broke.")))
    assert last.startswith(b'data: 1\n\ndata: 2\n\ndata: {"error":')


@pytest.mark.parametrize("seconds", [0.0, 3 * UNWATCHED_SECONDS])
async def test_work_is_cancelled_whenever_the_client_leaves(seconds: float) -> None:
    stopped = asyncio.Event()

    async def leaves() -> Any:
        await asyncio.sleep(seconds)
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    with pytest.raises(ClientGone):
        await unless_gone(leaves, work())
    assert stopped.is_set()


async def test_work_that_is_cancelled_by_others_stays_cancelled() -> None:
    task = asyncio.create_task(unless_gone(never, asyncio.sleep(30)))
    await asyncio.sleep(2 * UNWATCHED_SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1


async def test_a_client_that_tells_needs_no_task_that_waits_for_it() -> None:
    client, stopped = Client(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    task = asyncio.create_task(unless_gone(never, work(), client=client))
    await asyncio.sleep(2 * UNWATCHED_SECONDS)
    assert asyncio.all_tasks() == {task, asyncio.current_task()}
    client.leave()
    with pytest.raises(ClientGone):
        await task
    assert stopped.is_set()


async def test_a_client_that_has_left_already_gets_no_answer() -> None:
    client = Client()
    client.leave()
    with pytest.raises(ClientGone):
        await unless_gone(never, asyncio.sleep(30), client=client)


async def test_work_that_never_waits_leaves_nothing_to_be_cancelled_later() -> None:
    async def work() -> str:
        return "answer"

    async def answered() -> str:
        found = await unless_gone(never, work(), drain, client)
        await asyncio.sleep(0)
        return found

    client, drain = Client(), Drain()
    client.leave()
    drain.cut()
    assert await asyncio.create_task(answered()) == "answer"


async def test_a_client_that_leaves_after_its_answer_disturbs_nothing() -> None:
    client = Client()
    assert await unless_gone(never, asyncio.sleep(0, "answer"), client=client) == "answer"
    client.leave()
    await asyncio.sleep(0)


async def test_a_stream_ends_when_its_client_tells_that_it_left() -> None:
    class Endless(Source):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"1"
            client.leave()
            await asyncio.sleep(30)

    client, source = Client(), Endless(b"1")

    async def send(message: Any) -> None:
        pass

    await EventStream(AnswerStream(source), CALL)({"type": "http", SCOPE_KEY: client}, never, send)
    assert source.closed
