"""`smallfirst eval pii`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Absolute, as in `evals`, which this module hands its values to: a type checker takes the two spellings for two types.
from smallfirst.policies import Policy
from smallfirst.policies.policy import STRUCTURED
from smallfirst.router.settings import Settings

from .evaluate_routing import FILE, share
from .options import json_option


@click.command()
@click.option(
    "--data", required=True, type=FILE, help="Rows with marked spans; a bare name is of SMALLFIRST_DATA."
)
@click.option("--ordinary", multiple=True, type=FILE, help="Rows of ordinary requests or texts. Repeatable.")
@click.option("--names", is_flag=True, help="Names and addresses too, by Presidio and `privacy.spacy_model`.")
@json_option
@click.pass_obj
def pii(
    load: Callable[[], Settings], /, data: Path, ordinary: tuple[Path, ...], names: bool, as_json: bool
) -> None:
    """Measure how much personal data is found, by type, and how often something is taken for it."""
    from smallfirst.evals.pii import ordinary_report, ordinary_texts, pii_report, pii_rows
    from smallfirst.router.privacy.names import presidio
    from smallfirst.router.privacy.screening import Screener

    from ..training.files import data_file

    kinds = (*STRUCTURED, "name", "address") if names else STRUCTURED
    settings = load().privacy
    policy = Policy(name="eval", pii="block", pii_types=kinds)
    finder = presidio(settings.spacy_model, settings.language) if names else None
    find = Screener([policy], finder).finder(policy)
    report: dict[str, Any] = {
        "data": data.name,
        "names_by": settings.spacy_model if names else None,
        **pii_report(pii_rows(data_file(data)), find, kinds=kinds),
        "ordinary": {file.name: ordinary_report(ordinary_texts(data_file(file)), find) for file in ordinary},
    }
    report["page"] = {"title": f"Personal data: {data.name}", "tables": _tables(report)}
    click.echo(json.dumps(report) if as_json else "\n".join(_lines(report)))


def _tables(report: dict[str, Any]) -> list[dict[str, Any]]:
    by_type = [
        [
            kind,
            of["gold"],
            share(of["recall"]),
            share(of["recall_exact"]),
            of["found"],
            share(of["precision"]),
        ]
        for kind, of in report["by_type"].items()
    ]
    ordinary = [
        [name, of["n"], share(of["flagged"]), ", ".join(f"{k} {n}" for k, n in of["by_type"].items())]
        for name, of in report["ordinary"].items()
    ]
    return [
        {
            "title": "By type",
            "columns": ["type", "marked", "recall", "exact", "found", "precision"],
            "rows": by_type,
        },
        {
            "title": "Marked, and not looked for",
            "columns": ["type", "marked"],
            "rows": [[label, count] for label, count in report["not_looked_for"].items()],
        },
        {
            "title": "Ordinary texts in which something was found",
            "columns": ["file", "texts", "share", "texts by type"],
            "rows": ordinary,
        },
    ]


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['n']} texts, {report['us_per_kb']:.0f} µs of processor time per 1,000 characters"]
    for table in _tables(report):
        if table["rows"]:
            rows = [table["columns"], *([str(cell) for cell in row] for row in table["rows"])]
            widths = [max(len(row[at]) for row in rows) for at in range(len(table["columns"]))]
            lines += ["", table["title"]]
            lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return lines
