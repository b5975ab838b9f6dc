"""`smallfirst eval suite`: tasks with checkable answers, live against any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smallfirst.router.settings import Price

from .options import json_option

if TYPE_CHECKING:
    from smallfirst.evals.live import Ask
    from smallfirst.evals.suites import Example

FILE = click.Path(path_type=Path, dir_okay=False)


def _list_suites(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from smallfirst.evals.suites import TASKS

    for task in TASKS.values():
        click.echo(f"{task.name:12} {task.summary}")
    ctx.exit()


@click.command()
@click.option(
    "--suite",
    "suites",
    required=True,
    multiple=True,
    metavar="NAME|FILE",
    help="A task by name, `all`, or a Parquet or JSON lines file with id, subset, request, checker, expected "
    "and labels. Repeatable.",
)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_suites, help="List the tasks."
)
@click.option("--base-url", required=True, help="Of the server, with /v1.")
@click.option("--model", required=True, help="The name to ask for, e.g. auto.")
@click.option(
    "--out", required=True, type=FILE, help="JSON lines to append to; rows that it has are not asked again."
)
@click.option("--limit", type=click.IntRange(1), help="At most so many rows of each suite, over all subsets.")
@click.option("--seed", default=0, show_default=True, help="Draws other rows.")
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 256), help="At a time.")
@click.option(
    "--max-tokens", type=click.IntRange(1), help="Of an answer.  [default: what the task's answers need]"
)
@click.option("--api-key-env", metavar="VAR", help="The variable that holds the server's key.")
@click.option(
    "--price-input", type=click.FloatRange(0), help="USD per million tokens, where no cost is told."
)
@click.option("--price-output", type=click.FloatRange(0), help="Likewise, of generated tokens.")
@click.option("--use-cache", is_flag=True, help="Let a smallfirst gateway answer from its cache.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds for an answer.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the evaluation data.  [default: SMALLFIRST_DATA, else ../shared/data]",
)
@click.option("--html", type=FILE, help="Write the report as a page as well.")
@json_option
def suite(suites: tuple[str, ...], out: Path, as_json: bool, html: Path | None, **options: Any) -> None:
    """Ask a live server rows with checkable answers: accuracy, cost, latency and routes.

    Temperature is 0. Each answer's outcome is appended to --out (never its text), and a run that was interrupted goes
    on where it was; ask for other rows, limits or models with the same file as you like, but name another file for
    another server or other settings behind the same model name.
    """
    from smallfirst.evals.live import Ask
    from smallfirst.evals.suite_report import suite_report
    from smallfirst.evals.suites import drawn, tasks_named

    from ..training.files import data_folder

    tasks = tasks_named(suites)
    data = options["data"] or data_folder()
    examples = [
        example for task in tasks for example in drawn(task.examples(data), options["limit"], options["seed"])
    ]
    ask = Ask(
        model=options["model"],
        max_tokens={task.name: options["max_tokens"] or task.max_tokens for task in tasks},
        use_cache=options["use_cache"],
        price=_price(options["price_input"], options["price_output"]),
        concurrency=options["concurrency"],
    )
    lines, shown = asyncio.run(_run(ask, examples, out, options))
    report = suite_report(
        lines,
        model=ask.model,
        server=shown,
        suites=[task.name for task in tasks],
        limit=options["limit"],
        seed=options["seed"],
        price_usd_per_million=ask.price and {"input": ask.price.input, "output": ask.price.output},
    )
    if html is not None:
        write_page(html, report["page"])
    click.echo(json.dumps(report) if as_json else "\n".join(_table(report)))


def _price(given: float | None, made: float | None) -> Price | None:
    if given is None and made is None:
        return None
    if given is None or made is None:
        raise click.UsageError("Give both --price-input and --price-output.")
    return Price(input=given, output=made)


async def _run(
    ask: Ask, examples: list[Example], out: Path, options: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """Return the lines of all rows, and the server's address as it may be shown."""
    from smallfirst.evals.live import ERROR, RIGHT, Server, run_suite

    variable = options["api_key_env"]
    if variable and not os.environ.get(variable):
        raise click.UsageError(f"--api-key-env: the variable {variable} is not set.")
    counts: Counter[str] = Counter()

    def said(_: object) -> str:
        return f"{counts[RIGHT]} right, {counts[ERROR]} errors"

    key = os.environ.get(variable) if variable else None
    shown: dict[str, Any] = {"length": len(examples), "label": ask.model, "file": sys.stderr}
    async with Server(options["base_url"], api_key=key, timeout=options["timeout"]) as server:
        with click.progressbar(**shown, item_show_func=said) as bar:

            def progress(line: Mapping[str, Any]) -> None:
                counts[line["outcome"]] += 1
                bar.update(1, line)

            lines = await run_suite(server, ask, examples, out, progress=progress)
        return lines, server.shown


def write_page(path: Path, page: Mapping[str, Any]) -> None:
    """Write the page of a report to a file, and say so on standard error.

    Raises:
        DataError: The file cannot be written.
    """
    from smallfirst.evals.page import render
    from smallfirst.router.training.files import DataError

    try:
        path.write_text(render(page), encoding="utf-8")
    except OSError as exc:
        raise DataError(f"{path} cannot be written: {exc.strerror}") from exc
    click.echo(f"written: {path}", err=True)


def _table(report: Mapping[str, Any]) -> list[str]:
    from smallfirst.router.ledger.render import ms, usd

    lines = [
        f"{'':34} {'n':>5} {'accuracy':>8} {'95 %':>15} {'unscored':>8} {'errors':>6} {'$ per 1,000':>11} "
        f"{'p50 ms':>8} {'p95 ms':>8}"
    ]
    for name, of in {**report["by_subset"], **report["by_task"], "all": report}.items():
        accuracy = "-" if of["accuracy"] is None else f"{of['accuracy']:.3f}"
        span = "{:.3f} - {:.3f}".format(*of["accuracy_95"]) if of["accuracy_95"] else "-"
        cost = "unknown" if of["usd_per_1000"] is None else usd(of["usd_per_1000"])
        lines.append(
            f"{name:34} {of['n']:5} {accuracy:>8} {span:>15} {of['unscored']:8} {of['errors']:6} {cost:>11} "
            f"{ms(of['latency_p50_ms']):>8} {ms(of['latency_p95_ms']):>8}"
        )
    routes = ", ".join(f"{count} {route}" for route, count in report["routes"].items() if count)
    models = ", ".join(f"{count} {model}" for model, count in report["models"].items())
    cost = "unknown" if report["cost_usd"] is None else usd(report["cost_usd"])
    return [*lines, f"answered by: {models or 'none'}{f' ({routes})' if routes else ''}; cost {cost}"]
