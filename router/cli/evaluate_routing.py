"""`smallfirst eval routing`: replay the router on outcome files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .evaluate_suite import write_page
from .options import json_option

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--data", required=True, type=FILE, help="Outcome file: Parquet or JSON lines.")
@click.option("--weak", help="Where the file has `scores`: the weak model's name there.")
@click.option("--strong", help="Likewise the strong model's.")
@click.option(
    "--models", help="A router over many models too: `all`, or names from `scores` (comma-separated)."
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Quality that may be lost against always asking the strong model. Repeatable. Default: 0.01, 0.02, 0.05.",
)
@click.option(
    "--confidence",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Probability that a budget is kept.",
)
@click.option(
    "--splits",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Test each budget on random halves.",
)
@click.option(
    "--price-weak", default=0.0, type=click.FloatRange(0), help="US dollars per million prompt tokens."
)
@click.option(
    "--price-strong", type=click.FloatRange(0), help="Likewise. Used where the file has no `costs`."
)
@click.option("--artefact", type=FILE, help="Another classifier than the one that ships.")
@click.option(
    "--bootstrap", "samples", default=500, show_default=True, type=click.IntRange(1), help="Samples."
)
@click.option("--seed", default=0, show_default=True, help="Of all that is drawn.")
@click.option("--html", type=FILE, help="Write a page with the frontier, reliability and tables.")
@json_option
def routing(data: Path, as_json: bool, html: Path | None, **options: Any) -> None:
    """Replay the router on prompts whose outcomes with a weak and a strong model are known.

    Where the file has scores and costs of many models, --models routes over all of these as well.
    """
    from smallfirst.evals.risk import BUDGETS
    from smallfirst.evals.routing import Asked, routing_report

    asked = Asked(
        budgets=tuple(dict.fromkeys(options["budgets"])) or BUDGETS,
        models=tuple(name.strip() for name in (options["models"] or "").split(",") if name.strip()),
        **{name: options[name] for name in ("confidence", "splits", "price_weak", "price_strong")},
    )
    kept = {name: options[name] for name in ("weak", "strong", "artefact", "samples", "seed")}
    report = routing_report(data, asked=asked, **kept)
    if html is not None:
        write_page(html, report["page"])
    click.echo(json.dumps(report) if as_json else "\n".join(_routing_table(report)))


def share(value: float | None) -> str:
    """Return a share in words; `-` where there is none."""
    return "-" if value is None else f"{value:.3f}"


def _described(report: dict[str, Any]) -> str:
    folded, held = report["out_of_fold_rows"], report["held_out_rows"]
    if not folded:
        return (
            f"{report['data']}: none of its {held} rows was trained on; the shipped classifier scored them."
        )
    others = f"; the other {held} were not trained on" if held else ""
    return f"{report['data']}: {folded} rows were trained on and are scored out of fold{others}."


def _routing_table(report: dict[str, Any]) -> list[str]:
    lines = [
        _described(report),
        f"{'':20} {'n':>6} {'APGR':>6} {'95 %':>15} {'CPT50':>6} {'CPT80':>6} {'ECE':>6} {'length':>7} "
        f"{'kNN':>6} {'oracle':>6}",
        *(_line(name, figures) for name, figures in {"all": report, **report["by_subset"]}.items()),
    ]
    if "aiq" in report:
        others = "  ".join(f"{name} {share(of['aiq'])}" for name, of in report["baselines_areas"].items())
        lines.append(f"AIQ {share(report['aiq'])} (QNC {share(report['qnc'])}); {others}")
    unit = "US dollars" if "aiq" in report else "strong calls"
    lines.append(f"risk budgets at confidence {report['risk'][0]['confidence']:g}; cost in {unit} a request")
    lines.append(
        f"{'budget':>8} {'loss':>7} {'95 %':>15} {'bound':>7} {'local':>6} {'cost':>9} {'saved':>6}  max_gap"
    )
    for of in report["risk"]:
        gap = of["reason"] if of["thresholds"] is None else f"{of['thresholds']['max_gap']:g}"
        cost = "-" if of["cost"] is None else f"{of['cost']:.3g}"
        lines.append(
            f"{of['budget']:8g} {share(of['loss']):>7} {_between(of['loss_95']):>15} {share(of['bound']):>7} "
            f"{share(of['local_share']):>6} {cost:>9} {share(of['saved_share']):>6}  {gap}"
        )
        if (halves := of["splits"]) is not None:
            lines.append(
                f"{'':8} random halves: over budget in {halves['over']} of {halves['count']}, "
                f"mean loss {halves['loss']:.4f}, bound {halves['bound']:.4f}, saved {halves['saved_share']:.3f}"
            )
    return lines + _many_table(report.get("many_models"))


def _many_table(many: dict[str, Any] | None) -> list[str]:
    if many is None:
        return []
    lines = [f"routers over {len(many['models'])} models, {many['n']} rows"]
    for name, of in many["routers"].items():
        lines.append(f"{name:20} AIQ {share(of['aiq'])} ({_between(of['aiq_95'])})  QNC {share(of['qnc'])}")
    lines.append(f"{'':40} {'quality':>7} {'$/1000':>8} {'AIQ':>6} {'router above it':>15}")
    for of in many["models"]:
        lines.append(
            f"{of['name']:40} {share(of['quality']):>7} {of['usd_per_1000']:8.3f} {share(of['aiq']):>6} "
            f"{of['router_above']:>+15.3f}"
        )
    return lines


def _between(span: list[float] | None) -> str:
    return f"{span[0]:.3f} - {span[1]:.3f}" if span else "-"


def _line(name: str, figures: dict[str, Any]) -> str:
    base = figures["baselines"]
    return (
        f"{name:20} {figures['n']:6} {share(figures['apgr']):>6} {_between(figures['apgr_95']):>15} "
        f"{share(figures['cpt50']):>6} {share(figures['cpt80']):>6} "
        f"{share(figures['expected_calibration_error']):>6} {share(base['length']):>7} "
        f"{share(base['knn']):>6} {share(base['oracle']):>6}"
    )
