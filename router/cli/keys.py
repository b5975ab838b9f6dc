"""`smallfirst keys`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ..errors import LedgerError, SettingsError
from ..settings import KeyRules, Settings, check_rules

if TYPE_CHECKING:
    from ..access.keys import VirtualKey
    from ..access.spent import Spent

# As long as tenants may be that callers name where there are no keys.
_LONGEST_TENANT = 200


@click.group()
def keys() -> None:
    """Make, list and revoke virtual keys. Running gateways know of it within two seconds."""


@keys.command()
@click.option(
    "--tenant", required=True, help="Whose it is: requests, cache and reports are kept apart by it."
)
@click.option("--name", help="For a person to tell it by.")
@click.option("--models", help="That may answer, with commas.  [default: all]")
@click.option("--policies", help="That may decide, with commas.  [default: all]")
@click.option("--rpm", type=click.IntRange(1), help="Requests a minute.")
@click.option("--tpm", type=click.IntRange(1), help="Tokens a minute, prompts and answers together.")
@click.option("--requests", type=click.IntRange(0), help="Requests in the key's whole life.")
@click.option("--requests-per-day", type=click.IntRange(0), help="Requests a day (UTC).")
@click.option("--usd-per-day", type=click.FloatRange(0), help="US dollars a day (UTC).")
@click.option("--usd-per-month", type=click.FloatRange(0), help="US dollars a month (UTC).")
@click.option("--max-concurrent", type=click.IntRange(1), help="Requests at the same time.")
@click.option(
    "--thrifty-at",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of a budget in US dollars from which on `thrifty` decides; 1: never.  [default: 0.8]",
)
@click.option("--admin", is_flag=True, help="It may see what concerns all tenants, such as /metrics.")
@click.option("--expires", help="In 30m, 24h, 30d, 4w, or on a date.  [default: never]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def create(
    load: Callable[[], Settings],
    /,
    tenant: str,
    name: str | None,
    expires: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from ..access.keys import make_key
    from ..access.store import open_store

    settings, now = load(), time.time()
    if not tenant.strip() or len(tenant) > _LONGEST_TENANT or not tenant.isprintable():
        raise click.BadParameter(f"expected 1 to {_LONGEST_TENANT} visible characters", param_hint="--tenant")
    rules = _rules(given, settings)
    made = make_key(
        tenant, now=now, rules=rules, name=name, expires_at=None if expires is None else _expiry(expires, now)
    )
    open_store(settings).add(made.key)
    if as_json:
        click.echo(json.dumps({"key": made.secret, **_described(made.key, None, now)}))
        return
    click.echo(made.secret)
    click.echo(f"{made.key.id}, tenant {tenant}: {_limits(rules)}. The key is not shown again.", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def list_keys(load: Callable[[], Settings], as_json: bool) -> None:
    """List keys, what they may do and what they have used. Never the keys themselves."""
    from ..access.spent import spent_by_key
    from ..access.store import open_store
    from ..ledger.store import open_store as open_ledger

    settings, now = load(), time.time()
    found = open_store(settings).load()
    try:
        spent = spent_by_key(open_ledger(settings.ledger), now)
    except LedgerError as exc:
        click.echo(f"warning: what keys have used is not known: {exc}", err=True)
        spent = {}
    if as_json:
        click.echo(json.dumps({"keys": [_described(key, spent.get(key.id), now) for key in found]}))
        return
    _table(found, spent, now)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def revoke(load: Callable[[], Settings], key_id: str, as_json: bool) -> None:
    """Revoke the key ID. Requests that were admitted before go on to their end."""
    from ..access.store import open_store

    now = time.time()
    if not open_store(load()).revoke(key_id, now):
        raise SettingsError(
            f"there is no key '{key_id}' that could be revoked; `smallfirst keys list` shows them"
        )
    if as_json:
        click.echo(json.dumps({"id": key_id, "state": "revoked", "revoked_at": _time(now)}))
    else:
        click.echo(f"{key_id} is revoked; running gateways refuse it within two seconds", err=True)


def _rules(given: Mapping[str, Any], settings: Settings) -> KeyRules:
    """Read the options of `create`; a name that is not known would be a limit other than was meant."""
    fields = {name: value for name, value in given.items() if value is not None}
    for name in ("models", "policies"):
        if name in fields:
            fields[name] = tuple(part.strip() for part in fields[name].split(",") if part.strip())
    rules = KeyRules(**fields)
    try:
        check_rules(rules, [model.name for model in settings.models], settings.policy_names)
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc
    return rules


def _expiry(text: str, now: float) -> float:
    from ..ledger.report import parse_time

    today = datetime.fromtimestamp(now, UTC)
    try:
        when = parse_time(text, today)
    except ValueError as exc:
        raise click.BadParameter(
            f"{text!r} is neither like 24h or 30d nor a date", param_hint="--expires"
        ) from exc
    # A span is read as one before now; here it is meant as one after.
    span = text.strip()[-1:].isalpha() and "T" not in text
    at = today + (today - when) if span else when
    if at <= today:
        raise click.BadParameter(f"{text!r} is over already", param_hint="--expires")
    return at.timestamp()


def _described(key: VirtualKey, spent: Spent | None, now: float) -> dict[str, Any]:
    from dataclasses import asdict

    from ..access.spent import Spent

    return {
        "id": key.id,
        "prefix": key.shown,
        "tenant": key.tenant,
        "name": key.name,
        "state": key.state(now),
        "rules": key.rules.model_dump(exclude_none=True),
        "used": asdict(spent or Spent()),
        "created_at": _time(key.created_at),
        "expires_at": _time(key.expires_at),
        "revoked_at": _time(key.revoked_at),
        "last_used": _time(key.last_used),
    }


def _table(found: list[VirtualKey], spent: Mapping[str, Spent], now: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..access.spent import Spent
    from ..ledger.render import plain

    if not found:
        click.echo("no keys; `smallfirst keys create --tenant NAME` makes one", err=True)
        return
    table = Table()
    for column in ("id", "key", "tenant", "name", "state", "limits", "today", "in all", "last used"):
        table.add_column(column, overflow="fold")
    for key in found:
        used = spent.get(key.id, Spent())
        table.add_row(
            key.id,
            f"{key.shown}…",
            plain(key.tenant),
            plain(key.name or ""),
            key.state(now),
            plain(_limits(key.rules)),
            f"{used.requests_day}, ${used.usd_day:.4f}",
            f"{used.requests}, ${used.usd:.4f}",
            _time(key.last_used) or "never",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _limits(rules: KeyRules) -> str:
    said: list[tuple[object, str]] = [
        (rules.rpm, "{} requests a minute"),
        (rules.tpm, "{} tokens a minute"),
        (rules.requests, "{} requests in all"),
        (rules.requests_per_day, "{} requests a day"),
        (rules.usd_per_day, "${:g} a day"),
        (rules.usd_per_month, "${:g} a month"),
        (rules.max_concurrent, "{} at once"),
        (rules.models and ", ".join(rules.models), "models {}"),
        (rules.policies and ", ".join(rules.policies), "policies {}"),
        (rules.admin or None, "admin"),
    ]
    return "; ".join(words.format(value) for value, words in said if value is not None) or "no limits"


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
