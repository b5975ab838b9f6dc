"""What a request says about itself: who sent it, as which step of what, and what may be done with it."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from .errors import InvalidRequest
from .wire import ChatRequest

# Labels end up in the ledger and in reports; a client cannot make them grow without bound.
MAX_LABEL = 200
MAX_TAGS = 20


class Hints(msgspec.Struct, frozen=True):
    """The labels of one request.

    Attributes:
        session: Requests of one conversation share it.
        session_derived: Whether nobody named it: it is made of how the conversation begins.
        privacy: `local` where the data may not leave the house.
    """

    session: str
    agent: str | None = None
    step: str | None = None
    tags: tuple[str, ...] = ()
    privacy: Literal["any", "local"] = "any"
    session_derived: bool = False


def read_hints(request: ChatRequest) -> Hints:
    """Collect the hints from headers and body.

    Raises:
        InvalidRequest: The privacy header has an unknown value: guessing could leak.
    """
    metadata = request.fields.metadata
    named = _named_session(request)
    session, derived = named or _beginning(request), named is None
    if metadata is None:
        return Hints(session, privacy=_privacy(request), session_derived=derived)
    tags = [metadata.tags] if isinstance(metadata.tags, str) else metadata.tags or []
    return Hints(
        session,
        session_derived=derived,
        agent=_label(metadata.agent),
        step=_label(metadata.step),
        tags=tuple(_label(tag) or "" for tag in tags[:MAX_TAGS]),
        privacy=_privacy(request),
    )


def _label(value: str | int | None) -> str | None:
    return None if value is None else str(value)[:MAX_LABEL]


def _privacy(request: ChatRequest) -> Literal["any", "local"]:
    header = request.headers.get("x-smallfirst-privacy", "").strip().lower()
    if header not in ("", "any", "local"):
        raise InvalidRequest(
            "Invalid value for header 'x-smallfirst-privacy': expected 'local' or 'any'.",
            param="x-smallfirst-privacy",
        )
    metadata = request.fields.metadata
    # Either of the two is enough: the stricter one wins.
    asked = header == "local" or (metadata is not None and metadata.privacy == "local")
    return "local" if asked else "any"


def _named_session(request: ChatRequest) -> str | None:
    """The first that is given of the fields that name a session."""
    fields = request.fields
    given = (
        request.headers.get("x-session-id")
        or (fields.metadata.session if fields.metadata else None)
        or fields.prompt_cache_key
        or fields.previous_response_id
        or fields.user
    )
    return given[:MAX_LABEL] if given else None


def _beginning(request: ChatRequest) -> str:
    """Hash the messages up to the first one of the user: they stay the same while a conversation grows."""
    digest = hashlib.blake2b(request.tenant.encode(), digest_size=12)
    for message in request.fields.messages:
        digest.update(f"\0{message.role}\0{message.text}".encode(errors="surrogatepass"))
        if message.role == "user":
            break
    return f"auto-{digest.hexdigest()}"
