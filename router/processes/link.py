"""Calls between two processes over a socket, either way: frames of MessagePack, as with local models."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any, TypeVar

import msgspec

from ..errors import SmallfirstError
from ..models.local.protocol import frame_of

log = logging.getLogger("smallfirst.server")

T = TypeVar("T")

_HEADER = 4


class Refused(SmallfirstError):
    """The other side could not do it; its message says why."""


class Gone(SmallfirstError):
    """The other side is not there any more."""


class _Call(msgspec.Struct, tag="call", frozen=True):
    """Asks for something; 0 as `id` asks for no answer."""

    id: int
    name: str
    value: msgspec.Raw


class _Answer(msgspec.Struct, tag="answer", frozen=True):
    """The answer to a call."""

    id: int
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    refused: str | None = None


_decode = msgspec.msgpack.Decoder(_Call | _Answer).decode

# The type of what a call brings, and what is done with it; its result, awaited where need be, is the answer.
Handler = tuple[Any, Callable[[Any], Awaitable[Any] | Any]]


class Link:
    """One end. Calls are taken in the order in which they came; those that wait for something wait by themselves.

    Args:
        reader, writer: The socket's streams.
        handlers: What the other side may ask for, by name.

    Attributes:
        lost: Called once, when it ends.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.alive = True
        self.lost: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Read until the other side is gone."""
        try:
            while True:
                header = await self._reader.readexactly(_HEADER)
                payload = await self._reader.readexactly(int.from_bytes(header, "big"))
                message = _decode(payload)
                if isinstance(message, _Answer):
                    self._answered(message)
                else:
                    self._called(message)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Hang up; who waits for an answer gets `Gone`."""
        if self.alive:
            self.alive = False
            self.lost()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Gone("the other process is gone"))
        for task in self._tasks:
            task.cancel()
        self._writer.close()

    async def call(self, name: str, value: object, kind: type[T]) -> T:
        """Ask the other side for something, and return it.

        Raises:
            Refused: It could not do that.
            Gone: It is not there any more.
        """
        if not self.alive:
            raise Gone("the other process is gone")
        number = next(self._ids)
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._send(_Call(number, name, msgspec.Raw(msgspec.msgpack.encode(value))))
        try:
            raw = await future
        finally:
            self._waiting.pop(number, None)
        return msgspec.msgpack.decode(raw, type=kind)

    def tell(self, name: str, value: object = None) -> None:
        """Tell the other side something; nothing comes of it where it is gone."""
        self._send(_Call(0, name, msgspec.Raw(msgspec.msgpack.encode(value))))

    def _send(self, message: _Call | _Answer) -> None:
        if self.alive:
            self._writer.write(frame_of(message))

    def _answered(self, answer: _Answer) -> None:
        future = self._waiting.pop(answer.id, None)
        if future is None or future.done():
            return
        if answer.refused is not None:
            future.set_exception(Refused(answer.refused))
        else:
            future.set_result(answer.value)

    def _called(self, call: _Call) -> None:
        kind, do = self._handlers[call.name]
        try:
            result = do(msgspec.msgpack.decode(call.value, type=kind))
        except SmallfirstError as exc:
            self._refuse(call, exc)
            return
        if isawaitable(result):
            task = asyncio.ensure_future(self._answer_later(call, result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._answer(call, result)

    async def _answer_later(self, call: _Call, work: Awaitable[Any]) -> None:
        try:
            self._answer(call, await work)
        except SmallfirstError as exc:
            self._refuse(call, exc)
        except Exception as exc:  # a bug of ours: who waits must hear of it
            log.error("unexpected %s in a call of another process", type(exc).__name__)
            self._refuse(call, exc)

    def _answer(self, call: _Call, result: Any) -> None:
        if call.id:
            self._send(_Answer(call.id, msgspec.Raw(msgspec.msgpack.encode(result))))

    def _refuse(self, call: _Call, exc: Exception) -> None:
        if call.id:
            text = (
                str(exc) if isinstance(exc, SmallfirstError) else f"an internal error ({type(exc).__name__})"
            )
            self._send(_Answer(call.id, refused=text))


async def hang_up(link: Link, running: asyncio.Task[None]) -> None:
    """Close a link, and wait until nothing of it runs."""
    link.close()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
