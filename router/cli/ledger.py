"""`smallfirst ledger`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SettingsError
from ..settings import Settings
from .times import read_time

if TYPE_CHECKING:
    from ..ledger import Store


@click.group()
def ledger() -> None:
    """Copy entries out of the ledger, delete old ones, bring it up to date."""


def _place(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--ledger", "place", help="File or postgresql:// URL.  [default: ledger.url, else ledger.path]"
    )(command)


@ledger.command()
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: .parquet, .csv or .jsonl.",
)
@click.option("--since", help="30m, 24h, 7d, 2w, or a date.  [default: the beginning]")
@click.option("--until", help="As --since.  [default: now]")
@click.option("--texts", is_flag=True, help="Add prompts and answers, where ledger.texts kept them.")
@_place
@click.pass_obj
def export(
    load: Callable[[], Settings],
    output: Path,
    since: str | None,
    until: str | None,
    texts: bool,
    place: str | None,
) -> None:
    """Write entries to a file, one row each."""
    from ..ledger.export import export as write
    from ..ledger.export import format_of

    try:
        form = format_of(output)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--output") from exc
    low, high = read_time("--since", since), read_time("--until", until)
    count = write(_store(load, place), output, form, since=low, until=high, texts=texts)
    click.echo(f"{count:,} entries written: {output}", err=True)


@ledger.command()
@click.option("--keep", type=click.FloatRange(min=0, min_open=True), help="Days.  [default: ledger.keep]")
@_place
@click.pass_obj
def prune(load: Callable[[], Settings], keep: float | None, place: str | None) -> None:
    """Delete what is older than so many days, with its outcomes and texts. The file's space is used again."""
    from ..ledger.retention import DAY
    from ..ledger.retention import prune as delete

    days = keep if keep is not None else load().ledger.keep
    if days is None:
        raise SettingsError("nothing says how long entries are kept: set ledger.keep, or give --keep DAYS")
    store = _store(load, place)
    with store.read():
        pass  # a ledger that is not there is not made either
    try:
        count = delete(store, time.time() - days * DAY)
    finally:
        store.close()
    click.echo(f"{count:,} entries deleted")


@ledger.command()
@_place
@click.pass_obj
def migrate(load: Callable[[], Settings], place: str | None) -> None:
    """Make the ledger's tables, or bring them up to date; `serve` does it by itself."""
    from ..ledger.retention import pack_all

    store = _store(load, place)
    try:
        store.write(lambda connection: None)
        pack_all(store)
    finally:
        store.close()
    click.echo(f"up to date: {store.where}")


def _store(load: Callable[[], Settings], place: str | None) -> Store:
    from ..ledger import open_store, store_at

    return store_at(place) if place else open_store(load().ledger)
