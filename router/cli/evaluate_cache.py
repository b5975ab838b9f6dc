"""`smallfirst eval cache`: what the semantic cache answers, and how much of that is wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from .evaluate_routing import share
from .evaluate_suite import write_page
from .options import json_option

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--data", required=True, type=FILE, help="Parquet or JSON lines; a bare name is of SMALLFIRST_DATA."
)
@click.option(
    "--max-error",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="`cache.max_cache_error`: share of answers to similar requests that may be wrong.",
)
@click.option("--url", help="Traffic only: a Redis to replay with. Default: in this process.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many rows.")
@click.option("--artefact", type=FILE, help="Another judge of likeness than the one that ships.")
@click.option(
    "--price-model", default="gpt-4.1", show_default=True, help="Traffic only: the model that is saved."
)
@click.option("--html", type=FILE, help="Write a page with the frontier and tables.")
@json_option
def cache(data: Path, as_json: bool, html: Path | None, **options: Any) -> None:
    """Measure the cache on pairs of requests, or on traffic that is replayed; the file's columns say which it is.

    Pairs: request, request_b, equivalent, kind. Traffic: seq, t_ms, kind, task, request, equiv_group,
    servable_from_seq. Cacheability: request, labels (static, time_dependent, user_state, action), expected.
    """
    from smallfirst.evals.cache_ways import kind_of_file

    from ..training.files import data_file

    path = data_file(data)
    kind = kind_of_file(path)
    if kind != "traffic" and options["url"]:
        raise click.UsageError("--url: only traffic is replayed with a Redis.")
    report = {"pairs": _pairs, "traffic": _traffic, "cacheability": _cacheability}[kind](path, options)
    if html is not None:
        write_page(html, report["page"])
    table = {"pairs": _pairs_table, "traffic": _traffic_table, "cacheability": _cacheability_table}[kind]
    click.echo(json.dumps(report) if as_json else "\n".join(table(report)))


def _pairs(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    from smallfirst.evals.cache_pairs import pairs_report
    from smallfirst.evals.cache_ways import load_parts

    parts = load_parts(options["artefact"])
    asked = {"max_error": options["max_error"], "limit": options["limit"], "progress": _told}
    return asyncio.run(pairs_report(path, parts, **asked))


def _traffic(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    from smallfirst.evals.cache_ways import load_parts
    from smallfirst.evals.traffic_report import traffic_report

    parts = load_parts(options["artefact"])
    asked = {name: options[name] for name in ("max_error", "url", "limit", "price_model")}
    return asyncio.run(traffic_report(path, parts, progress=_told, **asked))


def _told(step: str) -> None:
    click.echo(step, err=True)


def _pairs_table(report: dict[str, Any]) -> list[str]:
    from smallfirst.evals.cache_page import way

    lines = [
        f"{report['data']}: {report['n']} pairs, {_described(report)}",
        f"{'':36} {'n':>5} {'same':>5} {'taken':>5} {'wrong':>5} {'exact':>5} {'likely':>6} {'barred':>6} "
        f"{'by text':>7}",
    ]
    for kind, of in report["by_kind"].items():
        alone = report["text_only"]["by_kind"][kind]["accepted"]
        lines.append(
            f"{kind:36} {of['n']:5} {of['equivalent']:5} {of['accepted']:5} {of['wrong']:5} {of['exact']:5} "
            f"{of['semantic']:6} {of['bypassed']:6} {alone:7}"
        )
    lines.append(f"{'':36} {'precision':>9} {'95 %':>15} {'recall':>6} {'95 %':>15} {'wrong':>5}")
    ways = {
        "as set": report,
        "the judge alone": report["text_only"],
        **{way(name): of for name, of in report["baselines"].items()},
    }
    for name, of in ways.items():
        lines.append(
            f"{name:36} {share(of['precision']):>9} {_between(of['precision_95']):>15} {share(of['recall']):>6} "
            f"{_between(of['recall_95']):>15} {of['wrong']:5}"
        )
    return lines


def _traffic_table(report: dict[str, Any]) -> list[str]:
    from smallfirst.evals.cache_page import way

    lines = [
        f"{report['data']}: {report['n']} requests in {report['store']['name']}, {_described(report)}",
        f"{'':32} {'exact':>5} {'likely':>6} {'wrong':>5} {'share':>6} {'under':>6} {'servable':>8} {'served':>6} "
        f"{'barred':>6} {'saved $':>8} {'right $':>8}",
    ]
    for name, of in {"as set": report, **{way(n): of for n, of in report["baselines"].items()}}.items():
        lines.append(
            f"{name:32} {of['exact_hits']:5} {of['semantic_hits']:6} {of['wrong_hits']:5} "
            f"{share(of['wrong_share']):>6} {share(of['wrong_share_upper_95']):>6} {of['servable']:8} "
            f"{of['servable_hit']:6} {of['bypassed']:6} {of['saved_usd']:8.4f} {of['saved_right_usd']:8.4f}"
        )
    store = report["store"]
    if store["errors"] or store["skipped"]:
        lines.append(f"the store failed {store['errors']} times and was skipped {store['skipped']} times")
    priced = report["priced_as"]
    lines.append(
        f"all {report['n']} answers of {priced['model']} cost ${report['total_usd']:.4f} ({priced['prices']})"
    )
    for name, of in report["lookup_ms"].items():
        if of is not None:
            times = "  ".join(f"{at} {value:.2f}" for at, value in of.items())
            lines.append(f"look-up, {name.replace('_', ' ')}: {times} ms")
    return lines


def _described(report: dict[str, Any]) -> str:
    if report["threshold"] is None:
        return (
            f"equal requests only: a share of {report['max_error']:g} wrong hits cannot be shown to be kept"
        )
    return f"at most {report['max_error']:g} of hits wrong: P(same answer) >= {report['threshold']:.3f}"


def _between(span: list[float] | None) -> str:
    return "-" if span is None else f"{span[0]:.3f} - {span[1]:.3f}"


def _cacheability(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    from smallfirst.evals.cacheability import cacheability_report

    return cacheability_report(path, limit=options["limit"])


def _cacheability_table(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['n']} texts, the likeliest class is right of {share(report['accuracy'])}"]
    served = {"static, kept": report["kept"], "others, refused": report["refused"]}
    served |= {f"  {label}": of for label, of in report["refused"]["by_class"].items()}
    for name, of in served.items():
        lines.append(
            f"{name:20} {of['right']:5} of {of['n']:5} {share(of['share']):>6} {_between(of['share_95']):>15}"
        )
    return lines
