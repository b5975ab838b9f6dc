"""`GET /v1/report`: who used what, and what it cost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from starlette.types import ASGIApp

from ..errors import InvalidRequest, LedgerError, LedgerUnavailable
from ..gateway import Gateway
from ..ledger.report import GROUPS, parse_time
from .http import Incoming, json_response

PARAMETERS: Final = ("since", "until", "by", "tenant")


async def report(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Add up what the caller's tenant used.

    `?since=` and `?until=` are times as `smallfirst report` takes them, `?by=` is a list with commas. Without keys
    `?tenant=` says whose; the default is everybody's.
    """
    incoming.only_parameters(PARAMETERS)
    since, until = (_time(incoming, name) for name in ("since", "until"))
    tenant = incoming.query.get("tenant") if incoming.tenant is None else incoming.tenant
    wanted = incoming.query.get("by")
    by = {} if wanted is None else {"by": _groups(wanted)}
    try:
        found = await gateway.report(since=since, until=until, tenant=tenant, **by)
    except LedgerError as exc:
        raise LedgerUnavailable("There is no report: the ledger is empty, or cannot be read now.") from exc
    return json_response({"object": "report", "tenant": tenant, **found.to_json()})


def _time(incoming: Incoming, name: str) -> datetime | None:
    text = incoming.query.get(name)
    try:
        return None if text is None else parse_time(text, datetime.now(UTC))
    except (ValueError, OverflowError) as exc:
        said = (text or "")[:100]
        raise _refused(name, f"'{said}' is no time; expected one like '24h', '7d' or '2026-11-21'") from exc


def _groups(wanted: str) -> tuple[str, ...]:
    names = tuple(name for name in wanted.split(",") if name)
    for name in names:
        if name not in GROUPS:
            raise _refused("by", f"there is no group '{name[:100]}'; expected some of {', '.join(GROUPS)}")
    return names


def _refused(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{name}': {why}.", param=name, code="invalid_value")
