"""The parent of several serving processes: starts them, starts them again, passes on what they are to do, ends them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ..errors import SettingsError
from ..models.local.process import words
from ..settings import Settings
from ..succession import Change
from .engines import EngineHost
from .link import Gone, Handler, Link, Refused, hang_up
from .merging import Dump, merged
from .messages import Forgotten, Setup
from .shared import Guest, House
from .sockets import Place, refuse_more
from .source import Given

log = logging.getLogger("smallfirst.server")

_WORKER = "smallfirst.router.processes.worker"
# Seconds before a worker is started again, doubled each time; one that lived for so long begins anew.
_FIRST_PAUSE, _LONGEST_PAUSE, _LIVED = 0.1, 30.0, 60.0
# Seconds beyond the grace that a worker has to write its ledger, before it is killed.
_LAST_WORDS = 20.0
# Seconds after which a worker is killed whose event loop stands still; it is asked six times in that time.
PATIENCE = 60.0
# Seconds that a worker may take to say what it counted; else what it said last is taken.
_SCRAPE = 2.0
# Seconds between looks for models that nobody asks.
_TIDY = 5.0


@dataclass(eq=False)
class _Child:
    """One worker.

    Attributes:
        dump: What it counted, as it said last.
        ready: Whether it serves.
        leaving: Set when it takes no more connections, or is gone.
        asked_at: When it was asked whether it does anything; None: it has answered.
    """

    index: int
    process: asyncio.subprocess.Process
    link: Link
    reading: asyncio.Task[None]
    guest: Guest
    given: Given | None = None
    dump: Dump = field(default_factory=list)
    ready: bool = False
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    asked_at: float | None = None


class Parent:
    """Runs workers until it is told to end.

    Args:
        given: The settings that all begin with.
        settings: The same, read.
        read: Reads them again; may block.
        places: What each worker listens at.
        patience: Seconds after which a worker is killed that does nothing at all.
    """

    def __init__(
        self,
        given: Given,
        settings: Settings,
        read: Callable[[], Given],
        places: list[Place],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._first = self._given = given
        self._settings = settings
        self._read = read
        self._places = places
        self._secret = secrets.token_bytes(32)
        self._house = House(settings.responses.max_bytes, settings.responses.ttl)
        self._engines = EngineHost(settings.models_memory)
        self._children: dict[int, _Child] = {}
        # Those that take no more connections, and what sees to their end.
        self._departing: dict[_Child, asyncio.Task[None]] = {}
        # Whose connections another one takes, and which one.
        self._lent: dict[int, _Child] = {}
        self._dead: Dump = []
        self._pings: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self._ending = asyncio.Event()
        self._now = asyncio.Event()
        self._status = 0
        self._has_served = False

    async def run(self) -> int:
        """Serve; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        tasks = set[asyncio.Task[None]]()

        def reload() -> None:
            task = loop.create_task(self._hung_up())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        tasks |= {loop.create_task(self._tidy()), loop.create_task(self._look_after())}
        try:
            await asyncio.gather(*(self._keep(index) for index in range(len(self._places))))
            await asyncio.gather(*self._departing.values())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(self._engines.close)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
        return self._status

    # --- the life of a worker -----------------------------------------------------------------------------------

    async def _keep(self, index: int) -> None:
        """Have a worker at this place, always."""
        pause = _FIRST_PAUSE
        while not self._ending.is_set():
            ready, began = False, time.monotonic()
            try:
                child = await self._start(index)
            except OSError as exc:  # no memory, no files, no more processes
                log.error("worker %d cannot be started: %s", index + 1, exc.strerror or exc)
            else:
                await child.leaving.wait()
                ready = child.ready
                self._children.pop(index)
                self._lend([index, *(at for at, helper in self._lent.items() if helper is child)])
                self._departing[child] = asyncio.create_task(self._depart(child))
            if self._ending.is_set() or self._given_up(ready):
                return
            if time.monotonic() - began > _LIVED:
                pause = _FIRST_PAUSE
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _given_up(self, ready: bool) -> bool:
        """End all where a worker cannot begin at all; it has said why. Later on it is tried again."""
        if ready or self._has_served:
            return False
        self._status = 1
        self.stop()
        return True

    async def _start(self, index: int) -> _Child:
        ours, theirs = socket.socketpair()
        engines, engines_theirs = socket.socketpair()
        sockets = [each for place in self._places for each in place]
        passed = [each.fileno() for each in (theirs, engines_theirs, *sockets)]
        arguments = [str(number) for number in (index, len(self._places[0]), *passed)]
        with theirs, engines_theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                _WORKER,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=passed,
                # A terminal's signals are the parent's to pass on.
                start_new_session=True,
            )
        threading.Thread(target=self._engines.serve, args=(engines,), daemon=True).start()
        handlers: dict[str, Handler] = {}
        link = Link(*await asyncio.open_unix_connection(sock=ours), handlers)
        child = _Child(index, process, link, asyncio.create_task(link.run()), self._house.guest())
        handlers.update(self._handlers(child))
        link.lost = child.leaving.set
        self._children[index] = child
        if self._ending.is_set():
            self._tell_end(child)
        return child

    def _handlers(self, child: _Child) -> dict[str, Handler]:
        return {
            "hello": (int, lambda _: self._setup(child)),
            "ready": (None, lambda _: self._began(child)),
            "leaving": (None, lambda _: child.leaving.set()),
            "scrape": (Dump, lambda dump: self._scrape(child, dump)),
            "last": (Dump, lambda dump: setattr(child, "dump", dump)),
            "reload_all": (None, lambda _: self.reload()),
            "forget_all": (Forgotten, self._forget),
            **child.guest.handlers(),
        }

    def _setup(self, child: _Child) -> Setup:
        child.given = self._given
        return Setup(
            self._first,
            self._given,
            self._secret,
            limits=self._settings.limits_url is None,
            responses=self._settings.cache.url is None,
        )

    async def _began(self, child: _Child) -> None:
        child.ready = self._has_served = True
        helper = self._lent.pop(child.index, None)
        if helper is not None:
            helper.link.tell("give_back", child.index)
        # Others may have died when there was nobody else.
        places = range(len(self._places))
        self._lend([at for at in places if at not in self._children and at not in self._lent])
        async with self._reloading:
            if child.given is not self._given:
                await self._take_on(child, self._given)

    def _lend(self, homeless: list[int]) -> None:
        """Have others take connections in the place of those that are gone."""
        helpers = [child for child in self._children.values() if child.ready and child.link.alive]
        for at in homeless:
            self._lent.pop(at, None)
            there = self._children.get(at)
            if helpers and not self._ending.is_set() and (there is None or not there.ready):
                helper = helpers[at % len(helpers)]
                self._lent[at] = helper
                helper.link.tell("adopt", at)

    async def _depart(self, child: _Child) -> None:
        """See to the end of a worker that takes no more connections."""
        if not await self._ends(child, self._settings.server.grace + _LAST_WORDS):
            child.process.kill()
            await child.process.wait()
        # What it said last is read to its end.
        await asyncio.wait({child.reading}, timeout=_SCRAPE)
        await hang_up(child.link, child.reading)
        child.guest.left()
        del self._departing[child]
        self._dead = merged([], [self._dead, child.dump])
        code = child.process.returncode
        if not self._ending.is_set():
            level = logging.ERROR if code else logging.INFO
            log.log(level, "worker %d ended (%s)", child.index + 1, words(code or 0))

    async def _ends(self, child: _Child, seconds: float) -> bool:
        """Wait for a worker's end for so long, or for a moment once there is no time."""
        ended = asyncio.ensure_future(child.process.wait())
        hurried = asyncio.ensure_future(self._now.wait())
        await asyncio.wait({ended, hurried}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done() and hurried.done():
            await asyncio.wait({ended}, timeout=_LAST_WORDS)
        hurried.cancel()
        return ended.done()

    # --- the end --------------------------------------------------------------------------------------------------

    def _end(self, number: int) -> None:
        if not self._ending.is_set():
            self.stop()
            return
        self._status = 128 + number
        self._now.set()
        for child in (*self._children.values(), *self._departing):
            child.link.tell("end_now")

    def stop(self) -> None:
        """Have all workers end well."""
        self._ending.set()
        refuse_more(self._places)
        self._engines.stop_loading()
        for child in self._children.values():
            self._tell_end(child)

    def _tell_end(self, child: _Child) -> None:
        if child.ready:
            child.link.tell("end")
        else:
            # It may be long in coming up, and has nothing to finish.
            with suppress(ProcessLookupError):
                child.process.terminate()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY)
            await asyncio.to_thread(self._engines.tidy)

    async def _look_after(self) -> None:
        """Kill workers that do nothing: their connections would wait for good."""
        while True:
            await asyncio.sleep(self._patience / 6)
            now = time.monotonic()
            for child in (*self._children.values(), *self._departing):
                if not child.ready or not child.link.alive:
                    continue
                if child.asked_at is None:
                    child.asked_at = now
                    task = asyncio.create_task(self._ping(child))
                    self._pings.add(task)
                    task.add_done_callback(self._pings.discard)
                elif now - child.asked_at > self._patience:
                    log.error("worker %d stands still, and is killed", child.index + 1)
                    with suppress(ProcessLookupError):
                        child.process.kill()

    async def _ping(self, child: _Child) -> None:
        with suppress(Gone, Refused):
            await child.link.call("ping", None, bool)
            child.asked_at = None

    # --- what is asked for all --------------------------------------------------------------------------------------

    async def _scrape(self, asking: _Child, dump: Dump) -> tuple[list[Dump], list[Dump]]:
        asking.dump = dump
        everybody = [*self._children.values(), *self._departing]
        await asyncio.gather(*(self._ask(child) for child in everybody if child is not asking))
        # Of those that are gone by now it is in `_dead`.
        everybody = [*self._children.values(), *self._departing]
        there = [child.dump for child in everybody if child.link.alive]
        return there, [self._dead, *(child.dump for child in everybody if not child.link.alive)]

    async def _ask(self, child: _Child) -> None:
        if not child.ready:
            return
        with suppress(Gone, Refused, TimeoutError):
            async with asyncio.timeout(_SCRAPE):
                child.dump = await child.link.call("dump", None, Dump)

    async def _forget(self, forgotten: Forgotten) -> int:
        """Have all workers forget cached answers; returns how many there were."""
        serving = [child for child in (*self._children.values(), *self._departing) if child.ready]
        found = await asyncio.gather(
            *(child.link.call("forget_cached", forgotten, int) for child in serving), return_exceptions=True
        )
        for child, answer in zip(serving, found, strict=True):
            # One that is gone has forgotten everything.
            if isinstance(answer, BaseException) and child.link.alive:
                raise answer
        return sum(count for count in found if isinstance(count, int))

    async def reload(self) -> Change:
        """Read the settings again, and have all workers serve by them.

        Raises:
            SettingsError: They cannot be used. Everything is as it was.
        """
        async with self._reloading:
            if self._ending.is_set():
                raise SettingsError("this server is about to end")
            given = await asyncio.to_thread(self._read)
            serving = [child for child in self._children.values() if child.ready]
            if not serving:
                raise SettingsError("no process serves yet")
            first, *others = serving
            try:
                change = await first.link.call("take_on", given, Change)
            except (Gone, Refused) as exc:
                raise SettingsError(str(exc)) from exc
            first.given = self._given = given
            await asyncio.gather(*(self._take_on(child, given) for child in others))
        return change

    async def _take_on(self, child: _Child, given: Given) -> None:
        """Have a worker take on settings that another one could; where it cannot, its successor does."""
        try:
            await child.link.call("take_on", given, Change)
        except (Gone, Refused) as exc:
            log.error("worker %d is replaced: it did not take on other settings (%s)", child.index + 1, exc)
            with suppress(ProcessLookupError):
                child.process.terminate()
        else:
            child.given = given

    async def _hung_up(self) -> None:
        try:
            await self.reload()
        except SettingsError as exc:
            log.error("the settings were not read again; all goes on as before: %s", exc)


def run(given: Given, settings: Settings, read: Callable[[], Given], places: list[Place]) -> int:
    """Run workers until a signal ends them; returns the exit status."""

    async def main() -> int:
        return await Parent(given, settings, read, places).run()

    return asyncio.run(main())
