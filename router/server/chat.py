"""`/v1/chat/completions` and `/v1/route`."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import ASGIApp

from ..gateway import Gateway
from ..wires.chat import ChatCall
from .http import Incoming, json_response
from .serve import serve


async def chat_completions(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Answer a chat completion, streamed or not."""
    return await serve(gateway, incoming, ChatCall(await incoming.chat_request()))


async def route(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return the decision for a chat completion body; nothing is run."""
    decision = gateway.route(incoming.access.allowed(gateway, await incoming.chat_request()))
    return json_response(decision_body(decision))


def decision_body(decision: Any) -> dict[str, Any]:
    """Return a decision as JSON: the model, the plan, why, and the scores."""
    first = decision.attempts[0]
    return {
        "model": first.model,
        "route": first.tier,
        "mode": decision.mode,
        "reason": decision.reason,
        "reason_code": decision.code,
        "policy": decision.policy,
        "attempts": [msgspec.structs.asdict(attempt) for attempt in decision.attempts],
        "score": msgspec.structs.asdict(decision.score) if decision.score else None,
    }
