"""`smallfirst train volatility`: train the judgement whether an answer keeps."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import json_option
from .train_options import data_option, out_option, progress_since_now


@click.command(
    help="Train the semantic cache's judgement whether an answer keeps: whether it is good for everyone at any time "
    "(two minutes)."
)
@data_option
@out_option
@json_option
def volatility(data: Path | None, out: Path | None, as_json: bool) -> None:
    """Train, write, and say how good it is on texts and on kinds of texts that it had not seen."""
    from ..semantic.volatility import packaged_artefact
    from ..training.files import data_folder
    from ..training.volatility import train

    progress = progress_since_now()

    trained = train(data or data_folder(), progress=progress)
    out = out or packaged_artefact()
    trained.save(out)
    progress(f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB)")
    if as_json:
        click.echo(json.dumps(trained.card))
        return
    for name, figures in trained.card["out_of_fold"].items():
        click.echo(
            f"{name.replace('_', ' '):14} n {trained.card['n']}  right {figures['accuracy']:.3f}  "
            f"static kept {figures['kept']:.3f}  others refused {figures['refused']:.3f}  "
            f"calibration error {figures['expected_calibration_error']:.3f}"
        )
