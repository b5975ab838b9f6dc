"""`smallfirst train`: train the router's classifier."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import json_option
from .train_cache import cache
from .train_classifier import classifier
from .train_options import data_option, out_option, progress_since_now
from .train_volatility import volatility


@click.group(
    invoke_without_command=True,
    help="Train the router's classifier on the evaluation data and on our own outcomes (takes minutes), "
    "or a text classifier on your own examples.",
)
@data_option
@click.option(
    "--outcomes",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Outcomes of local models (JSON lines). Default: the ones that ship.",
)
@out_option
@click.option(
    "--without",
    multiple=True,
    help="Leave a subset out, e.g. mmlu, to see how well the rest carries over. Repeatable.",
)
@click.option("--without-model", multiple=True, help="Leave a model's published outcomes out. Repeatable.")
@click.option(
    "--folds", default=10, show_default=True, type=click.IntRange(2), help="For figures and calibration."
)
@json_option
@click.pass_context
def train(
    ctx: click.Context,
    data: Path | None,
    outcomes: Path | None,
    out: Path | None,
    without: tuple[str, ...],
    without_model: tuple[str, ...],
    folds: int,
    as_json: bool,
) -> None:
    """Train, write, and say how good it is."""
    if ctx.invoked_subcommand is not None:
        return
    from ..scoring.scorer import packaged_artefact
    from ..training.files import data_folder
    from ..training.train import train as train_classifier
    from ..training.train import write

    progress = progress_since_now()
    if out is None and (without or without_model):
        raise click.UsageError(
            "What is trained without a part is not for shipping: say where to write it with --out."
        )
    out = out or packaged_artefact()

    trained = train_classifier(
        data or data_folder(),
        outcomes=outcomes,
        without=without,
        without_models=without_model,
        progress=progress,
        folds=folds,
    )
    write(trained, out)
    progress(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
    if as_json:
        click.echo(json.dumps(trained.card))
        return
    for head, figures in trained.card["out_of_fold"]["heads"].items():
        click.echo(
            f"{head:24} n {figures['n']:5}  right {figures['accuracy']:.3f}  AUC {figures['auc']:.3f}  "
            f"calibration error {figures['expected_calibration_error']:.3f}"
        )


train.add_command(classifier)
train.add_command(cache)
train.add_command(volatility)
