"""The pretended upstream of a soak: several models, each at a port of its own, that fail at random and write it down.

    python -m smallfirst.evals.bench.soak_upstream --seed 1 --log calls.jsonl --models a,b,c

Prints the ports, in the models' order, once it listens. From SIGUSR1 on, a model is down now and then. Beside
`upstream`, which must only be fast, this one knows every request by its `x-request-id`, says it in its answer, and
writes a line for each call: what was done to it, whether it was answered whole, and the usage that it told.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

import httptools
import msgspec
import uvloop

from .soak_faults import Draw, draw
from .upstream import Wish

# A model's port is closed for so many seconds, now and then.
DOWN, BETWEEN = (0.3, 1.5), (10.0, 40.0)
# Longer than any limit of the gateway's.
_EVER = 120.0
_SLOW = 0.05


class CallLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call as it is written down; or, without a request, a time in which a model was down.

    Attributes:
        at: Unix seconds when it came, or when the model went down.
        until: When it was up again.
        whole: Whether all of a good answer was handed to the connection.
        held: Whether the gateway had not hung up by then. Whether it ever read the answer is not known here: a reset
            takes what lies unread, even where the gateway's system has it already.
        ended: Unix seconds when that was, or 0.
    """

    model: str
    at: float
    identity: str = ""
    fault: str | None = None
    whole: bool = False
    held: bool = False
    ended: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    until: float = 0.0


class _Model:
    """One model: its port, its connections, and how often it was asked for each request."""

    def __init__(self, name: str, seed: int, log: IO[bytes]) -> None:
        self.name = name
        self.seed = seed
        self.log = log
        self.open: set[_Connection] = set()
        self.asked: Counter[str] = Counter()
        self.port = 0
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Take connections, at the same port as before."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def fall(self, seconds: float) -> None:
        """Be down for a while: calls under way are cut, new connections refused."""
        assert self._server is not None
        self._server.close()
        begun = time.time()
        for connection in list(self.open):
            connection.fall()
        await asyncio.sleep(seconds)
        await self.listen()
        self.write(CallLine(self.name, begun, fault="down", until=time.time()))

    def write(self, line: CallLine) -> None:
        """Write a line down."""
        self.log.write(msgspec.json.encode(line) + b"\n")


class _Connection(asyncio.Protocol):
    """One connection of the gateway's; requests come one after the other."""

    def __init__(self, model: _Model) -> None:
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._body: list[bytes] = []
        self._identity = ""
        self._line: CallLine | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._model.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._model.open.discard(self)
        if self._task is not None:
            self._task.cancel()
        self._end()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.abort()

    # --- what the parser calls --------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Forget the last request."""
        self._body, self._identity = [], ""

    def on_header(self, name: bytes, value: bytes) -> None:
        """See whose request it is."""
        if name.lower() == b"x-request-id":
            self._identity = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer, in a way that is drawn."""
        body = b"".join(self._body)
        model, identity = self._model, self._identity
        drawn = draw(model.seed, identity, model.name, model.asked[identity])
        if drawn.fault is not None:
            # Of the others it is enough to know that they were asked for the first time.
            model.asked[identity] += 1
        used = (drawn.input_tokens, drawn.output_tokens)
        self._line = CallLine(
            model.name, time.time(), identity, drawn.fault, input_tokens=used[0], output_tokens=used[1]
        )
        wish = Wish.read(body)
        answer = _Answer(self, drawn, body, wish)
        if drawn.fault is None and not wish.wait and not answer.streams:
            self.send(answer.whole())
            self.done()
        else:
            self._task = self._loop.create_task(answer.act())

    # --- what an answer calls ---------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """Of the request that is being answered."""
        return self._identity

    def send(self, data: bytes) -> None:
        """Send something, if anybody is there."""
        if self._transport is not None:
            self._transport.write(data)

    def done(self) -> None:
        """Note that the answer is whole."""
        if self._line is not None:
            held = self._transport is not None
            self._line = msgspec.structs.replace(self._line, whole=True, held=held, ended=time.time())
        self._end()

    def close(self) -> None:
        """End the connection after what was sent."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            held: socket.socket = self._transport.get_extra_info("socket")
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def fall(self) -> None:
        """Be reset, since the model goes down."""
        if self._line is not None:
            self._line = msgspec.structs.replace(self._line, fault="down")
        self.reset()

    def _end(self) -> None:
        line, self._line = self._line, None
        if line is not None and line.identity:
            self._model.write(line)


class _Answer:
    """How one request is answered."""

    def __init__(self, connection: _Connection, drawn: Draw, body: bytes, wish: Wish) -> None:
        self._connection = connection
        self._drawn = drawn
        self._wish = wish
        self.streams = b'"stream":true' in body
        self._calls = b'"tools":' in body

    async def act(self) -> None:
        """Answer."""
        fault, connection = self._drawn.fault, self._connection
        if self._wish.wait:
            await asyncio.sleep(self._wish.wait)
        if fault is None or fault == "slow":
            await self._well(_SLOW if fault == "slow" else self._wish.gap)
        elif fault == "reset":
            connection.reset()
        elif fault == "error":
            connection.send(
                _json(b'{"error":{"message":"injected","type":"t","code":"injected"}}', b"500 No")
            )
        elif fault in ("busy", "wait"):
            more = b"retry-after: 1\r\n" if fault == "wait" else b""
            busy = b'{"error":{"message":"injected","type":"t","code":"busy"}}'
            connection.send(_json(busy, b"429 No", more))
        elif fault == "garbage":
            connection.send(
                _STREAM + _chunk(b'data: {"choices": [{"del\n\n') if self.streams else _json(b'{"id')
            )
        elif fault == "hang":
            await asyncio.sleep(_EVER)
        else:
            await self._in_part(stall=fault == "stall")
        connection.done() if fault in (None, "slow") else connection._end()

    async def _in_part(self, *, stall: bool) -> None:
        if self.streams:
            self._connection.send(_STREAM + self._event({"content": "Answer"}))
        else:
            self._connection.send(self.whole()[:-20])
        if stall:
            await asyncio.sleep(_EVER)
        self._connection.close()

    async def _well(self, gap: float) -> None:
        if not self.streams:
            if gap:
                await asyncio.sleep(4 * gap)
            self._connection.send(self.whole())
            return
        self._connection.send(_STREAM + self._event({"role": "assistant", "content": ""}))
        for words in self._pieces():
            if gap:
                await asyncio.sleep(gap)
            self._connection.send(self._event(words))
        last = self._event({}, "tool_calls" if self._calls else "stop")
        counted = _chunk(
            b"data: %b\n\n" % _encode(self._named("chat.completion.chunk", [], usage=self._usage()))
        )
        self._connection.send(last + counted + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    def whole(self) -> bytes:
        """Return an answer in one piece."""
        text = f"Answer to {self._connection.identity}."
        message: dict[str, object] = {"role": "assistant", "content": text}
        if self._calls:
            message = {"role": "assistant", "content": None, "tool_calls": [self._call()]}
        finish = "tool_calls" if self._calls else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return _json(_encode(self._named("chat.completion", [choice], usage=self._usage())))

    def _pieces(self) -> list[dict[str, object]]:
        if self._calls:
            return [{"tool_calls": [{"index": 0, **self._call()}]}]
        words = [f"Answer to {self._connection.identity}."]
        return [{"content": text} for text in words + [" More."] * min(self._wish.chunks, 20)]

    def _call(self) -> dict[str, object]:
        arguments = _encode({"query": self._connection.identity}).decode()
        return {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": arguments}}

    def _usage(self) -> dict[str, int]:
        prompt, words = self._drawn.input_tokens, self._drawn.output_tokens
        return {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}

    def _named(self, kind: str, choices: list[object], **more: object) -> dict[str, object]:
        return {"id": "c", "object": kind, "created": 1, "model": "m-1", "choices": choices, **more}

    def _event(self, delta: Mapping[str, object], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _chunk(b"data: %b\n\n" % _encode(self._named("chat.completion.chunk", [choice])))


_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_encode = msgspec.json.encode


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return head % (status, more, len(body)) + body


async def _serve(seed: int, names: list[str], log: IO[bytes]) -> None:
    models = [_Model(name, seed, log) for name in names]
    for model in models:
        await model.listen()
    begins = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begins.set)
    print(*(model.port for model in models), flush=True)
    await begins.wait()
    lot = random.Random(seed)
    while True:
        await asyncio.sleep(lot.uniform(*BETWEEN))
        await lot.choice(models).fall(lot.uniform(*DOWN))


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="Pretended models on loopback that fail at random.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--models", required=True)
    given = parser.parse_args()
    # Line by line: the process may be ended at any moment.
    with given.log.open("ab", buffering=0) as log:
        uvloop.run(_serve(given.seed, given.models.split(","), log))


if __name__ == "__main__":
    main()
