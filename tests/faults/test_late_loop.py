"""A loop that is late: an answer that came in time is not lost to a timer that rings before the loop has read it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import uvloop
from fixtures.faulty_upstream import USAGE_CHUNK, chunk, completion

from smallfirst.router.deadline import Bounded, ends_by
from smallfirst.router.errors import DeadlineExceeded, ModelTimeout
from smallfirst.router.models.cloud import CloudModel
from smallfirst.router.settings import CloudModelSettings, Retries, Timeouts
from smallfirst.router.wire import ChatRequest, Reply, ReplyStream

USER = {"role": "user", "content": "Hi"}
WHOLE = ChatRequest.parse({"model": "big", "messages": [USER]})
STREAMED = ChatRequest.parse({"model": "big", "messages": [USER], "stream": True})
# Seconds: of the wait that the loop sleeps through, and of all others.
SHORT, LONG = 0.4, 30.0

Block = Callable[[], None]
Place = Callable[[Block], None]
Factory = Callable[[], asyncio.AbstractEventLoop]


# --- where a loop may be late -------------------------------------------------------------------------------------


def in_a_step(block: Block) -> None:
    """The loop reads next, and looks at its timers before the task that gets the answer runs."""
    asyncio.get_running_loop().call_soon(block)


def in_reading(block: Block) -> None:
    """The loop knows already what it will read in this turn, and its timers come first in the next."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()

    def read() -> None:
        loop.remove_reader(here)
        block()
        here.close()
        there.close()

    loop.add_reader(here, read)
    there.send(b"x")


# --- an upstream that is not late ---------------------------------------------------------------------------------


class Upstream:
    """Answers one request from a thread of its own: a first part at once, a second one when it is let."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.first, self.second = b"", b""
        self.asked = threading.Event()
        self.let = threading.Event()
        self.sent = threading.Event()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            got = b""
            while b'"messages"' not in got and (piece := connection.recv(65536)):
                got += piece
            connection.sendall(self.first)
            self.asked.set()
            self.let.wait()
            connection.sendall(self.second)
            self.sent.set()
            self.over.wait()

    def close(self) -> None:
        self.let.set()
        self.over.set()
        socket.create_connection(("127.0.0.1", self.port)).close()  # where nobody has asked
        self._thread.join()
        self._listener.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def factory(request: pytest.FixtureRequest) -> Factory:
    made: Factory = request.param
    return made


def plain() -> bytes:
    body = json.dumps(completion()).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def events(*data: bytes) -> bytes:
    lines = b"".join(b"data: " + each + b"\n\n" for each in data)
    return b"%x\r\n%b\r\n" % (len(lines), lines)


BEGUN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + events(
    chunk("Paris")
)
REST = events(chunk(" is it."), chunk(None, "stop"), USAGE_CHUNK, b"[DONE]") + b"0\r\n\r\n"


def run(
    factory: Factory,
    upstream: Upstream,
    asks: Callable[[CloudModel], Awaitable[str]],
    place: Place,
    **short: float,
) -> str:
    """Ask in a loop that sleeps from when the upstream is asked until after `SHORT`; the rest is sent meanwhile."""
    timeouts = Timeouts(
        **{"connect": LONG, "first_byte": LONG, "between_bytes": LONG, "total": LONG, **short}
    )

    async def asked() -> str:
        model = CloudModel(
            CloudModelSettings(
                name="big",
                kind="openai",
                base_url=f"http://127.0.0.1:{upstream.port}/v1",
                timeouts=timeouts,
                retries=Retries(max=0),
            )
        )
        asking = asyncio.ensure_future(asks(model))
        while not upstream.asked.is_set():
            await asyncio.sleep(0.002)
        # What came first is read, and all wait for the rest.
        await asyncio.sleep(0.02)

        def block() -> None:
            upstream.let.set()
            upstream.sent.wait()
            time.sleep(SHORT + 0.05)

        place(block)
        try:
            return await asking
        finally:
            await model.aclose()

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(asked())


async def whole(model: CloudModel) -> str:
    return text_of(await model.complete(WHOLE))


async def streamed(model: CloudModel) -> str:
    return await text_in(await model.stream(STREAMED))


async def whole_by_a_deadline(model: CloudModel) -> str:
    async with ends_by(time.monotonic() + SHORT):
        return text_of(await model.complete(WHOLE))


async def streamed_by_a_deadline(model: CloudModel) -> str:
    deadline = time.monotonic() + SHORT
    async with ends_by(deadline):
        stream = await model.stream(STREAMED)
    return await text_in(Bounded(stream, deadline))


def text_of(reply: Reply) -> str:
    text: str = reply.body["choices"][0]["message"]["content"]
    return text


async def text_in(stream: ReplyStream) -> str:
    try:
        return "".join([piece async for piece in pieces(stream)])
    finally:
        await stream.aclose()


async def pieces(stream: ReplyStream) -> AsyncIterator[str]:
    async for each in stream:
        for choice in json.loads(each)["choices"]:
            yield choice["delta"].get("content") or ""


PLACES = pytest.mark.parametrize("place", [in_a_step, in_reading], ids=lambda place: place.__name__)


# --- an answer is there -------------------------------------------------------------------------------------------


@PLACES
def test_an_answer_that_is_there_is_taken(factory: Factory, upstream: Upstream, place: Place) -> None:
    upstream.second = plain()
    assert run(factory, upstream, whole, place, first_byte=SHORT) == "Paris is the answer."


@PLACES
def test_the_rest_of_a_stream_that_is_there_is_taken(
    factory: Factory, upstream: Upstream, place: Place
) -> None:
    upstream.first, upstream.second = BEGUN, REST
    assert run(factory, upstream, streamed, place, between_bytes=SHORT) == "Paris is it."


@PLACES
def test_an_answer_that_is_there_at_the_callers_deadline_is_taken(
    factory: Factory, upstream: Upstream, place: Place
) -> None:
    upstream.second = plain()
    assert run(factory, upstream, whole_by_a_deadline, place) == "Paris is the answer."


@PLACES
def test_the_rest_of_a_stream_that_is_there_at_the_callers_deadline_is_taken(
    factory: Factory, upstream: Upstream, place: Place
) -> None:
    upstream.first, upstream.second = BEGUN, REST
    assert run(factory, upstream, streamed_by_a_deadline, place) == "Paris is it."


# --- nothing is there ---------------------------------------------------------------------------------------------


def test_where_nothing_is_there_the_time_is_over(factory: Factory, upstream: Upstream) -> None:
    with pytest.raises(ModelTimeout, match="first_byte"):
        run(factory, upstream, whole, in_reading, first_byte=SHORT)


def test_where_only_a_part_is_there_the_next_wait_has_its_own_time(
    factory: Factory, upstream: Upstream
) -> None:
    upstream.second = BEGUN
    with pytest.raises(ModelTimeout, match="between_bytes"):
        run(factory, upstream, streamed, in_reading, first_byte=SHORT, between_bytes=SHORT)


def test_a_part_that_is_there_does_not_lengthen_all_of_it(factory: Factory, upstream: Upstream) -> None:
    upstream.second = BEGUN
    with pytest.raises(ModelTimeout, match="total"):
        run(factory, upstream, streamed, in_reading, total=SHORT)


@pytest.mark.parametrize("asks", [whole_by_a_deadline, streamed_by_a_deadline])
def test_where_too_little_is_there_the_callers_deadline_holds(
    factory: Factory, upstream: Upstream, asks: Callable[[CloudModel], Awaitable[str]]
) -> None:
    upstream.first = BEGUN
    if asks is whole_by_a_deadline:
        upstream.first, upstream.second = b"", plain()[:-9]
    with pytest.raises(DeadlineExceeded):
        run(factory, upstream, asks, in_reading)
