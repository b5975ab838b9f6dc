"""What a failure says: of the model, of the request, and whether another model may do better."""

from __future__ import annotations

from .errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelError,
    ModelTimeout,
    ModelUnavailable,
    RequestError,
    StreamBroken,
    UpstreamError,
)

# Statuses by which a cloud says that our account or settings are wrong: another model may still answer.
_NOT_THE_CALLERS_FAULT = frozenset({401, 402, 403, 404})

# Statuses by which a server that says for how long asks to be left alone.
_LEAVE_ALONE = frozenset({429, 503, 529})


def another_may_do_better(exc: RequestError) -> bool:
    """Whether the next attempt makes sense: not where a cloud found the request itself wrong."""
    if isinstance(exc, UpstreamError):
        return exc.transient or exc.status in _NOT_THE_CALLERS_FAULT
    # A local model refuses what is too long or too odd for it (InvalidRequest); a cloud may take it.
    return isinstance(exc, (ModelError, InvalidRequest))


def refuses_rightly(exc: RequestError) -> bool:
    """Whether a cloud answered that the request is wrong: it works."""
    return isinstance(exc, UpstreamError) and not exc.transient and exc.status not in _NOT_THE_CALLERS_FAULT


def asked_to_wait(exc: RequestError | None) -> float | None:
    """Return the seconds that a cloud asked to be left alone for; None: it did not."""
    return exc.retry_after if isinstance(exc, UpstreamError) and exc.status in _LEAVE_ALONE else None


def is_down(exc: RequestError) -> bool:
    """Whether it is the model's own fault, so that it may well fail again."""
    if isinstance(exc, DeadlineExceeded):
        return False
    if isinstance(exc, UpstreamError):
        return exc.status >= 500
    if isinstance(exc, ModelUnavailable):
        return exc.code != "queue_full"
    return isinstance(exc, (ModelTimeout, StreamBroken))
