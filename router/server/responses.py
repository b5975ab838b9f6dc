"""`/v1/responses`: create, get and delete."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..gateway import Gateway
from ..settings import Settings
from ..wires.response_redis import RedisResponses
from ..wires.response_store import MemoryResponses, ResponseStore
from ..wires.responses import parse
from .http import Incoming, json_response
from .serve import serve


def open_store(settings: Settings) -> ResponseStore:
    """Return where responses are kept: in the cache's Redis, for all replicas, or else in this process."""
    own, cache = settings.responses, settings.cache
    if cache.url is None:
        return MemoryResponses(own.max_bytes, own.ttl)
    return RedisResponses(cache.url.get_secret_value(), own.max_bytes, own.ttl, timeout=cache.timeout)


async def create(store: ResponseStore, gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Answer, streamed or not, and keep the answer."""
    body = await incoming.json()
    call = await parse(
        body,
        headers=incoming.hints,
        tenant_of=incoming.tenant_of,
        store=store,
        is_private=lambda model: incoming.access.target(gateway, model).policy.privacy == "local",
    )
    return await serve(gateway, incoming, call)


async def get(store: ResponseStore, gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return a response that was kept."""
    stored = await store.get(incoming.tenant_of(None), incoming.path_params["response_id"])
    return json_response(stored.body)


async def delete(store: ResponseStore, gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Forget a response."""
    response_id = incoming.path_params["response_id"]
    await store.delete(incoming.tenant_of(None), response_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})
