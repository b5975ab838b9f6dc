"""`DELETE /v1/cache`: forget answers."""

from __future__ import annotations

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp

from ..errors import InvalidRequest
from ..gateway import Gateway
from .http import Incoming, json_response


async def forget(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Forget the answers of the caller's tenant, or those of `?namespace=`.

    Without keys, `?tenant=` says whose.
    """
    query = incoming.query
    for name in query:
        if name not in ("namespace", "tenant"):
            # A misspelt namespace would mean all of them.
            raise InvalidRequest(f"Unknown query parameter '{name[:100]}'.", param=name[:100])
    tenant = incoming.tenant_of({"tenant": _only(query, "tenant")})
    namespace = _only(query, "namespace")
    deleted = await gateway.forget(tenant=tenant, namespace=namespace)
    body = {"object": "cache.deleted", "tenant": tenant, "namespace": namespace, "deleted": deleted}
    return json_response(body)


def _only(query: QueryParams, name: str) -> str | None:
    values = query.getlist(name)
    if len(values) > 1:
        raise InvalidRequest(f"The query parameter '{name}' is given twice.", param=name)
    return values[0] if values else None
