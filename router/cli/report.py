"""`smallfirst report`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import LedgerError
from ..settings import Settings
from .times import read_time

if TYPE_CHECKING:
    from ..ledger import Store
    from ..ledger.report import Report

FORMATS = ("table", "json", "csv", "parquet", "html")

NOTHING_YET = (
    "nothing is recorded yet. Start the gateway with `smallfirst serve`, send it a request, for example with "
    "`smallfirst chat` or any OpenAI client, and ask again. If it runs with another settings file, name that one: "
    "`smallfirst --config FILE report`"
)


@click.command()
@click.option("--since", help="30m, 24h, 7d, 2w, or a date.  [default: the beginning]")
@click.option("--until", help="As --since.  [default: now]")
@click.option(
    "--by",
    default="model,route",
    show_default=True,
    help="day, model, route, agent, tenant, policy, task, tag, key; several with commas",
)
@click.option("--tenant", help="This tenant's requests alone.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option(
    "--evals",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Report of an eval (JSON), to be shown on the HTML page; may be given several times.",
)
@click.option(
    "--ledger", "place", help="Ledger's file, or postgresql:// URL.  [default: ledger.url, else ledger.path]"
)
@click.pass_obj
def report(
    load: Callable[[], Settings], /, form: str, as_json: bool, output: Path | None, **options: Any
) -> None:
    """Report requests, tokens, cost and savings from the ledger."""
    chosen = "json" if as_json else form
    if chosen == "parquet" and output is None:
        raise click.BadParameter("Parquet is written to a file: add --output FILE", param_hint="--format")
    made = _report(load, options)
    if chosen == "parquet":
        from ..ledger.render import to_parquet

        assert output is not None
        to_parquet(made, output)
    else:
        text = _text(made, chosen, options["evals"])
        if output is None:
            click.echo(text, nl=False)
            return
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise LedgerError(f"{output} cannot be written: {exc.strerror}") from exc
    click.echo(f"written: {output}", err=True)


def _report(load: Callable[[], Settings], options: dict[str, Any]) -> Report:
    from ..ledger.report import make_report
    from ..ledger.store import NothingRecorded
    from ..money.prices import PriceList

    try:
        return make_report(
            open_ledger(load, options["place"]),
            since=read_time("--since", options["since"]),
            until=read_time("--until", options["until"]),
            by=_groups(options["by"]),
            prices=PriceList().source,
            tenant=options["tenant"],
        )
    except NothingRecorded as exc:
        raise LedgerError(NOTHING_YET) from exc


def open_ledger(load: Callable[[], Settings], place: str | None) -> Store:
    """Return the ledger that an option names, else the one of the settings.

    Raises:
        SettingsError: The settings or the URL cannot be used.
    """
    from ..ledger import open_store, store_at

    return store_at(place) if place else open_store(load().ledger)


def _text(made: Report, form: str, evals: tuple[Path, ...]) -> str:
    from ..ledger.page import html, read_evals
    from ..ledger.render import table, to_csv

    if form == "html":
        return html(made, evals=[row for path in evals for row in read_evals(path)])
    if form == "json":
        return json.dumps(made.to_json()) + "\n"
    return to_csv(made) if form == "csv" else table(made)


def _groups(by: str) -> tuple[str, ...]:
    from ..ledger.report import GROUPS

    names = tuple(name.strip() for name in by.split(",") if name.strip())
    for name in names:
        if name not in GROUPS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(GROUPS)}", param_hint="--by")
    return names
