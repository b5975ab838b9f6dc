"""`smallfirst train classifier`: learn to label texts from examples."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from .options import json_option

FILE = click.Path(path_type=Path, dir_okay=False)
FIGURES = ("accuracy", "expected_calibration_error", "baseline_accuracy")


@click.command(
    help="Train a text classifier on labelled examples: Parquet, CSV or JSON lines with `text` and `label`."
)
@click.option("--data", required=True, type=FILE, help="The examples.")
@click.option("--out", required=True, type=FILE, help="Where to write the classifier (.npz).")
@click.option("--source", "where", help="Only rows whose column `source` is this.")
@json_option
def classifier(data: Path, out: Path, where: str | None, as_json: bool) -> None:
    """Train, write, and say how good it is on examples that it had not seen."""
    from ..classification.fit import fit_head, read_examples

    start = time.monotonic()

    def progress(step: str) -> None:
        click.echo(f"{time.monotonic() - start:6.1f} s  {step}", err=True)

    texts, labels = read_examples(data, source=where)
    head = fit_head(texts, labels, progress=progress)
    head.save(out)
    progress(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
    figures = {name: head.card[name] for name in ("n", *FIGURES)}
    if as_json:
        seconds = round(time.monotonic() - start, 2)
        click.echo(json.dumps({"labels": head.labels, **figures, "seconds": seconds, "out": str(out)}))
        return
    click.echo(
        f"{len(head.labels)} labels, n {figures['n']}  right {figures['accuracy']:.3f}  "
        f"calibration error {figures['expected_calibration_error']:.3f}  "
        f"(TF-IDF and linear SVM: {figures['baseline_accuracy']:.3f})"
    )
