"""Clients that load a server: closed loop or fixed rate, whole answers or streams.

    python -m smallfirst.evals.bench.load < plan.json > outcome.json

No library does all of it: wrk has no fixed rate and no streams, wrk2 is not kept up, and locust, k6 and oha either take
more of a processor than the servers they measure or do not time chunks. So these are prepared bytes over sockets, with
httptools for the answers: about 25 µs a request.

- **Closed loop**: every connection asks again as soon as it is answered. Shows throughput; its latencies hide the
  waiting of those who would have come meanwhile.
- **Fixed rate**: requests are due at equal distances, whether or not earlier ones are answered, and latency counts from
  when a request was due (no coordinated omission). Connections are opened as they are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import selectors
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import cast

import httptools
import msgspec
import uvloop

# Of the fixed rate: beyond it, requests wait for a connection; their latency counts the wait.
MAX_CONNECTIONS = 256

# Answers that are waited for longer than was planned, and for how many seconds at most.
LEAST, PATIENCE = 10, 30.0

# Whole answers have an object's beginning, streams an event's.
_GOOD = (b"{", b"data:")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        port: Of the server, on 127.0.0.1.
        headers: Beside host, content type and length.
        model: That is asked for.
        text: The user's message; a number is added, so that no two requests are the same.
        stream: Whether streams are asked for.
        connections: Of the closed loop.
        rate: Requests a second; None: closed loop.
        seconds: For how long is measured, after `warm` seconds that do not count.
        requests: Closed loop: stop after so many instead, all of which count.
    """

    port: int
    headers: dict[str, str] = {}
    model: str
    text: str
    stream: bool = False
    connections: int = 1
    rate: float | None = None
    warm: float = 0.5
    seconds: float = 2.0
    requests: int | None = None


class Spread(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> Spread | None:
        """Summarise times; None where there are none."""
        if len(seconds) < 2:
            return None
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(statistics.median(seconds) * 1000, cuts[94] * 1000, cuts[98] * 1000)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        answered: Good answers while it was measured.
        asked: All requests that were answered, those before and after as well: what the server's CPU time was for.
        failed: Answers that were not good, and connections that broke, at any time.
        failure: What the first of them said, cut.
        seconds: For how long was measured.
        latency: From asking (or being due) to the last byte.
        first: To the first chunk of a stream.
        late: By how much the fixed rate's requests were sent later than they were due.
        chunks: Events of streams while it was measured.
        connections: That were opened.
        cpu_seconds: Of these clients.
    """

    answered: int
    asked: int
    failed: int
    failure: str | None
    seconds: float
    latency: Spread | None
    first: Spread | None
    late: Spread | None
    chunks: int
    connections: int
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return self.answered / self.seconds


def payloads(plan: Plan) -> Iterator[bytes]:
    """Yield requests as they go over the wire; all have the same length."""
    mark = "#000000000"
    body = {
        "model": plan.model,
        "messages": [{"role": "user", "content": f"{plan.text} {mark}"}],
        "stream": plan.stream,
    }
    encoded = msgspec.json.encode(body)
    headers = {"host": f"127.0.0.1:{plan.port}", "content-type": "application/json"} | plan.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{lines}content-length: {len(encoded)}\r\n\r\n"
    before, after = (head.encode() + encoded).split(mark.encode())
    for number in itertools.count(1):
        yield b"%b#%09d%b" % (before, number, after)


class _Client(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, done: Callable[[_Client, bool], None], *, stream: bool) -> None:
        self._done = done
        self._stream = stream
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.busy = False  # whether it waits for an answer
        self.begun = self.first = 0.0
        self.start = b""
        self.events = 0  # of all its streams

    @property
    def open(self) -> bool:
        """Whether it can be asked."""
        return self._transport is not None

    def ask(self, payload: bytes, begun: float) -> None:
        """Send a request; `done` is called once it is answered, with whether the answer is good."""
        assert self._transport is not None
        self.begun, self.first, self.start, self.busy = begun, 0.0, b"", True
        self._transport.write(payload)

    def close(self) -> None:
        """Disconnect; whatever is under way is given up."""
        self.busy = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.busy:
            self.start = self.start or b"the connection broke"
            self._finish(good=False)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.start = repr(exc).encode()
            if self._transport is not None:
                self._transport.abort()

    def on_body(self, body: bytes) -> None:
        """See a piece of the answer."""
        if not self.start:
            self.start = body[:200]
        if self._stream:
            events = body.count(b"data:")
            if events and not self.first:
                self.first = time.perf_counter()
            self.events += events

    def on_message_complete(self) -> None:
        """See the end of the answer."""
        good = self._parser.get_status_code() == 200 and self.start.lstrip().startswith(_GOOD)
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
            self._transport = None
        self._finish(good=good)

    def _finish(self, *, good: bool) -> None:
        self.busy = False
        self._done(self, good)


class _Run:
    """Carries a plan out, and counts."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._payloads = payloads(plan)
        self._clients: list[_Client] = []
        self._latency: list[float] = []
        self._first: list[float] = []
        self._late: list[float] = []
        self._asked = self._failed = self._opened = 0
        self._failure: bytes | None = None
        self._from = self._to = 0.0

    async def closed(self) -> Outcome:
        """Run the closed loop."""
        plan = self._plan
        left = itertools.repeat(0) if plan.requests is None else iter(range(plan.requests))
        over = asyncio.get_running_loop().create_future()
        busy = plan.connections

        def ask(client: _Client) -> None:
            nonlocal busy
            if next(left, None) is None or not client.open:
                busy -= 1
                if not busy and not over.done():
                    over.set_result(None)
                return
            client.ask(next(self._payloads), time.perf_counter())

        def done(client: _Client, good: bool) -> None:
            self._note(client, good)
            ask(client)

        for _ in range(plan.connections):
            await self._connect(done)
        begun = time.perf_counter()
        self._from, self._to = (
            (begun + plan.warm, float("inf")) if plan.requests is None else (begun, float("inf"))
        )
        for client in list(self._clients):
            ask(client)
        if plan.requests is not None:
            await over
            return self._outcome(time.perf_counter() - begun, self._events())
        await asyncio.wait([over], timeout=plan.warm)
        before, since = self._events(), time.perf_counter()
        await asyncio.wait([over], timeout=plan.seconds)
        while len(self._latency) < LEAST and time.perf_counter() < since + PATIENCE and not over.done():
            await asyncio.wait([over], timeout=0.05)
        self._to = time.perf_counter()
        return self._outcome(self._to - since, self._events() - before)

    async def paced(self, rate: float) -> Outcome:
        """Run at a fixed rate."""
        plan = self._plan
        idle: list[_Client] = []
        freed = asyncio.Event()

        def done(client: _Client, good: bool) -> None:
            self._note(client, good)
            if client.open:
                idle.append(client)
                freed.set()

        begun = time.perf_counter() + 0.05
        self._from, self._to = (
            begun + plan.warm - 1e-9,
            float("inf"),
        )  # sums of floats differ in their last digit
        for at in range(round(plan.warm * rate) + max(round(plan.seconds * rate), LEAST)):
            due = begun + at / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            client = await self._free(idle, freed, done)
            if due >= self._from:
                self._late.append(time.perf_counter() - due)
            client.ask(next(self._payloads), due)
        # What is under way gets its time: leaving it out would leave out the slowest.
        until = time.perf_counter() + max(5.0, plan.seconds)
        while any(client.busy for client in self._clients) and time.perf_counter() < until:
            freed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(freed.wait(), 0.1)
        hung = sum(client.busy for client in self._clients)
        if hung:
            self._failed += hung
            self._failure = self._failure or b"no answer by the end"
        return self._outcome(max(plan.seconds, LEAST / rate), 0)

    async def _free(
        self, idle: list[_Client], freed: asyncio.Event, done: Callable[[_Client, bool], None]
    ) -> _Client:
        while True:
            while idle:
                client = idle.pop()  # the last one used: the others may be closed by now
                if client.open:
                    return client
            self._clients = [client for client in self._clients if client.open]
            if len(self._clients) < MAX_CONNECTIONS:
                return await self._connect(done)
            freed.clear()
            await freed.wait()

    async def _connect(self, done: Callable[[_Client, bool], None]) -> _Client:
        loop = asyncio.get_running_loop()
        stream = self._plan.stream
        _, client = await loop.create_connection(
            lambda: _Client(done, stream=stream), "127.0.0.1", self._plan.port
        )
        self._clients.append(client)
        self._opened += 1
        return client

    def _note(self, client: _Client, good: bool) -> None:
        self._asked += 1
        if not good:
            self._failed += 1
            self._failure = self._failure or client.start
            return
        now = time.perf_counter()
        if client.begun >= self._from and now <= self._to:
            self._latency.append(now - client.begun)
            if client.first:
                self._first.append(client.first - client.begun)

    def _events(self) -> int:
        return sum(client.events for client in self._clients)

    def _outcome(self, seconds: float, chunks: int) -> Outcome:
        used = resource.getrusage(resource.RUSAGE_SELF)
        outcome = Outcome(
            answered=len(self._latency),
            asked=self._asked,
            failed=self._failed,
            failure=None if self._failure is None else self._failure.decode(errors="replace"),
            seconds=seconds,
            latency=Spread.of(self._latency),
            first=Spread.of(self._first),
            late=Spread.of(self._late),
            chunks=chunks,
            connections=self._opened,
            cpu_seconds=used.ru_utime + used.ru_stime,
        )
        for client in self._clients:
            client.close()
        return outcome


def run(plan: Plan) -> Outcome:
    """Carry a plan out."""
    made = _Run(plan)
    if plan.rate is None:
        return uvloop.run(made.closed())
    # `select` waits by microseconds, where epoll and uvloop round up to whole milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(made.paced(plan.rate))


def main() -> None:
    """Read a plan from standard input, print the outcome."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(run(plan)))


if __name__ == "__main__":
    main()
