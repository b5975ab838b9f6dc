"""`smallfirst eval placement`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import json_option

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--data", required=True, type=FILE, help="Outcome file with `scores`.")
@click.option(
    "--artefact", required=True, type=FILE, help="Made by `train --without-model NAME … --out FILE`."
)
@click.option(
    "--model", "models", required=True, multiple=True, help="A model that was left out. Repeatable."
)
@click.option("--against", required=True, help="The strong model that routing decides against.")
@click.option(
    "--prompts", default=100, show_default=True, type=click.IntRange(10), help="To place a model with."
)
@click.option("--seed", default=0, show_default=True, help="Of the draws.")
@json_option
def placement(
    data: Path, artefact: Path, models: tuple[str, ...], against: str, prompts: int, seed: int, as_json: bool
) -> None:
    """Measure how well models are placed that the classifier never saw, with a hundred scored prompts each."""
    from smallfirst.evals.placement import placement_report

    report = placement_report(
        data,
        artefact,
        models,
        against=against,
        prompts=prompts,
        seed=seed,
        progress=lambda step: click.echo(step, err=True),
    )
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(f"{'':36} {'n':>5} {'APGR':>6} {'all':>6} {'gap':>6} {'ECE':>6} {'all':>6}")
    for name, of in {**report["models"], "mean": report["mean"]}.items():
        figures = [of["apgr"], of["apgr_all_rows"], of["gap"]]
        figures += [of["expected_calibration_error"], of["expected_calibration_error_all_rows"]]
        click.echo(f"{name:36} {of.get('n', ''):>5} " + " ".join(f"{figure:6.3f}" for figure in figures))
