"""`smallfirst serve`."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable

import click

from ..access.gate import has_keys
from ..errors import SettingsError
from ..settings import LocalModelSettings, Settings


@click.command()
@click.option("--host", help="Address to listen on.  [default: server.host, 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port.  [default: server.port, 4100]")
@click.option("--policy", help="The policy behind `auto`.  [default: policy, balanced]")
@click.option(
    "--insecure-no-keys",
    is_flag=True,
    help="Serve other machines without any key: whoever reaches the port spends your money.",
)
@click.pass_obj
def serve(
    load: Callable[[], Settings],
    host: str | None,
    port: int | None,
    policy: str | None,
    insecure_no_keys: bool,
) -> None:
    """Serve the OpenAI-compatible proxy. Fetches the configured local models first. SIGHUP reads the settings again."""

    def read() -> Settings:
        settings = _override(load(), host, port, policy)
        if insecure_no_keys:
            server = settings.server.model_copy(update={"insecure_no_keys": True})
            settings = settings.model_copy(update={"server": server})
        check_exposure(settings)
        return settings

    settings = read()
    fetch_models(settings)
    _announce(settings)
    _run(settings, read)


def _override(settings: Settings, host: str | None, port: int | None, policy: str | None) -> Settings:
    given = {"host": host, "port": port}
    server = settings.server.model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    if policy is not None and policy not in settings.policy_names:
        raise SettingsError(f"--policy: there is no {policy!r}; there are {', '.join(settings.policy_names)}")
    return settings.model_copy(update={"server": server, "policy": policy or settings.policy})


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


def _announce(settings: Settings) -> None:
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    models = ", ".join(f"{model.name} ({model.tier})" for model in settings.models)
    click.echo(f"smallfirst serves http://{host}:{settings.server.port}/v1", err=True)
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


def _run(settings: Settings, read: Callable[[], Settings]) -> None:
    import uvicorn

    from ..gateway import Gateway
    from ..server import make_app
    from ..server.memory import settle
    from ..telemetry.logs import write_logs

    with write_logs(settings.log, sys.stderr):
        uvicorn.run(
            make_app(Gateway(settings), read_settings=read, settled=settle),
            host=settings.server.host,
            port=settings.server.port,
            # Every request has a line in our own log; what uvicorn has to say goes there, too.
            access_log=False,
            log_config=None,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=10,
        )
