"""`smallfirst eval compare` and `eval page`: what is done with the reports of evals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from smallfirst.router.training.files import DataError

from .evaluate_suite import write_page
from .options import json_option

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option(
    "--tolerance",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    help="How much accuracy, APGR or calibration error may be lost beyond noise.",
)
@click.option(
    "--cost-tolerance",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0),
    help="How much dearer a suite's request may be, as a share, where accuracy did not rise.",
)
@json_option
def compare(a: Path, b: Path, tolerance: float, cost_tolerance: float, as_json: bool) -> None:
    """Fail (exit status 1) where report B is worse than report A beyond noise: a gate for CI.

    A and B are what `eval suite --json` or `eval routing --json` printed, both of one kind. Suites are compared row by
    row as far as both have the row, routing by intervals.
    """
    from smallfirst.evals.compare import compare as compared

    found = compared(read_report(a), read_report(b), tolerance=tolerance, cost_tolerance=cost_tolerance)
    if as_json:
        click.echo(json.dumps(found))
    else:
        for of in found["compared"]:
            values = " -> ".join("none" if of[at] is None else f"{of[at]:.4g}" for at in ("a", "b"))
            click.echo(f"{'WORSE' if of['worse'] else 'ok':6} {of['figure']}: {values} ({of['note']})")
    if not found["ok"]:
        click.echo(f"worse: {'; '.join(found['worse'])}", err=True)
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="[NAME=]FILE...")
@click.option("--out", required=True, type=FILE, help="The page's file.")
@click.option("--title", help="Of the page.")
def page(runs: tuple[str, ...], out: Path, title: str | None) -> None:
    """Show reports as one page that needs no network: `eval suite` runs in one picture, or one report of any eval.

    Several suite runs are marks in one picture of accuracy against cost, with the tables by task and the bill. A run
    is shown under NAME, by default its file's.
    """
    from smallfirst.evals.suite_report import KIND, runs_page

    reports: dict[str, dict[str, Any]] = {}
    for run in runs:
        name, path = _named(run)
        if name in reports:
            raise click.UsageError(f"Two runs are named {name}; give them as NAME=FILE.")
        reports[name] = read_report(path)
    if all(report.get("report") == KIND for report in reports.values()):
        write_page(out, runs_page(reports, title=title or "Live suite: " + ", ".join(reports)))
        return
    if len(reports) > 1:
        raise click.UsageError("Only reports of `eval suite` can be shown together.")
    ((name, report),) = reports.items()
    if not isinstance(report.get("page"), dict):
        raise DataError(f"{name}: the report has no 'page'.")
    write_page(out, {**report["page"], **({"title": title} if title else {})})


def _named(run: str) -> tuple[str, Path]:
    """Split NAME=FILE; a file whose own name has a `=` is taken as it is."""
    name, sign, file = run.partition("=")
    if sign and name and not Path(run).exists():
        return name, Path(file)
    return Path(run).stem, Path(run)


def read_report(path: Path) -> dict[str, Any]:
    """Return a report: the JSON object on the last line of a file, or the whole file.

    Raises:
        DataError: There is none.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not a report: {exc}") from exc
    for candidate in (text, text.rpartition("\n")[2]):
        try:
            found = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    raise DataError(f"{path}: expected a JSON object, as evals print it with --json.")
