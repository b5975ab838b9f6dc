"""The clients of a soak: they ask in every way, some leave midway, some ask wrongly, and each answer is written down.

    python -m smallfirst.evals.bench.soak_clients < plan.json

Prints a line every few seconds, and last one with what came of it. Beside `load`, which times requests that are all
alike, these are all different, and it is told for each what its client saw.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import httptools
import msgspec
import uvloop

from .soak_faults import CALM
from .upstream import Wish

# Seconds between two lines that tell how far it is.
EVERY = 2.0
# More than so many are not under way at once.
MOST = 1500
# A connection that was idle for longer is not used again: the gateway may be closing it.
_FRESH = 20.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        port: Of the gateway, on 127.0.0.1.
        names: Models that may be asked for, `auto` among them several times.
        seed: Draws kinds, times and texts.
        seconds: For how long requests are sent.
        rate: Requests a second at random distances; None: a closed loop of `connections` whose ids are calm.
        log: Where a line for each request goes; None: nowhere.
        bound: Seconds after which a request counts as hung.
        limit: `x-request-timeout` of every second request.
    """

    port: int
    names: list[str]
    seed: int
    seconds: float
    rate: float | None = None
    connections: int = 64
    log: str | None = None
    bound: float = 40.0
    limit: float = 20.0


class SeenLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client saw of one request.

    Attributes:
        kind: `plain`, `stream`, `tools`, `repeat` (of an earlier text), `leave`, `invalid`.
        at: Unix seconds when it was sent.
        status: 0 where nothing came.
        code: Of the error, in the body or in the stream.
        whole: Whether the answer came to its end: a stream by `[DONE]`.
        left: Whether the client hung up before that.
        hung: Whether nothing more came within the bound.
        foreign: Whether it was the answer to another request.
        cached: Whether it came from the cache.
        request_id: The gateway's, where it was told.
    """

    identity: str
    kind: str
    at: float
    seconds: float
    status: int = 0
    code: str | None = None
    whole: bool = False
    left: bool = False
    hung: bool = False
    foreign: bool = False
    cached: bool = False
    request_id: str | None = None


class Sums(msgspec.Struct):
    """What came of all requests.

    Attributes:
        ended: Within the time of sending.
        good: Whole answers.
        held: Not sent, since too many were under way: there is nothing to learn from a machine that cannot keep up.
        latest: Seconds by which one was sent later than it was due.
    """

    sent: int = 0
    ended: int = 0
    good: int = 0
    held: int = 0
    latest: float = 0.0
    seconds: float = 0.0


class Ask(msgspec.Struct, frozen=True):
    """One request as it goes over the wire.

    Attributes:
        leaves: After so many seconds; None: stays to the end.
    """

    identity: str
    kind: str
    raw: bytes
    leaves: float | None = None


# Shares of kinds.
_KINDS = {"plain": 0.42, "stream": 0.32, "tools": 0.10, "repeat": 0.06, "leave": 0.06, "invalid": 0.04}
_CALM = {"plain": 0.5, "stream": 0.38, "tools": 0.12}
_TOPICS = (
    "a parcel",
    "an invoice",
    "a failing test",
    "a train to Lisbon",
    "the weather",
    "a broken chair",
    "tax",
)
_INVALID = (
    b'{"model": "auto", "messages": [',
    b'{"model": "auto", "messages": []}',
    b'{"model": "auto"}',
    b'{"model": "nobody", "messages": [{"role": "user", "content": "Hi"}]}',
    b'{"model": "auto", "messages": [{"role": "user", "content": 7}]}',
    b'{"model": "auto", "messages": [{"role": "user", "content": "\xff"}]}',
    b"[]",
    b"",
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the records.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


def asks(plan: Plan) -> Iterator[Ask]:
    """Yield requests without an end; the same ones for the same plan."""
    lot = random.Random(plan.seed)
    calm = plan.rate is None
    kinds = _CALM if calm else _KINDS
    for number in itertools.count():
        identity = f"{CALM if calm else 'soak-'}{number:09d}"
        kind = lot.choices(tuple(kinds), tuple(kinds.values()))[0]
        wrong = kind == "invalid"
        body = lot.choice(_INVALID) if wrong else msgspec.json.encode(_body(lot, plan, kind, identity))
        leaves = lot.expovariate(10) if kind == "leave" else None
        limit = f"x-request-timeout: {plan.limit:g}\r\n" if number % 2 else ""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{plan.port}\r\ncontent-type: application/json\r\n"
            f"x-request-id: {identity}\r\nx-session-id: {identity}\r\n{limit}content-length: {len(body)}\r\n\r\n"
        )
        yield Ask(identity, kind, head.encode() + body, leaves)


def _body(lot: random.Random, plan: Plan, kind: str, identity: str) -> dict[str, object]:
    text = f"What should I know about {lot.choice(_TOPICS)}, number {identity}?"
    if kind == "repeat":
        text = f"What should I know about {lot.choice(_TOPICS)}, in short?"
    if kind == "leave":
        text += f" {Wish(wait=0.1, chunks=10, gap=0.02).mark}"
    body: dict[str, object] = {
        "model": lot.choice(plan.names),
        "messages": [
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": text},
        ],
    }
    if kind == "stream" or (kind in ("tools", "leave") and lot.random() < 0.5):
        body["stream"] = True
    if kind == "tools":
        body["tools"] = [_TOOL]
    return body


class _Client(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, done: Callable[[_Client, SeenLine], None]) -> None:
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.ask: Ask | None = None
        self._begun = self._at = self.idle_since = 0.0
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []

    @property
    def open(self) -> bool:
        """Whether it can be asked."""
        return self._transport is not None

    def send(self, ask: Ask, bound: float) -> None:
        """Send a request; `done` is called once it is over, one way or another."""
        assert self._transport is not None
        self.ask, self._begun, self._at = ask, time.perf_counter(), time.time()
        self._headers, self._body = {}, []
        over = self._leave if ask.leaves is not None else self._hang
        self._timer = self._loop.call_later(bound if ask.leaves is None else ask.leaves, over)
        self._transport.write(ask.raw)

    def close(self) -> None:
        """Disconnect."""
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> None:
        self._finish(left=True)
        self.close()

    def _hang(self) -> None:
        self._finish(hung=True)
        self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._finish()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the answer."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """See the end of the answer."""
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
            self._transport = None
        self._finish(ended=True)

    def _finish(self, *, ended: bool = False, left: bool = False, hung: bool = False) -> None:
        ask, self.ask = self.ask, None
        if ask is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        seconds = time.perf_counter() - self._begun
        headers, body = self._headers, b"".join(self._body)
        status = self._parser.get_status_code() if headers else 0
        code, whole = _read(status, headers, body, ended=ended)
        cached = headers.get(b"x-smallfirst-cache", b"") in (b"exact", b"semantic")
        # Others than the upstream do not say whose answer it is.
        told = not cached and headers.get(b"x-smallfirst-route") != b"local" and ask.kind != "repeat"
        foreign = whole and told and ask.identity.encode() not in body
        named = headers.get(b"x-smallfirst-request-id")
        line = SeenLine(
            identity=ask.identity,
            kind=ask.kind,
            at=self._at,
            seconds=seconds,
            status=status,
            code=code,
            whole=whole,
            left=left,
            hung=hung,
            foreign=foreign,
            cached=cached,
            request_id=None if named is None else named.decode("latin-1"),
        )
        self._done(self, line)


class _Error(msgspec.Struct):
    code: str | None = None


class _Failed(msgspec.Struct):
    error: _Error


def _read(status: int, headers: dict[bytes, bytes], body: bytes, *, ended: bool) -> tuple[str | None, bool]:
    """Return an error's code, and whether an answer is whole."""
    streams = headers.get(b"content-type", b"").startswith(b"text/event-stream")
    if streams:
        at = body.rfind(b'data: {"error"')
        if at < 0:
            return None, ended and body.endswith(b"data: [DONE]\n\n")
        body = body[at + 6 :].split(b"\n", 1)[0]
    elif status == 200:
        return None, ended
    try:
        return msgspec.json.decode(body, type=_Failed).error.code, False
    except msgspec.DecodeError:
        return None, False


class _Run:
    """Carries a plan out."""

    def __init__(self, plan: Plan, log: IO[bytes] | None) -> None:
        self._plan = plan
        self._asks = asks(plan)
        self._log = log
        self._idle: list[_Client] = []
        self._busy: set[_Client] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self.sums = Sums()
        self._until = float("inf")

    async def run(self) -> None:
        """Send, and wait for what is under way."""
        telling = asyncio.create_task(self._tell())
        begun = time.perf_counter()
        self._until = begun + self._plan.seconds
        if self._plan.rate is None:
            for _ in range(self._plan.connections):
                await self._send(next(self._asks))
            await asyncio.sleep(self._plan.seconds)
        else:
            await self._paced(self._plan.rate, begun)
        self.sums.seconds = time.perf_counter() - begun
        last = time.perf_counter() + self._plan.bound + 5
        while (self._busy or self._sending) and time.perf_counter() < last:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        telling.cancel()
        for client in [*self._idle, *self._busy]:
            client.close()

    async def _paced(self, rate: float, begun: float) -> None:
        """Send at random distances, whatever becomes of the requests before."""
        lot = random.Random(self._plan.seed + 1)
        due = begun
        while (due := due + lot.expovariate(rate)) < self._until:
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            self.sums.latest = max(self.sums.latest, time.perf_counter() - due)
            if len(self._busy) + len(self._sending) >= MOST:
                self.sums.held += 1
                continue
            client = self._free()
            if client is not None:
                self._begin(client, next(self._asks))
                continue
            task = asyncio.create_task(self._send(next(self._asks)))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    def _free(self) -> _Client | None:
        """Return the connection that was used last, where there is one."""
        while self._idle:
            client = self._idle.pop()
            if client.open and time.perf_counter() - client.idle_since < _FRESH:
                return client
            client.close()
        return None

    async def _send(self, ask: Ask) -> None:
        """Send a request over a new connection."""
        loop = asyncio.get_running_loop()
        try:
            _, client = await loop.create_connection(
                lambda: _Client(self._done), "127.0.0.1", self._plan.port
            )
        except OSError:
            self.sums.sent += 1
            self._write(SeenLine(ask.identity, ask.kind, time.time(), 0.0, code="refused"))
            return
        self._begin(client, ask)

    def _begin(self, client: _Client, ask: Ask) -> None:
        self._busy.add(client)
        self.sums.sent += 1
        client.send(ask, self._plan.bound)

    def _done(self, client: _Client, line: SeenLine) -> None:
        self._busy.discard(client)
        self._write(line)
        if self._plan.rate is not None:
            if client.open and not (line.left or line.hung):
                client.idle_since = time.perf_counter()
                self._idle.append(client)
        elif time.perf_counter() < self._until and client.open:
            self._begin(client, next(self._asks))

    def _write(self, line: SeenLine) -> None:
        if time.perf_counter() < self._until:
            self.sums.ended += 1
        self.sums.good += line.whole
        if self._log is not None:
            self._log.write(msgspec.json.encode(line) + b"\n")

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            print(self.sums.sent, self.sums.good, len(self._busy), flush=True)


def main() -> None:
    """Read a plan from standard input, and print what came of it."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    log = None if plan.log is None else Path(plan.log).open("ab")  # noqa: SIM115
    made: list[_Run] = []

    async def run() -> None:
        made.append(_Run(plan, log))
        await made[0].run()

    uvloop.run(run())
    if log is not None:
        log.close()
    print(msgspec.json.encode(made[0].sums).decode(), flush=True)


if __name__ == "__main__":
    main()
