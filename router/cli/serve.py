"""`smallfirst serve`."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from pathlib import Path

import click

from ..access.gate import has_keys
from ..errors import SettingsError
from ..processes.source import Given, Options, apply, read_given
from ..settings import LocalModelSettings, Settings


@click.command()
@click.option("--host", help="Address to listen on.  [default: server.host, 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port.  [default: server.port, 4100]")
@click.option("--policy", help="The policy behind `auto`.  [default: policy, balanced]")
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Processes that serve.  [default: server.workers, 1]"
)
@click.option(
    "--insecure-no-keys",
    is_flag=True,
    help="Serve other machines without any key: whoever reaches the port spends your money.",
)
@click.pass_context
def serve(
    ctx: click.Context,
    host: str | None,
    port: int | None,
    policy: str | None,
    workers: int | None,
    insecure_no_keys: bool,
) -> None:
    """Serve the OpenAI-compatible proxy. Fetches the configured local models first.

    SIGHUP reads the settings again. SIGTERM ends it: requests under way have `server.grace` seconds, and none after a
    second SIGTERM.
    """
    options = Options(host, port, policy, workers, insecure_no_keys)
    load: Callable[[], Settings] = ctx.obj

    def read() -> Settings:
        settings = apply(load(), options)
        check_exposure(settings)
        return settings

    settings = read()
    fetch_models(settings)
    if settings.server.workers > 1:
        _run_many(settings, ctx, options)
        return
    _announce(settings, settings.server.port)
    _run(settings, read)


def check_exposure(settings: Settings) -> None:
    """Refuse to serve others than this machine without keys.

    Raises:
        SettingsError: The host is not a loopback address and no key is configured, or the keys cannot be read.
    """
    host = settings.server.host
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not settings.server.insecure_no_keys and not has_keys(settings):
        raise SettingsError(
            f"server.host {host} can be reached from other machines, but no key is configured: anyone could spend "
            "your money. Make a key with 'smallfirst keys create --tenant NAME', or serve on 127.0.0.1 "
            "(--insecure-no-keys serves everybody all the same)."
        )


def fetch_models(settings: Settings) -> None:
    """Fetch the files of all local models that are not there yet, with a progress bar."""
    from .models import fetch

    for model in settings.models:
        if isinstance(model, LocalModelSettings):
            fetch(model, settings.models_dir)


def _announce(settings: Settings, port: int) -> None:
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    models = ", ".join(f"{model.name} ({model.tier})" for model in settings.models)
    click.echo(f"smallfirst serves http://{host}:{port}/v1", err=True)
    click.echo(f"  models: {models}; `auto` follows the policy '{settings.policy}'", err=True)
    if all(model.tier == "local" for model in settings.models):
        click.echo(
            "  no cloud model: everything is answered locally (set OPENAI_API_KEY to add one)", err=True
        )
    if not has_keys(settings):
        if settings.server.insecure_no_keys:
            click.echo(
                "  WARNING: no keys configured; every machine is served: whoever reaches the port spends your money",
                err=True,
            )
        else:
            click.echo(
                "  no keys configured: only this machine is served (`smallfirst keys create` makes one)",
                err=True,
            )


def _run_many(settings: Settings, ctx: click.Context, options: Options) -> None:
    import socket

    from ..processes.parent import run
    from ..processes.sockets import listening
    from ..telemetry.logs import write_logs

    if not hasattr(socket, "send_fds"):
        raise SettingsError("server.workers: this system has no way to share a port; leave it at 1")
    path: Path | None = ctx.find_root().params.get("config_path")
    first = read_given(path, options)
    # Once a file was found it is that one.
    found = None if first.path is None else Path(first.path)

    def read() -> Given:
        given = read_given(found, options)
        check_exposure(given.settings())
        return given

    server = settings.server
    places = listening(server.host, server.port, server.workers)
    port = places[0][0].getsockname()[1]
    _announce(settings, port)
    click.echo(f"  {server.workers} processes serve; local models are loaded once", err=True)
    if settings.cache.enabled and settings.cache.url is None:
        click.echo("  each of them has a cache of its own: set cache.url (Redis) for one of all", err=True)
    with write_logs(settings.log, sys.stderr):
        status = run(first, settings, read, places)
    sys.exit(status)


def _run(settings: Settings, read: Callable[[], Settings]) -> None:
    from ..gateway import Gateway
    from ..server import make_app
    from ..server.connections import allow_files
    from ..server.drain import Drain
    from ..server.graceful import GracefulServer, config_of
    from ..server.memory import settle
    from ..telemetry.logs import write_logs

    drain = Drain()
    with write_logs(settings.log, sys.stderr):
        allow_files(settings.limits)
        app = make_app(Gateway(settings), read_settings=read, settled=settle, drain=drain)
        server = GracefulServer(config_of(app, settings), drain, settings.server.grace)
        server.run()
    if server.hurried is not None:
        # As a shell says that a signal ended a command.
        sys.exit(128 + server.hurried)
