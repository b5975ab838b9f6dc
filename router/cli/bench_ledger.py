"""`smallfirst bench ledger`."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from pydantic import SecretStr

if TYPE_CHECKING:
    from ..ledger import Entry, Ledger
    from ..settings import Settings

# Entries are spread over so many days.
_DAYS = 30
_TIMED = 10_000


@click.command()
@click.option(
    "--entries",
    default=100_000,
    show_default=True,
    type=click.IntRange(min=1000),
    help="How many the report is made of.",
)
@click.option("--url", help="A PostgreSQL database that holds no ledger yet.  [default: a temporary file]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def ledger(load: Callable[[], Settings], entries: int, url: str | None, as_json: bool) -> None:
    """Time what an entry costs a request, and how long a report over many takes."""
    with tempfile.TemporaryDirectory(prefix="smallfirst-bench-") as folder:
        result = measure(Path(folder) / "ledger.db", url, entries)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    click.echo(
        f"an entry costs a request {result['entry_ms']:.4f} ms at the median to put together, "
        f"{result['record_ms']:.4f} ms to record (99th percentile {result['record_ms_p99']:.4f} ms)\n"
        f"{entries:,} entries were written at {result['written_per_second']:,.0f} a second; "
        f"{result['bytes_per_entry']:,.0f} bytes each\n"
        f"a report over them took {result['report_s']:.2f} s by model and route, {result['by_day_s']:.2f} s by day "
        f"and agent; again, with what was read kept: {result['refreshed_s']:.2f} s"
    )


def measure(path: Path, url: str | None, count: int) -> dict[str, Any]:
    """Return seconds, milliseconds and rates.

    Args:
        path: Of a file that is not there yet.
        url: A database in its place.
        count: Entries of the report.
    """
    from ..ledger import Ledger, store_at
    from ..ledger.live import LiveReports
    from ..ledger.report import make_report
    from ..settings import LedgerSettings

    own = LedgerSettings(path=path, url=SecretStr(url) if url else None, max_pending=10_000_000)
    made = Ledger(own)
    now = time.time()
    written_in = _fill(made, count, now)
    made.start()
    record = _timed_records(made, now)
    made.close()
    store = store_at(url or path)

    def report(*by: str) -> float:
        begun = time.perf_counter()
        found = make_report(store, since=None, until=None, by=by, prices="")
        took = time.perf_counter() - begun
        assert found.total.requests >= count
        return took

    live = LiveReports(store)
    first, by_day = report("model", "route"), report("day", "agent")
    live.make(since=None, until=None, by=("model", "route"), prices="")
    begun = time.perf_counter()
    live.make(since=None, until=None, by=("model", "route"), prices="")
    return {
        "entries": count,
        "entry_ms": _entry_ms(),
        "record_ms": statistics.median(record),
        "record_ms_p99": statistics.quantiles(record, n=100)[98],
        "written_per_second": count / written_in,
        "bytes_per_entry": path.stat().st_size / count if url is None else 0,
        "report_s": first,
        "by_day_s": by_day,
        "refreshed_s": time.perf_counter() - begun,
    }


def _fill(made: Ledger, count: int, now: float) -> float:
    """Write entries; returns the seconds that writing took."""
    seconds = 0.0
    entries = sample_entries(count, now)
    for begin in range(0, count, 50_000):
        for _ in range(min(50_000, count - begin)):
            made.record(next(entries))
        begun = time.perf_counter()
        made.flush()
        seconds += time.perf_counter() - begun
    if not made.health().healthy:
        raise click.ClickException(f"the ledger cannot be written: {made.health().last_error}")
    return seconds


def _timed_records(made: Ledger, now: float) -> list[float]:
    """Return milliseconds of `record` while the writer runs, at a few thousand entries a second."""
    times = []
    for at, entry in enumerate(list(sample_entries(_TIMED, now, seed=2))):
        begun = time.perf_counter()
        made.record(entry)
        times.append((time.perf_counter() - begun) * 1000)
        if at % 50 == 0:
            time.sleep(0.01)
    return times


def _entry_ms() -> float:
    """Return milliseconds at the median to put the entry of a routed request together."""
    from ..health import ModelHealth
    from ..hints import read_hints
    from ..journey import Journey
    from ..money.charge import NO_FOOTPRINT, Charge
    from ..money.usage import Usage
    from ..routing import Routing
    from ..scoring import Scorer
    from ..settings import CloudModelSettings, Settings, default_local_model
    from ..wire import ChatRequest

    cloud = CloudModelSettings(
        kind="openai", name="gpt-4.1", base_url="http://127.0.0.1:1", provider="openai"
    )
    settings = Settings(models=(default_local_model(), cloud))
    routing = Routing(settings, Scorer.load(), ModelHealth())
    request = ChatRequest.parse({"model": "auto", "messages": [{"role": "user", "content": "Say yes."}]})
    hints, target = read_hints(request), routing.target("auto")
    plan = routing.plan(request, hints, target)
    times = []
    for _ in range(2000):
        journey = Journey(request, hints, target)
        journey.plan, journey.usage = plan, Usage(input_tokens=100, output_tokens=20)
        journey.answered_by = plan.decision.attempts[0]
        charge = Charge(journey.usage, 1e-4, NO_FOOTPRINT)
        journey.note(journey.answered_by, "ok", begun=journey.begun, charge=charge)
        begun = time.perf_counter()
        journey.entry(status="ok", overhead_ms=0.3, baseline=settings.baseline_model)
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times)


def sample_entries(count: int, now: float, *, seed: int = 1) -> Iterator[Entry]:
    """Yield made-up entries of the last days, oldest first: 5 tenants, 4 agents, 6 models, 3 tags."""
    from ..ledger import Entry

    rng = random.Random(seed)
    for at in range(count):
        route = rng.choices(("local", "cloud", "cache", "none"), (50, 35, 12, 3))[0]
        model = (
            None
            if route == "none"
            else rng.choice(("small", "tiny") if route == "local" else ("a", "b", "c", "d"))
        )
        attempts = (
            []
            if route == "cache"
            else [_attempt(rng, model or "a", "local" if route == "local" else "cloud")]
        )
        cost = sum(attempt.cost_usd or 0 for attempt in attempts)
        yield Entry(
            request_id=f"req_{rng.getrandbits(128):032x}",
            started_at=now - _DAYS * 86400 * (1 - at / count),
            duration_ms=rng.lognormvariate(6, 1),
            ttft_ms=rng.lognormvariate(5, 1) if rng.random() < 0.5 else None,
            overhead_ms=rng.random(),
            tenant=f"tenant-{rng.randrange(5)}",
            agent=f"agent-{rng.randrange(4)}",
            step="plan",
            session=f"session-{rng.randrange(count // 5 + 1)}",
            tags=(f"tag-{rng.randrange(3)}",) if rng.random() < 0.5 else (),
            policy="balanced",
            route=route,  # type: ignore[arg-type]
            model=model,
            reason_code="scored",
            reason="P(right) 0.912 on the small model is within the risk budget of the policy",
            task=rng.choice(("chat", "function_call", "classification")),
            difficulty=rng.random(),
            scores={"small": rng.random(), "big": rng.random()},
            known=True,
            input_tokens=rng.randint(100, 3000),
            output_tokens=rng.randint(1, 500),
            cost_usd=None if rng.random() < 0.01 else cost,
            baseline_model="d",
            baseline_cost_usd=rng.random() / 50,
            cache=rng.choice(("exact", "semantic")) if route == "cache" else "miss",
            attempts=tuple(attempts),
            status="error" if route == "none" else "ok",
            error_code="upstream_error" if route == "none" else None,
            energy_wh=rng.random(),
        )


def _attempt(rng: random.Random, model: str, tier: str) -> Any:
    from ..ledger import AttemptRecord

    cost = 0.0 if tier == "local" else rng.random() / 50
    return AttemptRecord(model, tier, "ok", 0, 100.0, 1000, 100, cost)  # type: ignore[arg-type]
