"""What the gateway gives back: the model's answer, and a receipt that says who answered, why and for how much."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from .wire import Usage

Route = Literal["local", "cloud", "cache"]


class Receipt(msgspec.Struct, frozen=True):
    """Who answered, why, and for how much.

    Attributes:
        request_id: Also the ledger's.
        route: `local`, `cloud` or `cache`.
        model: The model that answered (for a cache hit: that answered then).
        reason: One sentence, free of prompt text.
        score: P(success) that the router gave the model, or None where nothing was scored.
        cache: `miss`, `exact`, `semantic`, `bypass` or `off`.
        cost_usd: None where the model's price is unknown, or (of a stream) not known yet.
        saved_usd: Against the baseline cloud model; None where either cost is unknown.
        overhead_ms: Time that the gateway added before the answer (of a stream: before its first chunk).
        attempts: How many models were asked.
        hedged: Whether a second model was asked as the first had not begun to answer in time.
    """

    request_id: str
    route: Route
    model: str
    reason: str
    score: float | None
    cache: str
    cost_usd: float | None
    saved_usd: float | None
    overhead_ms: float
    attempts: int
    hedged: bool = False

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Receipt:
        """Read what `headers()` wrote; `headers` must look names up without regard to case."""

        def number(name: str) -> float | None:
            value = headers.get(f"x-smallfirst-{name}")
            return None if value is None else float(value)

        def text(name: str) -> str:
            return headers.get(f"x-smallfirst-{name}", "")

        route = text("route")
        return cls(
            request_id=text("request-id"),
            route=route if route in ("local", "cache") else "cloud",  # type: ignore[arg-type]
            model=text("model"),
            reason=text("reason"),
            score=number("score"),
            cache=text("cache"),
            cost_usd=number("cost-usd"),
            saved_usd=number("saved-usd"),
            overhead_ms=number("overhead-ms") or 0.0,
            attempts=int(number("attempts") or 0),
            hedged=text("hedged") == "true",
        )

    def headers(self) -> dict[str, str]:
        """Return the `x-smallfirst-*` response headers; what is unknown is left out."""
        values: dict[str, str | None] = {
            "x-smallfirst-request-id": self.request_id,
            "x-smallfirst-route": self.route,
            "x-smallfirst-model": self.model,
            "x-smallfirst-reason": self.reason,
            "x-smallfirst-score": None if self.score is None else f"{self.score:.4f}",
            "x-smallfirst-cache": self.cache,
            "x-smallfirst-cost-usd": _usd(self.cost_usd),
            "x-smallfirst-saved-usd": _usd(self.saved_usd),
            "x-smallfirst-overhead-ms": f"{self.overhead_ms:.3f}",
            "x-smallfirst-attempts": str(self.attempts),
            "x-smallfirst-hedged": "true" if self.hedged else None,
        }
        return {name: value for name, value in values.items() if value is not None}


def _usd(value: float | None) -> str | None:
    return None if value is None else f"{value:.9f}".rstrip("0").rstrip(".")


class Answer(msgspec.Struct, frozen=True):
    """A whole answer.

    Attributes:
        body: OpenAI's `chat.completion` object.
        receipt: Who answered, why, and for how much.
        usage: The answer's tokens, estimated where the model counted none; None where nobody knows.
    """

    body: dict[str, Any]
    receipt: Receipt
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """The first choice's text; empty where it answered with tool calls."""
        return self.message.get("content") or ""

    @property
    def message(self) -> dict[str, Any]:
        """The first choice's message."""
        message: dict[str, Any] = self.body["choices"][0]["message"]
        return message


class ChunkSource(Protocol):
    """What an `AnswerStream` reads from: chunks, a receipt that grows, and a way to stop."""

    @property
    def receipt(self) -> Receipt:
        """The receipt as far as things are known."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The answer's tokens as far as they are known."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it is known that the next chunk is there already."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Stop the model."""
        ...


class AnswerStream:
    """A streamed answer: iterate over `chat.completion.chunk` objects as JSON bytes.

    Close it (`aclose`, or `async with`) if you stop reading early: that stops the model.
    """

    def __init__(self, source: ChunkSource) -> None:
        self._source = source

    @property
    def receipt(self) -> Receipt:
        """Who answers and why, from the start; once the stream has ended, for how much as well."""
        return self._source.receipt

    @property
    def usage(self) -> Usage | None:
        """The answer's tokens once the stream has ended, before that an estimate of the prompt's; None: unknown."""
        return self._source.usage

    @property
    def ready(self) -> bool:
        """Whether it is known that the next chunk is there already: who writes to a connection may wait for it."""
        return self._source.ready

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._source)

    async def __aenter__(self) -> AnswerStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the model and write the ledger entry; safe to call twice."""
        await self._source.aclose()
