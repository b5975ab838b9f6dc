"""The command line: `smallfirst COMMAND`. Each command is a module of its own, loaded when it is named."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from ..errors import SmallfirstError
from ..settings import Settings

# Command -> (where it is, one line for `--help`). The line stands here so that `--help` loads nothing.
_COMMANDS = {
    "serve": ("serve:serve", "Serve the OpenAI-compatible proxy."),
    "route": ("route:route", "Show where a request would go, and why. Runs nothing."),
    "chat": ("chat:chat", "Talk to the gateway in the terminal."),
    "models": ("models:models", "List and fetch local models."),
    "config": ("config:config", "Check the settings file."),
    "keys": ("keys:keys", "Make, list and revoke virtual keys."),
    "ledger": ("ledger:ledger", "Export the ledger, prune it, bring it up to date."),
    "report": ("report:report", "Report requests, tokens, cost and savings."),
    "top": ("top:top", "Watch requests, routes, cost and savings in the terminal."),
    "calibrate": (
        "calibrate:calibrate",
        "Place a model by its own answers, and see what a risk budget allows.",
    ),
    "train": ("train:train", "Train the router's classifier, or one of your own."),
    "eval": ("evaluate:evaluate", "Measure routing quality against cost."),
    "bench": ("bench:bench", "Measure the speed of the gateway and of its local models."),
}


class _Commands(click.Group):
    """Loads a command when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f".{module}", __name__), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file. Default: SMALLFIRST_CONFIG, else smallfirst.yaml in this folder, else built-in defaults.",
)
@click.version_option(package_name="smallfirst")
@click.pass_context
def cli(ctx: click.Context, config_path: Path | None) -> None:
    """Small model first; escalate when it must: a routing gateway for AI agents."""
    ctx.obj = settings_loader(config_path)


def settings_loader(path: Path | None) -> Callable[[], Settings]:
    """Return what reads the settings, each time anew; `path` as of `--config`."""

    def load() -> Settings:
        from ..settings.file import find_settings_file, load_settings

        # Once a file was found it is that one: a server that reads it again must not fall back to the defaults.
        nonlocal path
        path = find_settings_file(path, os.environ, Path.cwd())
        loaded = load_settings(path, os.environ)
        for warning in loaded.warnings:
            click.echo(f"warning: {warning}", err=True)
        return loaded.settings

    return load


def main() -> None:
    """Run the command line; an error that we know becomes one line on standard error and exit status 1."""
    try:
        cli()
    except SmallfirstError as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(1)
