"""`smallfirst eval ablation`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import json_option


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the evaluation data. Default: SMALLFIRST_DATA, else ../shared/data.",
)
@click.option(
    "--folds", default=10, show_default=True, type=click.IntRange(2), help="Of near-duplicate groups."
)
@click.option("--seed", default=0, show_default=True, help="Of the folds and the bootstrap.")
@json_option
def ablation(data: Path | None, folds: int, seed: int, as_json: bool) -> None:
    """Measure what each part of the router's estimate is worth (fits it once a fold: minutes)."""
    from smallfirst.evals.ablation import ablation_report

    from ..training.files import data_folder

    report = ablation_report(
        data or data_folder(), folds=folds, seed=seed, progress=lambda step: click.echo(step, err=True)
    )
    if as_json:
        click.echo(json.dumps(report))
        return
    subsets = list(next(iter(report["variants"].values())))
    click.echo(f"{'ranked by':40} " + " ".join(f"{subset:>22}" for subset in subsets))
    for name, of in report["variants"].items():
        spans = [(figures["apgr"], *(figures["apgr_95"] or (0, 0))) for figures in of.values()]
        click.echo(f"{name:40} " + " ".join(f"{at:6.3f} ({low:.3f} - {high:.3f})" for at, low, high in spans))
