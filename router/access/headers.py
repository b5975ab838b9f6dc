"""What answers say of a key's limits, by the names that each wire's clients know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from .limits import MINUTE, Level, Verdict

RateHeaders = Callable[[Verdict, float], dict[str, str]]


def openai_headers(verdict: Verdict, now: float) -> dict[str, str]:
    """Return `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; see `Verdict`. `now` is in Unix seconds."""
    headers: dict[str, str] = {}
    for name, level in _levels(verdict).items():
        headers[f"x-ratelimit-limit-{name}"] = str(level.limit)
        headers[f"x-ratelimit-remaining-{name}"] = str(level.remaining)
        if math.isfinite(level.reset):
            headers[f"x-ratelimit-reset-{name}"] = duration(level.reset)
    return headers | _budget(verdict)


def anthropic_headers(verdict: Verdict, now: float) -> dict[str, str]:
    """Return `anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}`; `reset` is a time (RFC 3339)."""
    headers: dict[str, str] = {}
    for name, level in _levels(verdict).items():
        headers[f"anthropic-ratelimit-{name}-limit"] = str(level.limit)
        headers[f"anthropic-ratelimit-{name}-remaining"] = str(level.remaining)
        if math.isfinite(level.reset):
            at = datetime.fromtimestamp(math.ceil(now + level.reset), UTC)
            headers[f"anthropic-ratelimit-{name}-reset"] = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return headers | _budget(verdict)


def duration(seconds: float) -> str:
    """Return seconds as OpenAI writes them: `120ms`, `1.5s`, `6m0s`, `23h59m1s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < MINUTE:
        return f"{math.ceil(seconds * 1000) / 1000:g}s"
    hours, rest = divmod(math.ceil(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return (f"{hours}h" if hours else "") + f"{minutes}m{rest}s"


def _levels(verdict: Verdict) -> Mapping[str, Level]:
    """Return what is shown for `requests` and `tokens`: of several limits the one with the least left."""
    found: dict[str, Level] = dict(verdict.rates)
    for name in ("requests", "requests_day"):
        level = verdict.budgets.get(name)
        if level is not None and ("requests" not in found or level.remaining < found["requests"].remaining):
            found["requests"] = level
    return found


def _budget(verdict: Verdict) -> dict[str, str]:
    return {} if verdict.spent is None else {"x-smallfirst-budget-used": f"{verdict.spent:.4f}"}
