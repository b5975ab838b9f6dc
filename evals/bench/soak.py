"""A long run of the real server under load, with upstreams that fail at random; at the end all books must agree.

The server is `smallfirst serve` in a process of its own, on a core of its own. `soak_upstream` is what fails,
`soak_clients` asks, `soak_checks` holds what each of the three has written down against the others'; `soak_page` says
what came of it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from .machine import BenchError, Cores, Process, free_port, on_core
from .soak_checks import Books, Rules, audit
from .soak_clients import Plan, Sums
from .targets import environment

Tell = Callable[[str], None]

# Two clouds, and a third one that is asked last.
PRICES: Mapping[str, tuple[float, float]] = {
    "cloud-a": (1.0, 4.0),
    "cloud-b": (2.0, 8.0),
    "fallback": (10.0, 30.0),
}
LOCAL = "local"

# Seconds. Short, so that what hangs is seen often; long enough for a machine that is busy with other things.
TIMEOUTS = {"connect": 5.0, "first_byte": 6.0, "between_bytes": 6.0, "total": 15.0}
REST, MOST_REST, FAILURES = 1.0, 5.0, 3
_LIMIT = 25.0
_MARGIN = 3.0
_READY = 120.0
# Beyond the start's: the ledger's files, the connections of a pool to Redis, what one look at the process opens.
_MORE_FILES = 4
# Memory may grow so much, after so many requests.
GROWTH, FILLED = 1.10, 5_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long, how much, and what is on.

    Attributes:
        minutes: Of load.
        share: Of the capacity that was measured first.
        seed: Of everything that is drawn.
        cache: `off`, `memory`, or the URL of a Redis.
        local: Whether the small local model is asked for now and then.
        calibration: Seconds of closed loop.
        settling: Seconds that the server has at the end to come to rest: idle connections are kept for 30.
    """

    minutes: float = 30.0
    share: float = 0.8
    seed: int = 1
    cache: str = "memory"
    local: bool = False
    calibration: float = 10.0
    settling: float = 60.0


@dataclass(frozen=True, slots=True)
class Level:
    """What a process has open."""

    files: int
    connections: int
    tasks: int


@dataclass(slots=True)
class Soaked:
    """What came of it.

    Attributes:
        capacity: Good answers a second, in the closed loop.
        rate: Requests a second that were sent.
        memory: (seconds since the start, requests sent, resident bytes).
        before, after: At rest.
        counted: Requests in the server's own metrics, the closed loop's among them.
        lost: By its metrics.
        unexpected: Lines of its log that tell of a bug.
    """

    sizes: Sizes
    capacity: float = 0.0
    rate: float = 0.0
    sums: Sums = field(default_factory=Sums)
    memory: list[tuple[float, int, int]] = field(default_factory=list)
    before: Level = Level(0, 0, 0)
    after: Level = Level(0, 0, 0)
    counted: int = 0
    lost: int = 0
    unexpected: list[str] = field(default_factory=list)
    stopped_in: float = 0.0
    books: Books = field(default_factory=Books)

    @property
    def thirds(self) -> tuple[float, float]:
        """Median resident bytes of the first third of the time, and of the last, once what is filled once is full."""
        sizes = [size for _, sent, size in self.memory if sent >= FILLED] or [
            size for *_, size in self.memory
        ]
        if not sizes:
            return 0.0, 0.0
        third = max(1, len(sizes) // 3)
        return statistics.median(sizes[:third]), statistics.median(sizes[-third:])


def soak(sizes: Sizes, scratch: Path, tell: Tell) -> Soaked:
    """Run it.

    Args:
        sizes: How long, and how much.
        scratch: An empty folder; logs, ledger and books stay there.
        tell: Is told of every step, as one line.

    Raises:
        BenchError: A process does not work here.
    """
    with contextlib.ExitStack() as stack:
        return _Soak(sizes, scratch, tell, stack).run()


class _Soak:
    """One run. Everything that it starts is ended with `stack`."""

    def __init__(self, sizes: Sizes, scratch: Path, tell: Tell, stack: contextlib.ExitStack) -> None:
        self._sizes = sizes
        self._scratch = scratch
        self._tell = tell
        self._cores = Cores.found()
        self._made = Soaked(sizes)
        names = ",".join(PRICES)
        calls = str(scratch / "calls.jsonl")
        argv = (sys.executable, "-m", "smallfirst.evals.bench.soak_upstream", "--seed", str(sizes.seed))
        self._upstream = Process(
            (*argv, "--log", calls, "--models", names),
            core=self._cores.others,
            log=None,
            environ=environment(),
        )
        stack.callback(self._upstream.stop)
        self._port = free_port()
        file = scratch / "smallfirst.yaml"
        ports = [int(port) for port in self._upstream.first_line().split()]
        file.write_bytes(msgspec.json.encode(_settings(sizes, scratch, ports)))  # JSON is YAML
        serve = (sys.executable, "-m", "smallfirst.evals.bench.soak_serve", str(scratch / "tasks"))
        options = ("--config", str(file), "serve", "--port", str(self._port))
        self._log = scratch / "server.log"
        self._server = Process(
            (*serve, *options), core=self._cores.gateway, log=self._log, environ=environment()
        )
        stack.callback(self._server.stop)

    def run(self) -> Soaked:
        made, sizes = self._made, self._sizes
        self._until_ready()
        made.before = self._level()
        self._tell(f"ready; at rest it has {made.before}")
        calm = self._clients(self._plan(sizes.calibration), lambda *_: None)
        made.capacity = calm.ended / calm.seconds
        made.rate = made.capacity * sizes.share
        self._tell(
            f"capacity {made.capacity:,.0f} requests/s; {made.rate:,.0f} a second are sent from now on"
        )
        os.kill(self._upstream.pid, signal.SIGUSR1)
        made.sums = self._clients(self._plan(sizes.minutes * 60, made.rate), self._watch(time.monotonic()))
        self._tell("waiting until it is at rest")
        made.after = self._at_rest()
        self._read_metrics()
        begun = time.monotonic()
        self._server.stop()
        made.stopped_in = time.monotonic() - begun
        lines = self._log.read_text(errors="replace").splitlines()
        made.unexpected = [
            line for line in lines if "unexpected" in line or "Traceback" in line or "never " in line
        ]
        self._tell("comparing the books")
        rules = Rules(
            PRICES, len(PRICES) * TIMEOUTS["total"] + _MARGIN, _LIMIT + _MARGIN, 4 * MOST_REST, FAILURES
        )
        paths = [self._scratch / name for name in ("seen.jsonl", "calls.jsonl", "ledger.db", "joined.db")]
        made.books = audit(paths[0], paths[1], paths[2], paths[3], rules)
        return made

    # --- load -------------------------------------------------------------------------------------------------

    def _plan(self, seconds: float, rate: float | None = None) -> Plan:
        names = ["auto"] * 6 + ["cloud-a", "cloud-b"]
        if self._sizes.local and rate is not None:
            names = [*names * 12, LOCAL]
        return Plan(
            port=self._port,
            names=names,
            seed=self._sizes.seed,
            seconds=seconds,
            rate=rate,
            log=None if rate is None else str(self._scratch / "seen.jsonl"),
            bound=len(PRICES) * TIMEOUTS["total"] + 2 * _MARGIN,
            limit=_LIMIT,
        )

    def _clients(self, plan: Plan, told: Callable[[int, int, int], None]) -> Sums:
        argv = (sys.executable, "-m", "smallfirst.evals.bench.soak_clients")
        with on_core(self._cores.others):
            clients = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=False
            )
        assert clients.stdin is not None
        assert clients.stdout is not None
        try:
            clients.stdin.write(msgspec.json.encode(plan))
            clients.stdin.close()
            line = b""
            for line in clients.stdout:
                if not line.startswith(b"{"):
                    sent, good, busy = line.split()
                    told(int(sent), int(good), int(busy))
                    self._server.check()
        finally:
            if clients.poll() is None:
                clients.terminate()
            clients.wait()
            clients.stdout.close()
        if not line.startswith(b"{"):
            raise BenchError(f"the clients ended with {clients.returncode}")
        return msgspec.json.decode(line, type=Sums)

    def _watch(self, begun: float) -> Callable[[int, int, int], None]:
        total, told_at = self._sizes.minutes * 60, [0.0]

        def told(sent: int, good: int, busy: int) -> None:
            now = time.monotonic() - begun
            size = self._server.rss_bytes()
            if now <= total:
                self._made.memory.append((now, sent, size))
            if now >= told_at[0]:
                told_at[0] = now + 10
                self._tell(
                    f"[{min(now, total):.0f}/{total:.0f} s] {sent:,} sent, {good:,} answered well, "
                    f"{busy} under way, {size / 1e6:.0f} MB"
                )

        return told

    # --- the server -------------------------------------------------------------------------------------------

    def _until_ready(self) -> None:
        until = time.monotonic() + _READY
        while time.monotonic() < until:
            self._server.check()
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._get("/health/ready")[0] == 200:
                    return
            time.sleep(0.1)
        raise BenchError(f"the gateway is not ready within {_READY:.0f} s")

    def _get(self, path: str) -> tuple[int, str]:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            client.request("GET", path)
            response = client.getresponse()
            return response.status, response.read().decode()
        finally:
            client.close()

    def _level(self) -> Level:
        """Return what the server's process has open."""
        kinds = []
        folder = Path(f"/proc/{self._server.pid}/fd")
        for one in folder.iterdir():
            with contextlib.suppress(OSError):
                kinds.append(os.readlink(one))
        counts = self._scratch / "tasks"
        before = _lines_of(counts)
        os.kill(self._server.pid, signal.SIGUSR2)
        for _ in range(50):
            time.sleep(0.1)
            if len(_lines_of(counts)) > len(before):
                break
        tasks = [int(line) for line in _lines_of(counts)]
        sockets = sum(kind.startswith("socket:") for kind in kinds)
        return Level(len(kinds), sockets, tasks[-1] if tasks else -1)

    def _at_rest(self) -> Level:
        """Return its level once that is the start's again, or when the time for it is over."""
        until = time.monotonic() + self._sizes.settling
        before = self._made.before
        while True:
            level = self._level()
            settled = level.files <= before.files + 1 and level.tasks <= before.tasks
            if settled or time.monotonic() > until:
                return level
            time.sleep(2)

    def _read_metrics(self) -> None:
        _, text = self._get("/metrics")
        counted = re.findall(r"^smallfirst_requests_total\{.*\} ([0-9.e+]+)$", text, re.MULTILINE)
        lost = re.findall(r"^smallfirst_ledger_lost_total ([0-9.e+]+)$", text, re.MULTILINE)
        self._made.counted = round(sum(float(value) for value in counted))
        self._made.lost = round(sum(float(value) for value in lost))


def _lines_of(path: Path) -> Sequence[str]:
    return path.read_text().splitlines() if path.exists() else ()


def _settings(sizes: Sizes, scratch: Path, ports: Sequence[int]) -> dict[str, object]:
    """Return the server's settings: three clouds, a ledger, a small cache."""
    models: list[dict[str, object]] = [
        {
            "name": name,
            "kind": "openai",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "api_key": "sk-soak",
            "timeouts": TIMEOUTS,
            "retries": {"base_delay": 0.05, "max_delay": 1.0},
            "breaker": {"rest": REST, "max_rest": MOST_REST, "failures": FAILURES},
            "price": {"input": PRICES[name][0], "output": PRICES[name][1]},
        }
        for name, port in zip(PRICES, ports, strict=True)
    ]
    cache: dict[str, object] = {"enabled": sizes.cache != "off", "max_bytes": 2 << 20}
    if "://" in sizes.cache:
        cache["url"] = sizes.cache
    settings: dict[str, object] = {
        "models": models,
        "cache": cache,
        "ledger": {"path": str(scratch / "ledger.db")},
        "policies": {"soaked": {"preset": "quality", "min_local_success": 1.0, "fallback_to_local": False}},
        "policy": "soaked",
    }
    if sizes.local:
        from smallfirst.router.settings import default_local_model, user_cache_dir

        local = default_local_model().model_dump(mode="json", include={"kind", "source", "sha256"})
        models.append(local | {"name": LOCAL, "max_output_tokens": 4, "context_tokens": 512})
        settings["models_dir"] = str(user_cache_dir() / "models")
    return settings


def checks(made: Soaked) -> Iterator[tuple[str, float, float, bool]]:
    """Yield what must hold: in words, what it is, what it may be at most, whether it holds."""
    books = made.books
    zero = {
        "requests whose entry is lost from the ledger": books.defects["lost"] + made.lost,
        "entries that the ledger has twice": books.defects["double"],
        "entries that say something else than the client saw": books.defects["outcome"],
        "requests that hung": books.defects["hung"],
        "clients' errors that nobody injected": books.defects["unexplained"],
        "clients' errors less those injected and not recovered": abs(
            books.errors - books.hit + books.recovered
        ),
        "answers to another's request": books.defects["foreign"],
        "attempts booked otherwise than the upstream says": books.defects["money"],
        "requests in the metrics that are not in the ledger, or the reverse": abs(
            made.counted - books.recorded
        ),
        "bugs in the log": len(made.unexpected),
    }
    for words, count in zero.items():
        yield words, count, 0, count == 0
    difference = abs(books.booked_usd - books.used_usd)
    yield "US dollars between the ledger and what the upstream counted", difference, 1e-6, difference <= 1e-6
    shed = books.shed / max(books.requests, 1)
    yield "share of requests that were shed", shed, 0.01, shed <= 0.01
    held = made.sums.held / max(made.sums.sent, 1)
    yield "share of requests that clients held back, for too many were under way", held, 0.01, held <= 0.01
    before, after = made.before, made.after
    for words, now, least, more in (
        ("open files at rest", after.files, before.files, _MORE_FILES),
        ("of these, connections", after.connections, before.connections, _MORE_FILES),
        ("tasks at rest", after.tasks, before.tasks, 0),
    ):
        yield words, now, least + more, now <= least + more
    first, last = made.thirds
    yield (
        f"memory of the last third, by the first's, after {FILLED:,} requests",
        last / max(first, 1),
        GROWTH,
        last <= GROWTH * first,
    )
