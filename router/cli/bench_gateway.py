"""`smallfirst bench gateway`: what the gateway costs a request, beside other gateways and bare pass-throughs."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec

from .options import json_option, write_option

NAMES = ("smallfirst", "floor", "floor-httpx", "floor-pyreqwest", "floor-granian", "litellm", "portkey")
DEPTHS = ("quick", "short", "full")


@click.command()
@click.option(
    "--only",
    "names",
    multiple=True,
    type=click.Choice(NAMES),
    help="Measure this one. Repeatable.  [default: all but floor-httpx, floor-pyreqwest and floor-granian]",
)
@click.option("--short", "depth", flag_value="short", help="One short round: a first idea.")
@click.option(
    "--quick", "depth", flag_value="quick", help="Only see that it works; the figures mean nothing."
)
@click.option(
    "--full", "depth", flag_value="full", default=True, help="Three rounds, 10 to 20 minutes (default)."
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/bench"),
    show_default=True,
    help="Where other gateways are installed, once.",
)
@write_option
@json_option
def gateway(names: tuple[str, ...], depth: str, work: Path, document: Path | None, as_json: bool) -> None:
    """Measure the gateway on loopback beside LiteLLM, Portkey and bare pass-throughs, one worker each.

    Every server has one core to itself, clients and the pretended model another. The other gateways are installed
    first, into environments of their own; one that cannot be is left out.
    """
    from smallfirst.evals.bench.machine import BenchError
    from smallfirst.evals.bench.page import markdown, write

    # A terminated benchmark ends what it started, too.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        result = measure_gateways(names, depth, work)
        if document is not None:
            write(document, result)
    except BenchError as exc:
        raise click.ClickException(str(exc)) from exc
    finally:
        signal.signal(signal.SIGTERM, before)
    click.echo(msgspec.json.encode(result).decode() if as_json else markdown(result))
    failures = result["failures"].get("smallfirst")
    if failures:
        raise click.ClickException(f"smallfirst itself failed: {failures}")


def measure_gateways(names: tuple[str, ...], depth: str, work: Path) -> dict[str, Any]:
    """Return figures; see `smallfirst.evals.bench.figures`.

    Args:
        names: Of the servers; none: the usual ones.
        depth: One of `DEPTHS`.
        work: Where other gateways are installed.

    Raises:
        BenchError: Clients or upstream do not work here.
    """
    from smallfirst.evals.bench.figures import figures
    from smallfirst.evals.bench.measure import QUICK, SHORT, Sizes, measure
    from smallfirst.evals.bench.page import machine
    from smallfirst.evals.bench.targets import targets

    chosen = [one for one in targets() if (one.name in names if names else one.usual)]
    sizes = {"quick": QUICK, "short": SHORT, "full": Sizes()}[depth]
    with tempfile.TemporaryDirectory(prefix="smallfirst-bench-") as scratch:
        measured = measure(chosen, sizes, work, Path(scratch), _tell)
    return {"machine": machine(), "depth": depth} | figures(measured, chosen, sizes)


def _tell(line: str) -> None:
    click.echo(line, err=True)
