"""When to try again, after how long, and how often at all."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from ..errors import ModelError, ModelUnavailable, StreamBroken, UpstreamError, UpstreamUntrusted
from ..recent import Recent
from ..settings import Retries

RETRIED_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504, 529})

# Seconds over which the retries of a model are held against its requests, as in Finagle's RetryBudget.
BUDGET_WINDOW = 10.0


class RetryBudget:
    """Keeps retries a small share of requests: a server that is overloaded is not sent a multiple of the load.

    Over the last `BUDGET_WINDOW` seconds, at most `retries.budget` per request, but `retries.least` at any rate.

    Attributes:
        refused: Retries that were not made for it, ever.
    """

    def __init__(self, retries: Retries, clock: Callable[[], float] = time.monotonic) -> None:
        self._retries = retries
        self._recent = Recent(BUDGET_WINDOW, clock)
        self.refused = 0

    @property
    def longest_wait(self) -> float:
        """Seconds that a server may ask to be left alone for and is waited for."""
        return self._retries.max_delay

    def asked(self) -> None:
        """Note a request, once whatever its tries."""
        self._recent.add(1)

    def takes(self) -> bool:
        """Whether there is room for one more retry; it is counted."""
        requests, retries = self._recent.counts()
        if retries < max(self._retries.least, int(self._retries.budget * requests)):
            self._recent.add(0, 1)
            return True
        self.refused += 1
        return False


def retry_delay(error: ModelError, attempt: int, retries: Retries, jitter: float) -> float | None:
    """Return the seconds to wait before the next try, or None where there shall be none.

    Exponential backoff with full jitter: uniform in [0, base_delay * 2**attempt], bounded by `max_delay`. An upstream's
    `Retry-After` is honoured; one longer than `max_delay` is not waited for, the caller gets it instead.

    Args:
        error: What went wrong, before anything of an answer was seen.
        attempt: Tries made so far, less one.
        jitter: Uniform in [0, 1).
    """
    if attempt >= retries.max or not _may_be_retried(error):
        return None
    backoff = min(retries.base_delay * 2.0**attempt, retries.max_delay) * jitter
    if error.retry_after is None:
        return backoff
    return max(error.retry_after, backoff) if error.retry_after <= retries.max_delay else None


def _may_be_retried(error: ModelError) -> bool:
    if isinstance(error, UpstreamError):
        return error.status in RETRIED_STATUSES
    # Who it should be it will not be a moment later.
    if isinstance(error, UpstreamUntrusted):
        return False
    # Nothing of an answer was seen. A timeout is not retried: it has cost the caller enough time already.
    return isinstance(error, (ModelUnavailable, StreamBroken))


def parse_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds of a `Retry-After` header (a number or an HTTP date), or None where it says nothing."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
