"""`smallfirst models`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ..errors import SettingsError
from ..models.sources import local_path, resolve
from ..settings import ClassifierSettings, LocalModelSettings, Settings


@click.group()
def models() -> None:
    """List and fetch local models."""


@models.command("list")
@click.pass_obj
def list_models(load: Callable[[], Settings]) -> None:
    """Show the configured models, and where local files are."""
    settings = load()
    for model in settings.models:
        if isinstance(model, LocalModelSettings):
            path = local_path(model.source, settings.models_dir)
            where = f"{path} ({path.stat().st_size / 1e6:.0f} MB)" if path.is_file() else "not fetched yet"
            click.echo(f"{model.name}\tlocal\t{model.source}\t{where}")
        elif isinstance(model, ClassifierSettings):
            click.echo(f"{model.name}\tlocal\tclassifier\t{model.path}")
        else:
            click.echo(f"{model.name}\t{model.tier}\t{model.base_url}\t{model.model or model.name}")


@models.command()
@click.argument("name", required=False)
@click.pass_obj
def pull(load: Callable[[], Settings], name: str | None) -> None:
    """Fetch the model NAME, or all local models."""
    settings = load()
    wanted = [
        model
        for model in settings.models
        if isinstance(model, LocalModelSettings) and name in (None, model.name)
    ]
    if name is not None and not wanted:
        raise SettingsError(f"no local model is named {name!r}; see 'smallfirst models list'")
    for model in wanted:
        click.echo(f"{model.name}: {fetch(model, settings.models_dir)}")


def fetch(model: LocalModelSettings, models_dir: Path) -> Path:
    """Fetch a model's file if need be, with a progress bar on standard error.

    Raises:
        ModelFileError: It cannot be had; says what to do.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(f"fetching {model.name}", total=None)

        def progress(done: int, total: int | None) -> None:
            bars.update(bar, completed=done, total=total)

        return resolve(model.source, sha256=model.sha256, models_dir=models_dir, progress=progress)
