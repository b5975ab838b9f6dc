"""`/v1/responses`: create, get and delete."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..gateway import Gateway
from ..wires.response_store import ResponseStore
from ..wires.responses import parse
from .http import Incoming, json_response
from .serve import serve


async def create(store: ResponseStore, gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Answer, streamed or not, and keep the answer."""
    body = await incoming.body()
    call = parse(
        body,
        headers=incoming.hints,
        tenant_of=incoming.tenant_of,
        store=store,
        is_private=lambda model: gateway.routing.target(model).policy.privacy == "local",
    )
    return await serve(gateway, incoming, call)


async def get(store: ResponseStore, gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return a response that was kept."""
    stored = store.get(incoming.tenant_of(None), incoming.path_params["response_id"])
    return json_response(stored.body)


async def delete(store: ResponseStore, gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Forget a response."""
    response_id = incoming.path_params["response_id"]
    store.delete(incoming.tenant_of(None), response_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})
