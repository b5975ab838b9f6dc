"""`smallfirst train cache`: train what the semantic cache decides by."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import json_option
from .train_options import data_option, out_option, progress_since_now


@click.command(
    help="Train the semantic cache's decision whether two requests have the same answer (half a minute)."
)
@data_option
@out_option
@json_option
def cache(data: Path | None, out: Path | None, as_json: bool) -> None:
    """Train, write, and say how the pairs fare that the trees had not seen."""
    from ..semantic.equivalence import packaged_artefact
    from ..training.equivalence import train, write
    from ..training.files import data_folder

    progress = progress_since_now()

    trained = train(data or data_folder(), progress=progress)
    out = out or packaged_artefact()
    write(trained, out)
    progress(f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB)")
    if as_json:
        click.echo(json.dumps(trained.card))
        return
    for error, figures in trained.card["out_of_fold"]["max_error"].items():
        if figures["threshold"] is None:
            click.echo(f"max error {error}: no threshold is shown to keep it")
            continue
        click.echo(
            f"max error {error}: threshold {figures['threshold']:.3f}  precision {figures['precision']:.4f}  "
            f"recall {figures['recall']:.3f}"
        )
    at = trained.card["out_of_fold"]["max_error"]["0.01"]["by_kind"]
    click.echo("accepted at 0.01, by kind (same of n):")
    for kind, row in at.items():
        click.echo(f"  {kind:34} {row['accepted']:5} of {row['n']:5}  ({row['same']} same)")
