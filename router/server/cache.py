"""`DELETE /v1/cache`: forget answers."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..gateway import Gateway
from .family import Family
from .http import Incoming, json_response


async def forget(family: Family | None, gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Forget the answers of the caller's tenant, or those of `?namespace=`; where each of several processes has a cache
    of its own, in all of them.

    Without keys, `?tenant=` says whose.
    """
    # A misspelt namespace would mean all of them.
    incoming.only_parameters(("namespace", "tenant"))
    tenant = incoming.tenant_of({"tenant": incoming.query.get("tenant")})
    namespace = incoming.query.get("namespace")
    if family is not None and gateway.settings.cache.url is None:
        deleted = await family.forget(tenant, namespace)
    else:
        deleted = await gateway.forget(tenant=tenant, namespace=namespace)
    body = {"object": "cache.deleted", "tenant": tenant, "namespace": namespace, "deleted": deleted}
    return json_response(body)
