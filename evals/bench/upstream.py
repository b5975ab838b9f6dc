"""A pretended model on loopback: OpenAI's chat completions, answered at once, late or as a stream.

    python -m smallfirst.evals.bench.upstream --port 0

Prints the port once it listens. How a request is answered stands in its own text, so that every gateway passes it on:
`[[bench wait=50 chunks=20 gap=5]]` (milliseconds; each may be missing). Made to be fast, so that it never is what is
measured: one protocol object a connection, parsed by httptools, answers made beforehand.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import httptools
import msgspec
import uvloop

# As OpenAI does, it answers under a dated name, not the one it was asked for.
MODEL, ANSWERS_AS = "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"

_MARK = re.compile(rb"\[\[bench ([a-z0-9= ]*)\]\]")
_WORDS = "The delivery left the warehouse on Monday and will be with you before the end of this week. "
_USAGE = {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60}


@dataclass(frozen=True, slots=True)
class Wish:
    """How a request wants to be answered.

    Attributes:
        wait: Seconds before anything is sent.
        chunks: Pieces of text in a stream.
        gap: Seconds between two of them; 0: each in a write of its own, as fast as the connection takes them.
    """

    wait: float = 0.0
    chunks: int = 20
    gap: float = 0.0

    @property
    def mark(self) -> str:
        """What says so in a prompt."""
        return f"[[bench wait={self.wait * 1000:.0f} chunks={self.chunks} gap={self.gap * 1000:.0f}]]"

    @classmethod
    def read(cls, body: bytes) -> Wish:
        """Return what a body's mark says; without one, the usual."""
        found = _MARK.search(body)
        if found is None:
            return _USUAL
        said = dict(pair.split(b"=") for pair in found[1].split())
        chunks = int(said.get(b"chunks", 20))
        return cls(int(said.get(b"wait", 0)) / 1000, chunks, int(said.get(b"gap", 0)) / 1000)


_USUAL = Wish()


def _completion() -> dict[str, object]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": _WORDS.strip(), "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    return _named("chat.completion") | {"choices": [choice], "usage": _USAGE}


def _named(kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-bench", "object": kind, "created": 1_760_000_000, "model": ANSWERS_AS}


def _chunk(choices: list[object], **more: object) -> bytes:
    event = b"data: %b\n\n" % msgspec.json.encode(
        _named("chat.completion.chunk") | {"choices": choices} | more
    )
    return b"%x\r\n%b\r\n" % (len(event), event)


def _delta(delta: Mapping[str, str], finish: str | None = None) -> bytes:
    return _chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])


def _whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


# Answers, ready to be sent.
_ANSWER = _whole(msgspec.json.encode(_completion()))
_MODELS = _whole(msgspec.json.encode({"object": "list", "data": [{"id": MODEL, "object": "model"}]}))
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_FIRST = _delta({"role": "assistant", "content": "The "})
_NEXT = _delta({"content": "delivery "})
_FINISH = _delta({}, "stop")
_COUNTED = _chunk([], usage=_USAGE)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One client's connection; requests come one after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._write(_whole(b'{"error": {"message": "no HTTP"}}', b"400 Bad Request"))
            if self._transport is not None:
                self._transport.close()

    # --- what the parser calls --------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Forget the last request."""
        self._body = []

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        body = b"".join(self._body)
        if not body:
            self._write(_MODELS)
            return
        wish = Wish.read(body)
        if wish.wait:
            self._loop.call_later(wish.wait, self._answer, body, wish)
        else:
            self._answer(body, wish)

    # ----------------------------------------------------------------------------------------------------------

    def _answer(self, body: bytes, wish: Wish) -> None:
        if b'"stream":true' not in body and b'"stream": true' not in body:
            self._write(_ANSWER)
            return
        last = _FINISH + (_COUNTED if b"include_usage" in body else b"") + _END
        self._write(_STREAM_HEAD + _FIRST)
        self._go_on(wish.chunks - 1, wish.gap, last)

    def _go_on(self, left: int, gap: float, last: bytes) -> None:
        """Send the next chunk at its time: in another turn of the loop, so that it is a write of its own."""
        if self._transport is None:
            return
        if gap:
            self._loop.call_later(gap, self._send_next, left, gap, last)
        else:
            self._loop.call_soon(self._send_next, left, gap, last)

    def _send_next(self, left: int, gap: float, last: bytes) -> None:
        if left <= 0:
            self._write(last)
            return
        self._write(_NEXT)
        self._go_on(left - 1, gap, last)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(loop), "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="A pretended model on loopback.")
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
