"""What the commands that train have in common: their options, and how they say what they are doing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the evaluation data. Default: SMALLFIRST_DATA, else ../shared/data.",
)
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the artefact (.npz, its card beside it). Default: into the package.",
)


def progress_since_now() -> Callable[[str], None]:
    """Return what prints a step with the seconds since now, to standard error."""
    start = time.monotonic()
    return lambda step: click.echo(f"{time.monotonic() - start:6.1f} s  {step}", err=True)
