"""What the workflows share: their options, the gateway they ask, and their data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable

from smallfirst.router.errors import SmallfirstError
from smallfirst.router.remote.gateway import RemoteGateway
from smallfirst.router.sync import SyncGateway

DATA: Traversable = files(__package__) / "data"

Work = Callable[[argparse.Namespace, SyncGateway], None]


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every workflow has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--base-url", help="a running proxy, e.g. http://127.0.0.1:4100/v1; default: in this process"
    )
    parser.add_argument("--api-key", help="the proxy's key, where it asks for one")
    return parser


def count(text: str) -> int:
    """Read an option that is a number of things: at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected at least 1")
    return number


def run(
    work: Work, parser: argparse.ArgumentParser, argv: Sequence[str] | None, gateway: SyncGateway | None
) -> int:
    """Do a workflow's work.

    Args:
        work: Gets the options and the gateway.
        parser: Reads the options.
        argv: The command line; None: this process's.
        gateway: Asked in place of the one that the options name, and left open.

    Returns:
        The exit status: 1 where the gateway failed; the reason is on standard error.
    """
    args = parser.parse_args(argv)
    try:
        with _opened(args, gateway) as found:
            print(where_it_runs(found), file=sys.stderr)
            work(args, found)
    except SmallfirstError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _opened(args: argparse.Namespace, gateway: SyncGateway | None) -> Iterator[SyncGateway]:
    if gateway is not None:
        yield gateway
        return
    with SyncGateway(base_url=args.base_url, api_key=args.api_key) as made:
        yield made


def where_it_runs(gateway: SyncGateway) -> str:
    """Say in words which models there are."""
    if isinstance(gateway.gateway, RemoteGateway):
        owners = gateway.run(gateway.gateway.model_owners())
        cloud = [name for name, owner in owners.items() if owner == "cloud"]
    else:
        cloud = [model.name for model in gateway.gateway.settings.models if model.tier == "cloud"]
    if cloud:
        return f"What the local model cannot do goes to {cloud[0]}."
    return (
        "No cloud model is configured: everything runs on the local model, as well as it can. "
        "Set OPENAI_API_KEY to add one."
    )
