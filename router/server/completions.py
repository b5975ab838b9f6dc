"""`/v1/completions`: text completions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from msgspec.structs import replace
from starlette.types import ASGIApp

from ..answer import Receipt
from ..gateway import Gateway
from ..wires.completions import parse, together
from .http import Incoming, header_safe, json_response
from .serve import serve, unless_gone


async def completions(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Complete a prompt, streamed or not, or several."""
    body = await incoming.json()
    calls = parse(body, headers=incoming.hints, tenant=incoming.tenant_of(body.get("metadata")))
    if len(calls) == 1:
        return await serve(gateway, incoming, calls[0])
    async with AsyncExitStack() as admitted:
        requests = [
            await admitted.enter_async_context(incoming.access.admitted(gateway, call.request))
            for call in calls
        ]
        answers = await unless_gone(
            incoming.receive, gateway.complete_all(requests), incoming.drain, incoming.client
        )
    replies = [call.reply(answer) for call, answer in zip(calls, answers, strict=True)]
    receipt = _in_all([answer.receipt for answer in answers])
    return json_response(together(replies), headers=header_safe(receipt.headers()))


def _in_all(receipts: Sequence[Receipt]) -> Receipt:
    """Return the first prompt's receipt with what all of them cost and saved."""
    costs = [receipt.cost_usd for receipt in receipts]
    saved = [receipt.saved_usd for receipt in receipts]
    return replace(
        receipts[0],
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
        saved_usd=None if None in saved else sum(each for each in saved if each is not None),
        attempts=sum(receipt.attempts for receipt in receipts),
    )
