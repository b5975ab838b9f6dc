"""`/v1/embeddings`, by local models that are configured for it."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..embeddings import parse, reply_body
from ..gateway import Gateway
from .http import Incoming, json_response
from .serve import unless_gone


async def embeddings(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return a vector for each text."""
    fields = parse(await incoming.body())
    vectors, tokens = await unless_gone(incoming.receive, gateway.embed(fields.model, fields.texts))
    return json_response(reply_body(fields, fields.model, vectors, tokens))
