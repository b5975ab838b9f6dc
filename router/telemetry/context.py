"""What the gateway needs of tracing, whether it is on or not. Nothing here imports OpenTelemetry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from smallfirst.policies import Attempt

from ..ledger import Entry
from ..wire import ChatRequest

# W3C trace context: version, trace id, parent id, flags, and what later versions than 00 may have after them.
_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?"
)


class Trace(Protocol):
    """One request's trace."""

    @property
    def trace_id(self) -> str | None:
        """In hex, 32 digits; None where nothing is traced."""
        ...

    def asking(self, request: ChatRequest, attempt: Attempt) -> ChatRequest:
        """Begin an attempt; returns the request with the attempt as the parent of what the model's server does."""
        ...

    def beside(self, request: ChatRequest) -> ChatRequest:
        """Return a request of our own, that belongs to this one, with this one as its parent."""
        ...

    def finish(self, entry: Entry) -> None:
        """End the request and its attempts, with what became of them."""
        ...


class Telemetry(Protocol):
    """Where traces and their metrics go."""

    def start(self) -> None:
        """Begin to export. May be called more than once."""
        ...

    def begin(self, request: ChatRequest) -> Trace:
        """Begin a request's trace, as a part of the caller's where it sent one."""
        ...

    def observe(self, entry: Entry) -> None:
        """Count what a finished request took."""
        ...

    def close(self) -> None:
        """Send what is left, and stop. Blocks; `start` begins anew."""
        ...


def trace_id_of(headers: Mapping[str, str]) -> str | None:
    """Return the trace id of a `traceparent` header, in hex; None where there is none, or it is not valid."""
    given = headers.get("traceparent")
    found = _TRACEPARENT.fullmatch(given.strip()) if given else None
    if found is None or not found["trace"].strip("0") or not found["parent"].strip("0"):
        return None
    if found["version"] == "00" and found["more"]:
        return None
    return found["trace"]
