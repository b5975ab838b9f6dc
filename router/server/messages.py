"""`/v1/messages` and `/v1/messages/count_tokens`: Anthropic's wire."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..gateway import Gateway
from ..wires.messages import parse, parse_count
from .http import Incoming, json_response
from .serve import serve


async def messages(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Answer a message, streamed or not."""
    body = await incoming.json()
    call = parse(body, headers=incoming.hints, tenant=incoming.tenant_of(body.get("metadata")))
    return await serve(gateway, incoming, call)


async def count_tokens(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return the gateway's estimate of a prompt's tokens; nothing is run."""
    request = parse_count(await incoming.json())
    incoming.access.target(gateway, request.fields.model)
    return json_response({"input_tokens": gateway.count_tokens(request)})
