"""`/v1/embeddings`, by local models that are configured for it."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..deadline import deadline_of, ends_by
from ..embeddings import EmbeddingFields, parse, reply_body
from ..gateway import Gateway
from .http import Incoming, json_response
from .serve import unless_gone


async def embeddings(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return a vector for each text."""
    fields = parse(await incoming.body())
    deadline = deadline_of(incoming.hints)
    if incoming.access.key is None:
        work = _embedded(gateway, fields, deadline)
        vectors, tokens = await unless_gone(incoming.receive, work, incoming.drain, incoming.client)
    else:
        vectors, tokens = await _limited(gateway, incoming, fields, deadline)
    return json_response(reply_body(fields, fields.model, vectors, tokens))


async def _limited(
    gateway: Gateway, incoming: Incoming, fields: EmbeddingFields, deadline: float | None
) -> tuple[list[list[float]], int]:
    """Embed within a key's limits: tokens are estimated, then settled. Embeddings cost nothing and are in no ledger."""
    incoming.access.target(gateway, fields.model)
    estimate = sum(gateway.routing.count_tokens(text) for text in fields.texts)
    grant = await incoming.access.count(gateway, tokens=estimate)
    tokens = 0
    try:
        work = _embedded(gateway, fields, deadline)
        vectors, tokens = await unless_gone(incoming.receive, work, incoming.drain, incoming.client)
    finally:
        if grant is not None:
            grant.used(tokens)
    return vectors, tokens


async def _embedded(
    gateway: Gateway, fields: EmbeddingFields, deadline: float | None
) -> tuple[list[list[float]], int]:
    async with ends_by(deadline):
        return await gateway.embed(fields.model, fields.texts)
