"""`smallfirst top`: what the gateway does now, in the terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from ..errors import LedgerError, SmallfirstError
from ..settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..dashboard.figures import Figures, SpanFigures

_KEY = "SMALLFIRST_KEY"
_TIMEOUT = 10.0


class NotRunning(SmallfirstError):
    """No gateway answers, or it does not let us look."""


@click.command()
@click.option(
    "--url", help="A running gateway, e.g. http://127.0.0.1:4100.  [default: read the ledger itself]"
)
@click.option("--key", envvar=_KEY, help=f"The gateway's key, where it needs one.  [env: {_KEY}]")
@click.option("--tenant", help="This tenant's requests alone.")
@click.option(
    "--ledger", "place", help="Ledger's file, or postgresql:// URL.  [default: ledger.url, else ledger.path]"
)
@click.option(
    "--every", default=2.0, show_default=True, type=click.FloatRange(min=0.2), help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Print one frame, and end.")
@click.pass_obj
def top(
    load: Callable[[], Settings],
    url: str | None,
    key: str | None,
    tenant: str | None,
    place: str | None,
    every: float,
    once: bool,
) -> None:
    """Watch requests, routes, cost, savings and escalations. Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    if url and place:
        raise click.UsageError("--url and --ledger are two places to look at: name one")
    look = _over_http(url, key, tenant) if url else _in_ledger(load, place, tenant)
    where = url or "the ledger"
    console = Console(width=None if os.isatty(1) else 100)
    first = frame(look(), where)
    if once:
        console.print(first)
        return
    try:
        with Live(first, console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(_next(look, where), refresh=True)
    except KeyboardInterrupt:
        return


def _next(look: Callable[[], Figures], where: str) -> RenderableType:
    """Return the next frame; a gateway that is being restarted is waited for."""
    from rich.text import Text

    try:
        return frame(look(), where)
    except SmallfirstError as exc:
        return Text(f"{exc}\n\nTrying again. Ctrl-C ends.", style="yellow")


def _in_ledger(load: Callable[[], Settings], place: str | None, tenant: str | None) -> Callable[[], Figures]:
    from ..dashboard.figures import figures_of
    from ..ledger.live import LiveReports
    from ..ledger.store import NothingRecorded
    from .report import NOTHING_YET, open_ledger

    store = open_ledger(load, place)
    try:
        with store.read():
            pass
    except NothingRecorded as exc:
        raise LedgerError(NOTHING_YET) from exc
    reports = LiveReports(store)
    return lambda: figures_of(reports, datetime.now(UTC), tenant)


def _over_http(url: str, key: str | None, tenant: str | None) -> Callable[[], Figures]:
    import httpx
    import msgspec

    from ..dashboard.figures import Figures

    address = f"{url.rstrip('/').removesuffix('/v1')}/dashboard/figures"
    headers = {"authorization": f"Bearer {key}"} if key else {}

    def look() -> Figures:
        try:
            reply = httpx.get(
                address, headers=headers, params={"tenant": tenant} if tenant else {}, timeout=_TIMEOUT
            )
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise NotRunning(
                f"no gateway answers at {url} ({type(exc).__name__}). Start one with `smallfirst serve`, or leave "
                "--url out to read the ledger itself"
            ) from exc
        if reply.status_code in (401, 403):
            raise NotRunning(f"the gateway at {url} needs another key: give it with --key, or in {_KEY}")
        try:
            reply.raise_for_status()
            return msgspec.json.decode(reply.content, type=Figures)
        except (httpx.HTTPStatusError, msgspec.DecodeError) as exc:
            raise NotRunning(f"what answers at {url} shows no figures (status {reply.status_code})") from exc

    return look


def frame(figures: Figures, where: str) -> RenderableType:
    """Return one frame."""
    from rich.console import Group
    from rich.text import Text

    at = datetime.fromtimestamp(figures.at, UTC)
    whose = f"tenant {figures.tenant}" if figures.tenant else "all tenants"
    head = Text.assemble(
        ("smallfirst top", "bold"), f"   {at:%Y-%m-%d %H:%M:%S} UTC   {where}   {whose}", no_wrap=True
    )
    rate = Text.assemble(
        (f"{figures.minute.requests / 60:.2f}", "bold"),
        " requests/s (last minute)   ",
        (f"{figures.hour.requests:,}", "bold"),
        " in the last hour   ",
        (f"{figures.today.requests:,}", "bold"),
        " today (UTC)",
    )
    return Group(head, rate, "", _spans(figures), "", _routes(figures), "", _escalations(figures))


def _spans(figures: Figures) -> RenderableType:
    from rich.table import Table

    from ..ledger.render import ms, share

    grid = Table(box=None, pad_edge=False)
    grid.add_column("")
    for name in ("cost", "saved", "local", "cache", "p50 ms", "p95 ms", "errors", "cancelled"):
        grid.add_column(name, justify="right", no_wrap=True)
    for name, span in (("last hour", figures.hour), ("today", figures.today)):
        grid.add_row(
            name,
            _cost(span),
            _saved(span),
            share(span.local_share),
            share(span.cache_share),
            ms(span.p50_ms),
            ms(span.p95_ms),
            f"{span.errors:,}",
            f"{span.cancelled:,}",
        )
    return grid


def _routes(figures: Figures) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    from ..ledger.render import ms, share, usd

    grid = Table(title="routes, last hour", title_justify="left", box=None, pad_edge=False)
    grid.add_column("route")
    grid.add_column("", width=24)
    for name in ("share", "requests", "p50 ms", "p95 ms", "cost"):
        grid.add_column(name, justify="right", no_wrap=True)
    for row in figures.routes:
        unknown = f" +{row.unknown_cost:,} unknown" if row.unknown_cost else ""
        bar = ProgressBar(total=1.0, completed=row.share, width=24)
        grid.add_row(
            row.route, bar, share(row.share), f"{row.requests:,}", ms(row.p50_ms), ms(row.p95_ms),
            usd(row.cost_usd) + unknown,
        )  # fmt: skip
    if not figures.routes:
        grid.add_row("none", "", "", "0", "", "", "")
    return grid


def _escalations(figures: Figures) -> RenderableType:
    from rich.table import Table

    from ..ledger.render import plain

    grid = Table(title="escalations, last hour", title_justify="left", box=None, pad_edge=False)
    grid.add_column("model")
    grid.add_column("why")
    grid.add_column("requests", justify="right")
    for row in figures.escalations[:8]:
        grid.add_row(plain(row.model), plain(row.cause), f"{row.requests:,}")
    if not figures.escalations:
        grid.add_row("none", "", "0")
    return grid


def _cost(span: SpanFigures) -> str:
    from ..ledger.render import ESTIMATED, usd

    if span.unknown_cost and span.unknown_cost >= span.requests:
        return "unknown"
    known = f"{ESTIMATED if span.estimated else ''}{usd(span.cost_usd)}"
    return known + (f" +{span.unknown_cost:,} unknown" if span.unknown_cost else "")


def _saved(span: SpanFigures) -> str:
    from ..ledger.render import share, usd

    if not span.comparable:
        return "unknown" if span.requests else "-"
    part = share(span.saved_usd / span.baseline_usd) if span.baseline_usd > 0 else "-"
    return f"{usd(span.saved_usd)} ({part})"
