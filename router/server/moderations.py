"""`/v1/moderations`: passed through to the first cloud model's server."""

from __future__ import annotations

import msgspec
from starlette.types import ASGIApp

from ..errors import CannotServe, ModelNotFound
from ..gateway import Gateway
from ..models.cloud import CloudModel
from ..routing import AUTO
from ..wire import METADATA_HINTS, decode_object
from ..wires.base import without
from .content import check_content
from .http import Incoming, json_response
from .serve import unless_gone

_METADATA = frozenset({"metadata"})


async def moderations(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return what the cloud says of a text. It is no model's answer: nothing is routed, cached or priced."""
    content = await incoming.body()
    body = decode_object(content)
    check_content(body, len(content), incoming.limits)
    metadata = body.get("metadata")
    hinted = metadata.get("privacy", "any") if isinstance(metadata, dict) else "any"
    asked = {
        incoming.access.target(gateway, AUTO).policy.privacy,
        incoming.hints.get("x-smallfirst-privacy", "").strip().lower() or "any",
        hinted if isinstance(hinted, str) else "local",
    }
    # Anything but a clear "any" keeps the text in the house.
    if asked != {"any"}:
        raise CannotServe(
            "Moderation would send the text to a cloud, and privacy forbids that.",
            param="x-smallfirst-privacy",
            code="privacy_local_only",
        )
    policy = incoming.access.target(gateway, AUTO).policy
    screening = gateway.screener.screening(body, policy)
    if screening.keeps_local:
        raise CannotServe(
            f"The text holds {' and '.join(screening.kinds)}, which '{policy.name}' keeps in the house.",
            param="input",
            code="privacy_local_only",
        )
    name, model = _first_cloud(gateway)
    incoming.access.target(gateway, name)
    if isinstance(metadata, dict):
        own = {key: value for key, value in metadata.items() if key not in METADATA_HINTS}
        body = body | {"metadata": own} if own else without(body, _METADATA)
        content = msgspec.json.encode(body)
    if screening.redacts:
        # What comes back are marks and no words: nothing is to be restored.
        content = msgspec.json.encode(screening.replaced(body)[0])
    grant = await incoming.access.count(gateway)
    try:
        work = model.forward("/moderations", content, incoming.hints)
        reply = await unless_gone(incoming.receive, work, incoming.drain, incoming.client)
    finally:
        if grant is not None:
            grant.used(0)
    return json_response(reply)


def _first_cloud(gateway: Gateway) -> tuple[str, CloudModel]:
    for spec in gateway.settings.models:
        model = gateway.models.get(spec.name)
        if spec.tier == "cloud" and isinstance(model, CloudModel):
            return spec.name, model
    raise ModelNotFound("Moderation needs a cloud model, and none is configured.", code="no_cloud_model")
