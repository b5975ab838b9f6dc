"""`/v1/feedback`: what an answer was worth."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..feedback import parse
from ..gateway import Gateway
from .http import Incoming, json_response


async def feedback(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Take the score of one request of the caller's own."""
    fields = parse(await incoming.json())
    tenant = incoming.tenant_of(fields.metadata)
    score = await gateway.feedback(fields.request_id, fields.score, tenant=tenant, comment=fields.comment)
    return json_response({"object": "feedback", "request_id": fields.request_id, "score": score})
