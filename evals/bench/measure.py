"""The rounds: every server gets the same load in turns, so that what else the machine does hits all alike."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from .load import Outcome, Plan
from .machine import BenchError, Cores, Process, free_port, on_core
from .targets import NotInstalled, Place, Target, Tell, environment
from .upstream import MODEL, Wish

# The upstream asked without a gateway: what is to be taken off.
DIRECT = "direct"

# A server with more bad answers than this is not measured further.
_MOST_FAILED = 0.01
_READY = 180.0
# Longer than this no server is loaded only to see its memory.
_LONGEST_RSS = 120.0

_PROMPT = "My order has not arrived although it was due on Monday. What can I do, and whom should I write to?"

KINDS = ("throughput", "single", "paced", "waiting", "first_chunk", "chunks")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: Of everything; medians count.
        starts: Of every server.
        seconds: Of one measurement, after `warm` seconds that do not count.
        connections: Of the closed loop, and how many streams run at once.
        chunks: Of a stream.
        memory_after: Requests after which the resident memory is read.
    """

    rounds: int = 3
    starts: int = 3
    seconds: float = 3.0
    warm: float = 1.0
    connections: int = 64
    chunks: int = 100
    memory_after: tuple[int, int] = (5_000, 50_000)


# Only shows that everything works.
QUICK = Sizes(rounds=1, starts=1, seconds=0.3, warm=0.1, connections=8, chunks=10, memory_after=(100, 300))
# Gives a first idea within two minutes.
SHORT = Sizes(rounds=1, starts=1, seconds=2.0, warm=1.0, memory_after=(1_000, 10_000))


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement.

    Attributes:
        outcome: What the clients saw.
        cpu_ms: Processor time of the server for each request.
        others_busy: Share of their core that clients and upstream took: near 1, they are what was measured.
        direct: The same load without the server, where that was measured just before.
    """

    outcome: Outcome
    cpu_ms: float | None
    others_busy: float
    direct: Outcome | None = None


@dataclass(slots=True)
class Readings:
    """What was measured of one server, `DIRECT` among them.

    Attributes:
        by_kind: Round by round.
        starts: Seconds from starting the process to its first answer.
        memory: Resident bytes by requests answered.
        failures: What did not work, and why.
    """

    by_kind: dict[str, list[Reading]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    starts: list[float] = field(default_factory=list)
    memory: dict[int, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole run: versions and readings by name; why some are missing."""

    versions: Mapping[str, str]
    readings: Mapping[str, Readings]
    skipped: Mapping[str, str]
    busy_before: float


def measure(targets: Sequence[Target], sizes: Sizes, work: Path, scratch: Path, tell: Tell) -> Measured:
    """Install what is missing, start everything, measure, end everything.

    Args:
        targets: What to measure.
        sizes: How much.
        work: Where other gateways are installed.
        scratch: An empty folder.
        tell: Is told of every step, as one line.

    Raises:
        BenchError: The clients or the upstream do not work.
    """
    busy = os.getloadavg()[0]
    versions: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for target in targets:
        try:
            versions[target.name] = target.prepare(work, tell)
        except NotInstalled as exc:
            skipped[target.name] = f"cannot be installed: {exc}"
            tell(f"{target.title}: left out, {skipped[target.name]}")
    with contextlib.ExitStack() as stack:
        bench = _Bench(sizes, work, scratch, tell, stack)
        bench.run([target for target in targets if target.name in versions])
    return Measured(versions, bench.readings, skipped, busy)


@dataclass(slots=True)
class _Running:
    target: Target
    port: int
    process: Process


class _Bench:
    """One run. Everything that it starts is ended with `stack`."""

    def __init__(
        self, sizes: Sizes, work: Path, scratch: Path, tell: Tell, stack: contextlib.ExitStack
    ) -> None:
        self._sizes = sizes
        self._work = work
        self._scratch = scratch
        self._tell = tell
        self._stack = stack
        self._cores = Cores.found()
        argv = (sys.executable, "-m", "smallfirst.evals.bench.upstream")
        self._upstream = Process(argv, core=self._cores.others, log=None, environ=environment())
        stack.callback(self._upstream.stop)
        self._upstream_port = int(self._upstream.first_line())
        self._running: dict[str, _Running] = {}
        self._steps = self._step = 0
        self.readings: dict[str, Readings] = {DIRECT: Readings()}

    def run(self, targets: Sequence[Target]) -> None:
        """Measure everything."""
        names = [DIRECT, *(target.name for target in targets)]
        self.readings |= {target.name: Readings() for target in targets}
        sizes = self._sizes
        self._steps = sizes.starts * len(targets) + sizes.rounds * len(KINDS) * len(names) + len(targets)
        for _ in range(sizes.starts):
            for target in targets:
                self._trying(target.name, "start", partial(self._start, target))
        for kind in KINDS:
            for _ in range(sizes.rounds):
                for name in names:
                    self._trying(name, kind, partial(self._read, name, kind))
        for target in targets:
            self._trying(target.name, "memory", partial(self._memory, target.name))

    # --- steps ------------------------------------------------------------------------------------------------

    def _trying(self, name: str, what: str, step: Callable[[], str]) -> None:
        """Take a step. What fails is not tried again in the next rounds; a server that did not start is given up."""
        self._step += 1
        failures = self.readings[name].failures
        if what in failures or "start" in failures:
            return
        try:
            said = step()
        except BenchError as exc:
            if name == DIRECT:
                raise
            failures[what] = str(exc)
            said = f"failed: {exc}"
        self._tell(f"[{self._step}/{self._steps}] {name}: {what}: {said}")

    def _start(self, target: Target) -> str:
        """Start a server, again if it runs, and time it until it answers."""
        old = self._running.pop(target.name, None)
        if old is not None:
            old.process.stop()
        for other in self._running.values():
            other.process.pause()
        scratch = self._scratch / f"{target.name}-{len(self.readings[target.name].starts)}"
        scratch.mkdir()
        port = free_port()
        launch = target.launch(Place(self._work, scratch, self._upstream_url, port))
        process = Process(
            launch.argv, core=self._cores.gateway, log=scratch / "output.log", environ=launch.environ
        )
        self._stack.callback(process.stop)
        self._running[target.name] = running = _Running(target, port, process)
        with on_core(self._cores.others):
            seconds = self._until_ready(running)
        self.readings[target.name].starts.append(seconds)
        return f"ready after {seconds:.2f} s"

    def _until_ready(self, running: _Running) -> float:
        body = msgspec.json.encode(
            {"model": running.target.model, "messages": [{"role": "user", "content": "Are you there?"}]}
        )
        headers = {"content-type": "application/json", **running.target.headers(self._upstream_url)}
        said = "it refuses connections"
        while time.perf_counter() < running.process.started + _READY:
            running.process.check()
            client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
            try:
                client.request("POST", "/v1/chat/completions", body, headers)
                response = client.getresponse()
                text = response.read(300)
                if response.status == 200:
                    return time.perf_counter() - running.process.started
                said = f"{response.status} {text.decode(errors='replace')}"
            except (OSError, http.client.HTTPException):
                pass
            finally:
                client.close()
            time.sleep(0.01)
        raise BenchError(f"not ready within {_READY:.0f} s: {said}")

    def _read(self, name: str, kind: str) -> str:
        sizes = self._sizes
        at_once: dict[str, Any] = {"connections": sizes.connections}
        if kind == "throughput":
            reading = self._load(name, **at_once)
            said = f"{reading.outcome.per_second:,.0f} requests/s"
        elif kind == "single":
            reading = self._load(name)
            said = _ms(reading.outcome)
        elif kind == "paced":
            reading = self._paced(name)
            said = _ms(reading.outcome)
        elif kind == "waiting":
            reading = self._load(name, wish=Wish(wait=0.05), **at_once)
            said = f"{reading.outcome.per_second:,.0f} requests/s, {_ms(reading.outcome)}"
        elif kind == "first_chunk":
            reading = self._load(name, wish=Wish(chunks=10, gap=0.001), stream=True)
            first = reading.outcome.first
            said = "no chunk" if first is None else f"first chunk p50 {first.p50:.2f} ms"
        else:
            reading = self._load(name, wish=Wish(chunks=sizes.chunks), stream=True, **at_once)
            said = f"{reading.outcome.chunks / reading.outcome.seconds:,.0f} chunks/s"
        self.readings[name].by_kind[kind].append(reading)
        return said

    def _paced(self, name: str) -> Reading:
        """Load at a quarter of what was seen at most; and the upstream alone at the same rate."""
        rates = [reading.outcome.per_second for reading in self.readings[name].by_kind["throughput"]]
        if not rates:
            raise BenchError("its throughput is not known")
        rate = max(5.0, sorted(rates)[len(rates) // 2] / 4)
        if name == DIRECT:  # only has to be the quickest; its own counterparts are measured with each server
            rate = min(rate, 1000.0)
            return self._load(name, rate=rate)
        direct = self._load(DIRECT, rate=rate).outcome
        reading = self._load(name, rate=rate)
        return Reading(reading.outcome, reading.cpu_ms, reading.others_busy, direct)

    def _memory(self, name: str) -> str:
        """Read the memory after so and so many requests since its start."""
        rates = [reading.outcome.per_second for reading in self.readings[name].by_kind["throughput"]]
        if not rates or self._sizes.memory_after[1] / max(rates) > _LONGEST_RSS:
            return "left out, it would take too long"
        self._start(self._running[name].target)
        self.readings[name].starts.pop()
        asked = 1
        for goal in self._sizes.memory_after:
            reading = self._load(name, requests=goal - asked, connections=self._sizes.connections)
            asked += reading.outcome.asked
            self.readings[name].memory[goal] = self._running[name].process.rss_bytes()
        return ", ".join(f"{size / 1e6:.0f} MB" for size in self.readings[name].memory.values())

    # --- load -------------------------------------------------------------------------------------------------

    @property
    def _upstream_url(self) -> str:
        return f"http://127.0.0.1:{self._upstream_port}/v1"

    def _load(self, name: str, *, wish: Wish | None = None, **plan: Any) -> Reading:
        """Load one server, or the upstream; the others are set aside.

        Raises:
            BenchError: The server ended, or answers badly.
        """
        running = self._running.get(name)
        for other in self._running.values():
            if other is running:
                other.process.resume()
            else:
                other.process.pause()
        target = None if running is None else running.target
        made = Plan(
            port=self._upstream_port if running is None else running.port,
            headers={} if target is None else dict(target.headers(self._upstream_url)),
            model=MODEL if target is None else target.model,
            text=_PROMPT if wish is None else f"{_PROMPT} {wish.mark}",
            warm=self._sizes.warm,
            seconds=self._sizes.seconds,
            **plan,
        )
        servers = [self._upstream] if running is None else [self._upstream, running.process]
        before = [server.cpu_seconds() for server in servers]
        begun = time.perf_counter()
        outcome = self._clients(made)
        took = time.perf_counter() - begun
        used = [server.cpu_seconds() - at for server, at in zip(servers, before, strict=True)]
        for server in servers:
            server.check()
        if not outcome.answered or outcome.failed > _MOST_FAILED * max(outcome.asked, 1):
            raise BenchError(f"{outcome.failed} of {outcome.asked} answers were bad: {outcome.failure}")
        cpu_ms = used[1] / outcome.asked * 1000 if running is not None else None
        return Reading(outcome, cpu_ms, (outcome.cpu_seconds + used[0]) / took)

    def _clients(self, plan: Plan) -> Outcome:
        argv = (sys.executable, "-m", "smallfirst.evals.bench.load")
        with on_core(self._cores.others):
            done = subprocess.run(
                argv, input=msgspec.json.encode(plan), capture_output=True, env=environment(), check=False
            )
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise BenchError(f"the clients ended with {done.returncode}: {''.join(last)}")
        return msgspec.json.decode(done.stdout, type=Outcome)


def _ms(outcome: Outcome) -> str:
    spread = outcome.latency
    return "no answer" if spread is None else f"p50 {spread.p50:.2f} ms, p99 {spread.p99:.2f} ms"
