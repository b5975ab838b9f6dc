"""Local models whose processes belong to somebody else (a parent), who hands out connections to them."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import IO, Protocol

import msgspec

from ...errors import ModelFileError, ModelUnavailable
from .process import ModelProcess
from .protocol import Leave, Load, ToWorker, frame_of

_HEADER = 4

# What a shared process is told by who started it (see `hosted`): here is a new connection; what do you do?
NEW, ASK = b"n", b"?"


class Doing(msgspec.Struct, frozen=True):
    """What a shared process does.

    Attributes:
        clients: Gateways that have a connection.
        outstanding: Jobs that are not done.
        idle: Seconds since a job began or ended.
    """

    clients: int
    outstanding: int
    idle: float


class Attach(msgspec.Struct, tag="attach", frozen=True):
    """Asks for a connection to a model's process, which is started where there is none.

    Attributes:
        size: Bytes of memory that it takes, about.
    """

    load: Load
    size: int


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """Asks how a process ended."""

    pid: int


class Attached(msgspec.Struct, tag="attached", frozen=True):
    """There it is: the connection comes with this message."""

    pid: int


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """The model cannot be loaded; by its file, or for now."""

    message: str
    file: bool
    code: str | None = None
    retry_after: float | None = None


class Ended(msgspec.Struct, tag="ended", frozen=True):
    """How a process ended, in words."""

    words: str


Question = Attach | Ask
Reply = Attached | Refused | Ended

decode_question = msgspec.msgpack.Decoder(Question).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


class Engines(Protocol):
    """Where the processes of local models come from."""

    def open(self, load: Load, size: int) -> ModelProcess:
        """Return a process that has loaded a model. Blocks.

        Raises:
            ModelFileError: The model cannot be loaded.
            ModelUnavailable: There is no room for it now.
        """
        ...


class SharedEngines:
    """Processes of somebody else.

    Args:
        channel: To who has them.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()

    def open(self, load: Load, size: int) -> ModelProcess:
        """Return a process that has loaded a model; see `Engines`."""
        reply, connection = self._ask(Attach(load, size))
        if isinstance(reply, Refused):
            if reply.file:
                raise ModelFileError(reply.message)
            raise ModelUnavailable(reply.message, retry_after=reply.retry_after, code=reply.code)
        if not isinstance(reply, Attached) or connection is None:
            raise ModelUnavailable("The server is about to end.")
        return ModelProcess(load, name=load.name, running=_Shared(connection, reply.pid, self))

    def ending(self, pid: int) -> str:
        """Return how a process ended."""
        reply, _ = self._ask(Ask(pid))
        return reply.words if isinstance(reply, Ended) else "unknown"

    def _ask(self, question: Question) -> tuple[Reply | None, socket.socket | None]:
        """Return the answer, with a connection where one came; None where nobody answers any more."""
        with self._lock:
            try:
                self._channel.sendall(frame_of(question))
                header, given, _, _ = socket.recv_fds(self._channel, _HEADER, 1)
                connection = socket.socket(fileno=given[0]) if given else None
                header += read_exactly(self._channel, _HEADER - len(header))
                payload = read_exactly(self._channel, int.from_bytes(header, "big"))
            except (OSError, EOFError):
                return None, None
        return _decode_reply(payload), connection


class _Shared:
    """A connection to a process that others use, too."""

    farewell: ToWorker | None = Leave()

    def __init__(self, connection: socket.socket, pid: int, engines: SharedEngines) -> None:
        self.pid = pid
        self._connection = connection
        self._engines = engines
        self._words: str | None = None
        self.source: IO[bytes] = connection.makefile("rb")
        self.sink: IO[bytes] = connection.makefile("wb")

    def end(self) -> None:
        with contextlib.suppress(OSError):
            # What was said last goes out with it.
            self.sink.close()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def ending(self) -> str:
        if self._words is None:
            self._words = self._engines.ending(self.pid)
        return self._words


def read_exactly(channel: socket.socket, size: int) -> bytes:
    """Read so many bytes.

    Raises:
        EOFError: The other side is gone.
        OSError: The channel is of no use.
    """
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
