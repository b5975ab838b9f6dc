"""`/v1/moderations`: passed through to the first cloud model's server."""

from __future__ import annotations

import msgspec
from starlette.types import ASGIApp

from ..errors import CannotServe, ModelNotFound
from ..gateway import Gateway
from ..models.cloud import CloudModel
from ..wire import METADATA_HINTS, decode_object
from ..wires.base import without
from .http import Incoming, json_response
from .serve import unless_gone

_METADATA = frozenset({"metadata"})


async def moderations(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return what the cloud says of a text. It is no model's answer: nothing is routed, cached or priced."""
    content = await incoming.body()
    body = decode_object(content)
    metadata = body.get("metadata")
    hinted = metadata.get("privacy", "any") if isinstance(metadata, dict) else "any"
    asked = {
        gateway.settings.policy_named(gateway.settings.policy).privacy,
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
    model = _first_cloud(gateway)
    if isinstance(metadata, dict):
        own = {key: value for key, value in metadata.items() if key not in METADATA_HINTS}
        content = msgspec.json.encode(body | {"metadata": own} if own else without(body, _METADATA))
    return json_response(
        await unless_gone(incoming.receive, model.forward("/moderations", content, incoming.hints))
    )


def _first_cloud(gateway: Gateway) -> CloudModel:
    for spec in gateway.settings.models:
        model = gateway.models.get(spec.name)
        if spec.tier == "cloud" and isinstance(model, CloudModel):
            return model
    raise ModelNotFound("Moderation needs a cloud model, and none is configured.", code="no_cloud_model")
