"""What a worker and its parent tell each other, beside what they are called by (see `link`)."""

from __future__ import annotations

import msgspec

from ..access.limits import Demand, Verdict
from .source import Given


class Setup(msgspec.Struct, frozen=True):
    """What a worker begins with.

    Attributes:
        first: The settings that the parent began with: some of theirs hold until a restart.
        given: The newest.
        secret: What all workers know.
        limits, responses: Whether the parent counts limits and keeps responses.
    """

    first: Given
    given: Given
    secret: bytes
    limits: bool
    responses: bool


class Seed(msgspec.Struct, frozen=True):
    """What a key had used before: (budget, window, amount)."""

    key_id: str
    used: tuple[tuple[str, str, int], ...]


class Settled(msgspec.Struct, frozen=True):
    """What a request took; see `access.limits.Settlement`."""

    demand: Demand
    verdict: Verdict
    tokens: int | None
    nano_usd: int | None


class Kept(msgspec.Struct, frozen=True):
    """A response to keep.

    Attributes:
        stored: As JSON, which has room for any integer, and MessagePack has not.
    """

    tenant: str
    response_id: str
    stored: bytes


class Wanted(msgspec.Struct, frozen=True):
    """A response that is asked for, or is to be forgotten."""

    tenant: str
    response_id: str


class Forgotten(msgspec.Struct, frozen=True):
    """Whose cached answers are to be forgotten; None as `namespace`: all of the tenant's."""

    tenant: str
    namespace: str | None
