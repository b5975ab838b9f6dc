"""The one shape of a model: local, cloud or anything that wraps one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..wire import ChatRequest, Reply, ReplyStream


@runtime_checkable
class Embedder(Protocol):
    """Something that turns texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector of length 1 for each text, and how many tokens they have together."""
        ...


class Model(Protocol):
    """Something that answers chat requests.

    `complete` and `stream` raise `ModelError`s (see `errors`). A call is cancelled like any coroutine; a stream by its
    `aclose()`. Either frees the model's resources before it returns.
    """

    @property
    def name(self) -> str:
        """The model's name as configured; replies carry it as `model`."""
        ...

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer in one piece."""
        ...

    async def stream(self, request: ChatRequest) -> ReplyStream:
        """Start an answer. Returns once the model has accepted; errors before the first chunk are raised here."""
        ...

    async def start(self) -> None:
        """Load or connect ahead of the first request. May be called more than once."""
        ...

    async def aclose(self) -> None:
        """Free everything. Calls in flight fail with `ModelUnavailable`."""
        ...
