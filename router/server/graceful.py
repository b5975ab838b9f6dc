"""An HTTP server that ends well: it stops to listen, lets what it has begun come to its end, and cuts what does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from ..processes.listeners import take_no_more
from .connections import uvicorn_options
from .drain import Drain

if TYPE_CHECKING:
    from ..settings import Settings
    from .bounds import Bounded

log = logging.getLogger("smallfirst.server")

# A client may have sent its next request just when it was to be told that no more are taken: connections that are idle
# are closed so much later, and what came meanwhile is answered.
LINGER = 1.0
# Seconds at most until all connections are taken that the system has in its queue; in each turn of the loop it is some.
EMPTYING = 5.0
# What was cut may take so long to say so, to a client that reads slowly.
LAST_WORDS = 2.0
# uvloop (libuv) takes one connection of a listening socket in each turn of its loop, and a turn in which a hundred
# requests go on takes a tenth of a second: where others keep their connections, newcomers would wait for seconds, and
# nothing would tell. So every socket is listened at so many times.
ACCEPTS = 16
_LOOK = 0.02
_CLOSE = (b"connection", b"close")


def config_of(app: Bounded, settings: Settings) -> uvicorn.Config:
    """Return how a server serves an app."""
    return uvicorn.Config(
        app,
        host=settings.server.host,
        port=settings.server.port,
        # Every request has a line in our own log; what uvicorn has to say goes there, too.
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
        **uvicorn_options(app.bounds),
    )


class GracefulServer(uvicorn.Server):
    """Serves until it is told to end: `SIGTERM` or `SIGINT` once, and what is under way has `grace` seconds; twice, and
    it has none.

    While it ends: no connection is taken any more (those that the system had taken already are served), every answer
    says `connection: close`, connections without a request are closed, and `drain.begun` tells probes. When the time is
    over, what is left is cut; then the app's lifespan ends, which flushes the ledger and frees models.

    Args:
        config: How it serves.
        drain: Told of the end.
        grace: Seconds.
        commanded: Whether somebody else (a parent) says when the time is over: then a signal that comes again, or that
            is meant for a whole group of processes, changes nothing.

    Attributes:
        hurried: The signal that left no time; None: there was none.
        ready: Called when it listens.
        leaving: Called when it is about to listen no more.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Drain, grace: float, *, commanded: bool = False
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._grace = grace
        self._commanded = commanded
        self._ends_at = float("inf")
        self.hurried: int | None = None
        self.ready: Callable[[], None] = lambda: None
        self.leaving: Callable[[], None] = lambda: None

    # --- signals ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals; unlike uvicorn's, they are not raised again at the end, so that logs are written whole."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        if self._commanded:
            # Sent to all processes of a terminal, of which the parent is one.
            before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; the second time, end at once."""
        if not self._drain.begun:
            self.begin_to_end()
        elif not self._commanded:
            self.hurried = sig
            self.end_now()

    def begin_to_end(self) -> None:
        """Take no more requests; safe to call twice."""
        if not self._drain.begun:
            self._drain.begun = True
            self._ends_at = time.monotonic() + self._grace
            self.should_exit = True
            self._say_close()

    def _say_close(self) -> None:
        """Have every answer say that its connection is closed after it."""
        state = self.server_state
        if _CLOSE not in state.default_headers:
            state.default_headers = [*state.default_headers, _CLOSE]

    async def on_tick(self, counter: int) -> bool:
        """Make the headers of every answer anew, ten times a second; returns whether to end."""
        ends = await super().on_tick(counter)
        if self._drain.begun:
            self._say_close()
        return ends

    def end_now(self) -> None:
        """Cut what is under way; safe to call twice."""
        self.begin_to_end()
        self._ends_at = 0.0

    # --- the beginning and the end -----------------------------------------------------------------------------

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        # Where the app could not begin, there is none.
        made = [] if self.should_exit else self.servers
        for listening in [each for server in made for each in server.sockets]:
            for _ in range(ACCEPTS - 1 if sys.platform != "win32" else 0):  # uvloop is not there
                await self.listen_too(_same(listening))
        self.ready()

    async def listen_too(self, listening: socket.socket) -> Callable[[], None]:
        """Take connections of one more socket; returns what stops that. The socket is closed then."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._connection, sock=listening, backlog=self.config.backlog)
        self.servers.append(server)

        def stop() -> None:
            if server in self.servers:
                self.servers.remove(server)
            server.close()

        return stop

    def _connection(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, as the class says."""
        begun = time.monotonic()
        self.leaving()
        # Where it was not a signal that ended it.
        self._drain.begun = True
        self._ends_at = min(self._ends_at, begun + self._grace)
        state = self.server_state
        self._say_close()
        await self._stop_listening(sockets or (), begun + EMPTYING)
        log.info("about to end", extra={"connections": len(state.connections), "under_way": len(state.tasks)})
        await self._ended(self._ends_at)
        if not self._idle:
            await self._cut()
        await self.lifespan.shutdown()
        log.info("ended", extra={"seconds": round(time.monotonic() - begun, 3)})

    async def _stop_listening(self, sockets: Sequence[socket.socket], until: float) -> None:
        # The system takes connections by itself and keeps them in a queue. It is told to keep no more, and what is
        # there is taken out of it, in the loop's next turns, before the queue goes. (Where a parent holds the sockets,
        # others may go on to listen at them.)
        heard = [each for server in self.servers for each in server.sockets]
        for listening in heard if not self._commanded else ():
            with _same(listening) as same:
                take_no_more(same)
        with selectors.DefaultSelector() as queues:
            for listening in heard:
                queues.register(listening.fileno(), selectors.EVENT_READ)
            while True:
                await asyncio.sleep(_LOOK)
                if not queues.select(0) or time.monotonic() >= min(until, self._ends_at):
                    break
        for server in self.servers:
            server.close()
        for given in sockets:
            given.close()

    @property
    def _idle(self) -> bool:
        return not self.server_state.connections and not self.server_state.tasks

    async def _ended(self, until: float) -> None:
        """Wait until nothing is under way, or until then; an order to end at once is heard."""
        idle_since: dict[Any, float] = {}
        # Connections are uvicorn's and tell nobody that they end, and a signal may come at any time: it is looked.
        while not self._idle and (now := time.monotonic()) < min(until, self._ends_at):
            self._part(idle_since, now)
            await asyncio.sleep(_LOOK)

    def _part(self, idle_since: dict[Any, float], now: float) -> None:
        """Have connections closed: after an answer that says so, or when for a while there was no request.

        Of an answer that began before, the client could not know: it may send its next request right after it.
        """
        for connection in list(self.server_state.connections):
            cycle: Any = getattr(connection, "cycle", None)
            if cycle is None or cycle.response_complete:
                if now - idle_since.setdefault(connection, now) >= LINGER:
                    connection.shutdown()
                continue
            idle_since.pop(connection, None)
            if not cycle.response_started:
                cycle.keep_alive = False

    async def _cut(self) -> None:
        count = self._drain.cut()
        log.warning("the time is over for what was under way", extra={"cut": count})
        self._ends_at = time.monotonic() + LAST_WORDS
        await self._ended(self._ends_at)
        for task in list(self.server_state.tasks):
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self._ends_at = time.monotonic() + LAST_WORDS
        await self._ended(self._ends_at)


def _same(listening: Any) -> socket.socket:
    """Return another file of an event loop's socket."""
    return socket.fromfd(listening.fileno(), listening.family, listening.type)
