"""One of several serving processes: `python -m smallfirst.router.processes.worker`, started by `parent` alone."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from ..errors import CacheUnavailable, SettingsError, SmallfirstError
from ..succession import Change, change_of
from .link import Gone, Handler, Link, Refused, hang_up
from .merging import Dump, dump_of, merged, metrics_of
from .messages import Forgotten, Setup
from .shared import SharedLimiter, SharedResponses
from .source import Given

if TYPE_CHECKING:
    from ..metrics import Metrics
    from ..server.graceful import GracefulServer
    from ..server.reload import Reloading
    from ..settings import Settings

# Seconds in which the parent's loop answers; it starts models in threads of their own.
_PATIENCE = 30.0


class Worker:
    """What this process has of the others; see `Family`.

    Args:
        link: To the parent.
        setup: What the parent said at the beginning.
    """

    def __init__(self, link: Link, setup: Setup) -> None:
        self._link = link
        self._given = setup.given
        self._served: Reloading | None = None
        self.secret = setup.secret
        self.limiter = SharedLimiter(link) if setup.limits else None
        self.responses = SharedResponses(link) if setup.responses else None

    def serves(self, served: Reloading) -> None:
        """Take note of what serves."""
        self._served = served

    def read(self) -> Settings:
        """Return the settings as the parent read them last."""
        return self._given.settings()

    async def metrics(self, own: Metrics) -> bytes:
        """Return the metrics of all processes; of this one alone where the parent is gone."""
        from prometheus_client import generate_latest

        try:
            dumps = await self._link.call("scrape", dump_of(own.collect()), tuple[list[Dump], list[Dump]])
        except (Gone, Refused):
            return own.render()
        return generate_latest(_Collected(merged(*dumps)))  # type: ignore[arg-type]

    async def reload(self) -> Change:
        """Have all processes read the settings again."""
        try:
            return await self._link.call("reload_all", None, Change)
        except (Gone, Refused) as exc:
            raise SettingsError(str(exc)) from exc

    async def forget(self, tenant: str, namespace: str | None) -> int:
        """Have all processes forget a tenant's cached answers, or those of one namespace."""
        try:
            return await self._link.call("forget_all", Forgotten(tenant, namespace), int)
        except (Gone, Refused) as exc:
            raise CacheUnavailable("Not all processes have forgotten the answers; try again.") from exc

    # --- what the parent asks for -------------------------------------------------------------------------------

    def dump(self, _: None) -> Dump:
        """Return this process's metrics."""
        return [] if self._served is None else dump_of(self._served.gateway.metrics.collect())

    async def forget_cached(self, forgotten: Forgotten) -> int:
        """Forget cached answers of this process."""
        if self._served is None:
            return 0
        return await self._served.gateway.forget(tenant=forgotten.tenant, namespace=forgotten.namespace)

    async def take_on(self, given: Given) -> Change:
        """Serve by other settings from now on."""
        if self._served is None:
            raise SettingsError("this process does not serve yet")
        before, self._given = self._given, given
        try:
            return await self._served.reload()
        except BaseException:
            self._given = before
            raise


class _Collected:
    """Metrics that were put together, as a registry has them."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    def collect(self) -> object:
        """Return them."""
        return metrics_of(self._dump)


class Listening:
    """At which sockets this process takes connections: its own, and for a while those of another that died.

    Args:
        places: Of all workers.
        index: Which of them this one is.
    """

    def __init__(self, places: Sequence[Sequence[socket.socket]], index: int) -> None:
        self._places = list(places)
        self.own = list(places[index])
        self._others = [each for at, place in enumerate(places) if at != index for each in place]
        self._stops: dict[int, list[Callable[[], None]]] = {}
        self._left = False
        self.server: GracefulServer | None = None

    async def adopt(self, index: int) -> None:
        """Take another one's connections, too."""
        if self.server is None or self._left or index in self._stops:
            return
        self._stops[index] = []
        for each in self._places[index]:
            self._stops[index].append(await self.server.listen_too(each.dup()))

    def give_back(self, index: int) -> None:
        """Leave them to its successor."""
        for stop in self._stops.pop(index, []):
            stop()

    def let_go(self) -> None:
        """Close what is not this one's, for good: who waits there is the others'."""
        self._left = True
        for index in list(self._stops):
            self.give_back(index)
        for each in self._others:
            each.close()


async def work(index: int, descriptors: Sequence[int], width: int) -> None:
    """Serve until told to end.

    Args:
        index: Which of the workers this is.
        descriptors: Of the link, of the channel to local models, and of all workers' sockets.
        width: Sockets of each worker.

    Raises:
        SmallfirstError: It cannot begin.
    """
    from ..telemetry.logs import write_logs

    link_to, engines_at, *listening = (socket.socket(fileno=descriptor) for descriptor in descriptors)
    places = [listening[at : at + width] for at in range(0, len(listening), width)]
    handlers: dict[str, Handler] = {}
    link = Link(*await asyncio.open_unix_connection(sock=link_to), handlers)
    reading = asyncio.ensure_future(link.run())
    try:
        async with asyncio.timeout(_PATIENCE):
            setup = await link.call("hello", index, Setup)
        settings, _ = change_of(setup.first.settings(), setup.given.settings())
        with write_logs(settings.log, sys.stderr):
            await _serve(link, setup, settings, engines_at, Listening(places, index), handlers)
    finally:
        await hang_up(link, reading)


async def _serve(
    link: Link,
    setup: Setup,
    settings: Settings,
    engines_at: socket.socket,
    listening: Listening,
    handlers: dict[str, Handler],
) -> None:
    from ..gateway import Gateway
    from ..models.local.sharing import SharedEngines
    from ..server import make_app
    from ..server.connections import allow_files
    from ..server.drain import Drain
    from ..server.graceful import GracefulServer, config_of
    from ..server.memory import settle

    allow_files(settings.limits)
    gateway = Gateway(settings)
    gateway.share_engines(SharedEngines(engines_at))
    worker, drain = Worker(link, setup), Drain()
    app = make_app(gateway, read_settings=worker.read, settled=settle, drain=drain, family=worker)
    server = GracefulServer(config_of(app, settings), drain, settings.server.grace, commanded=True)
    listening.server = server

    def leave() -> None:
        listening.let_go()
        link.tell("leaving")

    handlers.update(
        {
            "ping": (None, lambda _: True),
            "dump": (None, worker.dump),
            "take_on": (Given, worker.take_on),
            "forget_cached": (Forgotten, worker.forget_cached),
            "adopt": (int, listening.adopt),
            "give_back": (int, listening.give_back),
            "end": (None, lambda _: server.begin_to_end()),
            "end_now": (None, lambda _: server.end_now()),
        }
    )
    server.ready = lambda: link.tell("ready")
    server.leaving = leave
    link.lost = server.begin_to_end
    if not link.alive:
        raise Gone("the parent is gone")
    await server.serve(sockets=listening.own)
    with suppress(Gone, Refused, TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            # Answered when all that was said before it has been heard, too: what requests took, for one.
            await link.call("last", worker.dump(None), type(None))


def main() -> None:
    """Serve; what is wrong at the beginning is one line on standard error and exit status 1."""
    import uvloop

    # Sent to a whole group of processes; the parent says what is to be done.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    index, width, *descriptors = (int(argument) for argument in sys.argv[1:])
    try:
        uvloop.run(work(index, descriptors, width))
    except SmallfirstError as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
