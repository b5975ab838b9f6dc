"""`/v1/moderations`: passed through to the first cloud model's server."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..errors import CannotServe, ModelNotFound
from ..gateway import Gateway
from ..models.cloud import CloudModel
from ..wire import decode_object
from .http import Incoming, json_response
from .serve import unless_gone


async def moderations(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return what the cloud says of a text. It is no model's answer: nothing is routed, cached or priced."""
    content = await incoming.body()
    metadata = decode_object(content).get("metadata")
    asked = {
        gateway.settings.policy_named(gateway.settings.policy).privacy,
        incoming.hints.get("x-smallfirst-privacy", "").strip().lower() or "any",
        metadata.get("privacy", "any") if isinstance(metadata, dict) else "any",
    }
    # Anything but a clear "any" keeps the text in the house.
    if asked != {"any"}:
        raise CannotServe(
            "Moderation would send the text to a cloud, and privacy forbids that.",
            param="x-smallfirst-privacy",
            code="privacy_local_only",
        )
    model = _first_cloud(gateway)
    return json_response(
        await unless_gone(incoming.receive, model.forward("/moderations", content, incoming.hints))
    )


def _first_cloud(gateway: Gateway) -> CloudModel:
    for spec in gateway.settings.models:
        model = gateway.models.get(spec.name)
        if spec.tier == "cloud" and isinstance(model, CloudModel):
            return model
    raise ModelNotFound("Moderation needs a cloud model, and none is configured.", code="no_cloud_model")
