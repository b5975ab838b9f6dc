"""`smallfirst bench soak`: the server for a long time under load, with upstreams that fail at random."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec

from .options import json_option, write_option


@click.command()
@click.option("--minutes", default=30.0, show_default=True, type=click.FloatRange(min=0.05), help="Of load.")
@click.option(
    "--share",
    default=0.8,
    show_default=True,
    type=click.FloatRange(0.01, 2.0),
    help="Of the capacity that is measured first.",
)
@click.option("--seed", default=1, show_default=True, help="Of what is asked, and of what fails.")
@click.option(
    "--cache", default="memory", show_default=True, metavar="off|memory|URL", help="`redis://…`: that Redis."
)
@click.option("--local", is_flag=True, help="Ask the small local model, too, now and then.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the logs, the ledger and report.json in this folder.",
)
@write_option
@json_option
def soak(document: Path | None, as_json: bool, keep: Path | None, **sizes: Any) -> None:
    """Load a real server for long, over upstreams that fail at random, and compare all books at the end.

    Clients ask plainly, with tools and for streams; some leave midway, some ask wrongly. The upstream resets, hangs,
    breaks off, answers 429 and 500, and is down now and then, by chances that are known. At the end every request must
    have its one entry in the ledger, as its client saw it and at the price that the upstream told; every client's error
    must be one that was injected; nothing may hang, or be left open. Exit code 1 where something does not hold.

    The server has one core to itself, clients and upstream another. Needs Linux.
    """
    from smallfirst.evals.bench.machine import BenchError
    from smallfirst.evals.bench.page import place
    from smallfirst.evals.bench.soak_page import END, START, markdown

    if sizes["cache"] not in ("off", "memory") and "://" not in sizes["cache"]:
        raise click.BadParameter("expected off, memory or a URL", param_hint="--cache")
    # A terminated run ends what it started, too.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found = run_soak(keep, **sizes)
        if document is not None:
            place(document, START, END, lambda: markdown(found))
    except BenchError as exc:
        raise click.ClickException(str(exc)) from exc
    finally:
        signal.signal(signal.SIGTERM, before)
    click.echo(msgspec.json.encode(found).decode() if as_json else markdown(found))
    if not found["held"]:
        raise click.ClickException("not everything holds")


def run_soak(keep: Path | None = None, **sizes: Any) -> dict[str, Any]:
    """Return a report; see `smallfirst.evals.bench.soak_page`.

    Args:
        keep: A folder for what is written on the way; None: it is deleted.
        sizes: Fields of `smallfirst.evals.bench.soak.Sizes`.

    Raises:
        BenchError: A process does not work here, or the folder has the files of another run.
    """
    from smallfirst.evals.bench.machine import BenchError
    from smallfirst.evals.bench.soak import Sizes
    from smallfirst.evals.bench.soak import soak as run
    from smallfirst.evals.bench.soak_page import report

    with contextlib.ExitStack() as stack:
        if keep is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smallfirst-soak-")))
        else:
            scratch = keep.resolve()
            scratch.mkdir(parents=True, exist_ok=True)
            if any(scratch.iterdir()):
                raise BenchError(f"{keep} is not empty")
        found = report(run(Sizes(**sizes), scratch, _tell))
        if keep is not None:
            (scratch / "report.json").write_bytes(msgspec.json.encode(found))
    return found


def _tell(line: str) -> None:
    click.echo(line, err=True)
