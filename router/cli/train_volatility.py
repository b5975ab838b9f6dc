"""`smallfirst train volatility`: train the judgement whether an answer keeps."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click


@click.command(
    help="Train the semantic cache's judgement whether an answer keeps: whether it is good for everyone at any time "
    "(two minutes)."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the evaluation data. Default: SMALLFIRST_DATA, else ../shared/data.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the artefact (.npz, its card beside it). Default: into the package.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
def volatility(data: Path | None, out: Path | None, as_json: bool) -> None:
    """Train, write, and say how good it is on texts and on kinds of texts that it had not seen."""
    from ..semantic.volatility import packaged_artefact
    from ..training.files import data_folder
    from ..training.volatility import train

    start = time.monotonic()

    def progress(step: str) -> None:
        click.echo(f"{time.monotonic() - start:6.1f} s  {step}", err=True)

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
