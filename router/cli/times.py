"""Times as options say them."""

from __future__ import annotations

from datetime import UTC, datetime

import click


def read_time(option: str, text: str | None) -> datetime | None:
    """Read what `--since` or `--until` says; None stays None.

    Raises:
        click.BadParameter: It is no time.
    """
    from ..ledger.report import parse_time

    if text is None:
        return None
    try:
        return parse_time(text, datetime.now(UTC))
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is neither like 24h or 7d nor a date", param_hint=option) from exc
