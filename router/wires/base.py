"""What every wire looks like, and what they share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from ..answer import Answer, Receipt
from ..errors import InvalidRequest, RequestError
from ..wire import ChatRequest, Usage, invalid_field

S = TypeVar("S")

_encode = msgspec.json.Encoder().encode

# A model that counts no tokens, and whose answer came from a cache that has no count either.
UNKNOWN_USAGE = Usage(estimated=True)


class Events(Protocol):
    """Translates one stream: `chat.completion.chunk` objects (JSON bytes) to this wire's server-sent events (bytes)."""

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk; returns the events that it completes, perhaps none.

        Raises:
            StreamBroken: It is no such chunk.
        """
        ...

    async def settle(self, usage: Usage) -> None:
        """Do what must be done before the answer is said to be whole.

        Raises:
            StreamBroken: The answer is not whole.
        """
        ...

    def end(self, usage: Usage, receipt: Receipt | None = None) -> bytes:
        """Return the events that complete the answer.

        Args:
            usage: The answer's tokens.
            receipt: The answer's, with what it cost; None leaves it out.

        Raises:
            StreamBroken: The answer is not whole.
        """
        ...

    def error(self, exc: RequestError) -> bytes:
        """Return the events that say that the answer will not be completed."""
        ...


class Call(Protocol):
    """A request in one wire: what the gateway shall be asked, and how the answer is put."""

    @property
    def request(self) -> ChatRequest:
        """What the gateway is asked."""
        ...

    def reply(self, answer: Answer) -> dict[str, Any]:
        """Return a whole answer in this wire's form.

        Raises:
            UpstreamError: The answer cannot be put into it.
        """
        ...

    async def settle(self, answer: Answer, reply: dict[str, Any]) -> None:
        """Do what must be done before a whole answer is sent; it may change `reply`, which `reply()` returned."""
        ...

    def events(self, receipt: Receipt, usage: Usage) -> Events:
        """Return what translates a streamed answer.

        Args:
            receipt: The stream's, at its start.
            usage: The prompt's tokens, estimated.
        """
        ...


class NothingToSettle:
    """For wires that keep nothing."""

    __slots__ = ()

    async def settle(self, *_: object) -> None:
        """Do nothing."""


def receipt_field(receipt: Receipt | None) -> dict[str, Any]:
    """Return the field of a stream's last event that says who answered, why and for how much, as the headers of an
    answer in one piece do: when a stream's headers are sent, its cost is not known yet."""
    return {} if receipt is None else {"smallfirst": msgspec.structs.asdict(receipt)}


def typed(body: dict[str, Any], fields: type[S]) -> S:
    """Return a body's typed view.

    Raises:
        InvalidRequest: A field is missing or has the wrong type; the message names it.
    """
    try:
        return msgspec.convert(body, fields)
    except msgspec.ValidationError as exc:
        raise invalid_field(str(exc)) from exc


def refuse(path: str, why: str, *, code: str = "unsupported_value") -> InvalidRequest:
    """Return the error for a field that this wire cannot translate."""
    return InvalidRequest(f"Invalid value for '{path}': {why}.", param=path, code=code)


def refuse_several(body: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Refuse what only chat completions have: it would go upstream, and this wire has no room for what it leads to.

    Args:
        body: The request's.
        fields: Fields of chat completions -> why not, or what to use.

    Raises:
        InvalidRequest: It asks for several answers, or has one of the fields.
    """
    if body.get("n") not in (None, 1):
        raise refuse("n", "one answer is given here; expected 1")
    for name, why in fields.items():
        if body.get(name) is not None:
            raise refuse(name, why, code="unsupported_parameter")


def renamed(error: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the body of an error with fields under the names that a wire has for them.

    Args:
        error: In OpenAI's shape.
        names: Names of chat completions -> the wire's; what begins with one of them is renamed as well.
    """
    inner = dict(error["error"])
    param = inner.get("param")
    for old, new in names.items():
        if isinstance(param, str) and re.match(rf"{re.escape(old)}(?![\w])", param):
            inner["param"] = new + param[len(old) :]
            inner["message"] = inner["message"].replace(f"'{param}'", f"'{inner['param']}'")
            break
    return {**error, "error": inner}


def without(body: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Return the fields of a body that the wire has no name for: they go upstream as they came."""
    return {key: value for key, value in body.items() if key not in names}


def event(payload: dict[str, Any]) -> bytes:
    """Return a server-sent event that is named after the payload's `type`."""
    name: str = payload["type"]
    return b"event: " + name.encode() + b"\ndata: " + _encode(payload) + b"\n\n"


def openai_error(exc: RequestError) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    return exc.body()
