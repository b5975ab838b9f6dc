"""`smallfirst config`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..settings.file import find_settings_file, load_settings


@click.group()
def config() -> None:
    """Check the settings file."""


@config.command()
@click.argument("path", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--show", is_flag=True, help="Print the settings in force, with defaults; secrets are starred.")
@click.pass_context
def check(ctx: click.Context, path: Path | None, show: bool) -> None:
    """Check PATH (default: the file that `serve` would read). Names the line of every error."""
    assert ctx.parent is not None
    assert ctx.parent.parent is not None
    found = find_settings_file(path or ctx.parent.parent.params["config_path"], os.environ, Path.cwd())
    loaded = load_settings(found, os.environ)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if show:
        click.echo(loaded.settings.model_dump_json(indent=2))
    where = str(loaded.path) if loaded.path else "no settings file: built-in defaults"
    names = ", ".join(f"{model.name} ({model.tier})" for model in loaded.settings.models)
    click.echo(f"ok: {where}; policy {loaded.settings.policy}; models: {names}")
