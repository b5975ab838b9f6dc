"""`smallfirst eval`: measure routing quality against cost, and what local models get right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import click

# Absolute, as in `evals`, which this module hands its values to: a type checker takes the two spellings for two types.
from smallfirst.router.errors import SettingsError
from smallfirst.router.settings import LocalModelSettings, Settings

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("eval", help="Measure routing quality against cost.")
def evaluate() -> None:
    """Hold the commands below."""


@evaluate.command()
@click.option("--data", required=True, type=FILE, help="Outcome file: Parquet or JSON lines.")
@click.option("--weak", help="Where the file has `scores`: the weak model's name there.")
@click.option("--strong", help="Likewise the strong model's.")
@click.option("--artefact", type=FILE, help="Another classifier than the one that ships.")
@click.option(
    "--bootstrap", "samples", default=500, show_default=True, type=click.IntRange(1), help="Samples."
)
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
def routing(
    data: Path,
    weak: str | None,
    strong: str | None,
    artefact: Path | None,
    samples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Replay the router on prompts whose outcomes with a weak and a strong model are known."""
    from smallfirst.evals.routing import routing_report

    report = routing_report(data, weak=weak, strong=strong, artefact=artefact, samples=samples, seed=seed)
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(_described(report))
    click.echo(
        f"{'':20} {'n':>6} {'APGR':>6} {'95 %':>15} {'CPT50':>6} {'CPT80':>6} {'ECE':>6} {'length':>7}"
    )
    for name, figures in {"all": report, **report["by_subset"]}.items():
        click.echo(_line(name, figures))


@evaluate.command()
@click.option("--model", required=True, help="A local model of the settings, by name.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the evaluation data. Default: SMALLFIRST_DATA, else ../shared/data.",
)
@click.option(
    "--out", required=True, type=FILE, help="JSON lines to append to; rows that it has are not run again."
)
@click.option("--simple-only", is_flag=True, help="Only the hand-written prompts, which ship.")
@click.option("--limit", type=click.IntRange(1), help="At most so many rows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.pass_obj
def outcomes(
    settings: Callable[[], Settings],
    model: str,
    data: Path | None,
    out: Path,
    simple_only: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Run a local model over rows with a checkable answer, and keep what it got right (for `smallfirst train`)."""
    from smallfirst.evals.outcomes import collect, sample_rows, simple_rows

    from ..models import make_models
    from ..training.files import data_folder

    configured = settings()
    found = next((m for m in configured.models if m.name == model), None)
    if not isinstance(found, LocalModelSettings):
        raise SettingsError(f"no local model is named '{model}' in the settings.")
    rows = simple_rows() + ([] if simple_only else sample_rows(data or data_folder()))
    engine: Any = make_models(cast("Any", configured))[found.name]
    with click.progressbar(length=len(rows[:limit]), label=model, hidden=as_json) as bar:
        summary = collect(engine, rows[:limit], out, progress=lambda done, right, n: bar.update(1))
    if as_json:
        click.echo(json.dumps(summary))
        return
    for name, group in summary["by_subset"].items():
        click.echo(f"{name:50} {group['n']:5} {group['accuracy']:.3f}")
    click.echo(f"{'all':50} {summary['n']:5} {summary['accuracy']:.3f}")


def _described(report: dict[str, Any]) -> str:
    folded, held = report["out_of_fold_rows"], report["held_out_rows"]
    if not folded:
        return (
            f"{report['data']}: none of its {held} rows was trained on; the shipped classifier scored them."
        )
    others = f"; the other {held} were not trained on" if held else ""
    return f"{report['data']}: {folded} rows were trained on and are scored out of fold{others}."


def _line(name: str, figures: dict[str, Any]) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    span = figures["apgr_95"]
    between = f"{span[0]:.3f} - {span[1]:.3f}" if span else "-"
    return (
        f"{name:20} {figures['n']:6} {shown(figures['apgr']):>6} {between:>15} {shown(figures['cpt50']):>6} "
        f"{shown(figures['cpt80']):>6} {shown(figures['expected_calibration_error']):>6} "
        f"{shown(figures['baselines']['length']):>7}"
    )
