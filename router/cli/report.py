"""`smallfirst report`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from ..errors import LedgerError
from ..settings import Settings


@click.command()
@click.option("--since", help="30m, 24h, 7d, 2w, or a date.  [default: the beginning]")
@click.option("--until", help="As --since.  [default: now]")
@click.option(
    "--by",
    default="model,route",
    show_default=True,
    help="day, model, route, agent, tenant, policy, task, tag",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "html"]),
    default="table",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option(
    "--ledger", type=click.Path(path_type=Path, dir_okay=False), help="Ledger file.  [default: ledger.path]"
)
@click.pass_obj
def report(
    load: Callable[[], Settings],
    since: str | None,
    until: str | None,
    by: str,
    form: str,
    as_json: bool,
    output: Path | None,
    ledger: Path | None,
) -> None:
    """Report requests, tokens, cost and savings from the ledger."""
    from ..ledger.render import html, table, to_csv
    from ..ledger.report import Report, make_report
    from ..prices import PriceList

    made = make_report(
        ledger or load().ledger.path,
        since=_time("--since", since),
        until=_time("--until", until),
        by=_groups(by),
        prices=PriceList().source,
    )
    render: dict[str, Callable[[Report], str]] = {
        "table": table,
        "csv": to_csv,
        "html": html,
        "json": lambda found: json.dumps(found.to_json()) + "\n",
    }
    text = render["json" if as_json else form](made)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise LedgerError(f"{output} cannot be written: {exc.strerror}") from exc
    click.echo(f"written: {output}", err=True)


def _groups(by: str) -> tuple[str, ...]:
    from ..ledger.report import GROUPS

    names = tuple(name.strip() for name in by.split(",") if name.strip())
    for name in names:
        if name not in GROUPS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(GROUPS)}", param_hint="--by")
    return names


def _time(option: str, text: str | None) -> datetime | None:
    from ..ledger.report import parse_time

    if text is None:
        return None
    try:
        return parse_time(text, datetime.now(UTC))
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is neither like 24h or 7d nor a date", param_hint=option) from exc
