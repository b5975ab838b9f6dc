"""Serves by one gateway, and by another one once the settings were read again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import SettingsError, SmallfirstError
from ..gateway import Gateway
from ..settings import Settings
from ..succession import Change, change_of, retire, succeed
from ..telemetry.logs import set_level

log = logging.getLogger("smallfirst.server")

# A request that still runs so long after a reload (somebody watches a page that is kept up to date) does not keep
# what was replaced any longer.
DRAIN_SECONDS = 3600.0

Reload = Callable[[], Awaitable[Change]]


@dataclass(slots=True, eq=False)
class _Generation:
    gateway: Gateway
    app: ASGIApp
    running: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Reloading:
    """An ASGI app whose gateway, keys and limits can be replaced while it serves.

    A request is served to its end by the gateway that it began with; what only that one uses is closed afterwards.

    Args:
        gateway: The first one.
        make: Makes the app over a gateway; it is also given what reloads.
        read: Reads the settings again; None: there is nothing to read.
        follow: Told of other settings before they are in force; a `SettingsError` of it stops them. May block.
        retired: Called when nothing of a former gateway is left.
    """

    def __init__(
        self,
        gateway: Gateway,
        make: Callable[[Gateway, Reload], ASGIApp],
        read: Callable[[], Settings] | None,
        *,
        follow: Callable[[Settings], None] = lambda _: None,
        retired: Callable[[], None] = lambda: None,
    ) -> None:
        self._make = make
        self._read = read
        self._follow = follow
        self._after_retiring = retired
        self._now = _Generation(gateway, make(gateway, self.reload))
        self._before: list[_Generation] = []
        self._retiring: dict[asyncio.Task[None], _Generation] = {}
        self._one_at_a_time = asyncio.Lock()
        self._closed = False

    @property
    def gateway(self) -> Gateway:
        """The gateway that serves new requests."""
        return self._now.gateway

    @property
    def retired(self) -> bool:
        """Whether nothing of former gateways is left."""
        return not self._before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        generation = self._now
        generation.running += 1
        try:
            await generation.app(scope, receive, send)
        finally:
            generation.running -= 1
            if generation.running == 0 and generation is not self._now:
                generation.idle.set()

    async def reload(self) -> Change:
        """Read the settings again, and serve by them from now on.

        Raises:
            SettingsError: They cannot be used; names the field. Everything is as it was.
        """
        async with self._one_at_a_time:
            change = await self._reload()
        log.info(
            "the settings were read again",
            extra={"changed": list(change.changed), "needs_restart": list(change.needs_restart)},
        )
        return change

    async def _reload(self) -> Change:
        if self._read is None:
            raise SettingsError("this server was not started from settings that can be read again")
        if self._closed:
            raise SettingsError("this server is about to end")
        before = self._now
        settings, change = change_of(before.gateway.settings, await asyncio.to_thread(self._read))
        after = await succeed(before.gateway, settings, self._follow)
        # From here on nothing fails and nothing is waited for.
        set_level(settings.log)
        self._now = _Generation(after, self._make(after, self.reload))
        self._before.append(before)
        if before.running == 0:
            before.idle.set()
        task = asyncio.get_running_loop().create_task(self._retire(before))
        self._retiring[task] = before
        task.add_done_callback(self._retiring.pop)
        return change

    async def hung_up(self) -> None:
        """Reload as `SIGHUP` asks: what goes wrong is in the log."""
        try:
            await self.reload()
        except SmallfirstError as exc:
            log.error("the settings were not read again; all goes on as before: %s", exc)

    async def aclose(self) -> None:
        """Close the gateway, and what is left of those before. What is reloading now is waited for."""
        self._closed = True
        async with self._one_at_a_time:
            retiring = dict(self._retiring)
            for generation in retiring.values():
                generation.idle.set()
                await generation.gateway.shadow.aclose()
            await asyncio.gather(*retiring, return_exceptions=True)
            await self.gateway.aclose()

    async def _retire(self, generation: _Generation) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await generation.idle.wait()
        self._before.remove(generation)
        living = [self.gateway, *(other.gateway for other in self._before)]
        await retire(generation.gateway, living)
        self._after_retiring()


def listen_for_hangup(served: Reloading) -> Callable[[], object] | None:
    """Reload on SIGHUP; returns what stops that, or None where there are no such signals (Windows, a thread)."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        return None
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def reload() -> None:
        task = loop.create_task(served.hung_up())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGHUP)
        for task in tasks:
            task.cancel()

    loop.add_signal_handler(signal.SIGHUP, reload)
    return stop
