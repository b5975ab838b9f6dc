"""When a local model has too much to do, whichever process counts it."""

from __future__ import annotations

from ...errors import ModelUnavailable


def queue_full(
    name: str, outstanding: int, *, parallel: int, max_queue: int, seconds: float
) -> ModelUnavailable | None:
    """Return what a job is refused with, or None where it may be begun or wait.

    Args:
        name: Of the model.
        outstanding: Jobs that have begun or wait.
        parallel: As many of them run at once.
        max_queue: As many of them may wait.
        seconds: That a job takes, about.
    """
    waiting = outstanding - parallel
    if waiting < max_queue:
        return None
    return ModelUnavailable(
        f"Model '{name}' is busy: {waiting} requests wait ('max_queue').",
        retry_after=max(1.0, round(waiting * seconds / parallel)),
        code="queue_full",
    )
