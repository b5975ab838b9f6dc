"""Everything but completions: models, health, metrics."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp

from ..gateway import Gateway
from ..status import readiness
from .http import Incoming, json_response


async def list_models(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """List every name that a client may put into `model`."""
    configured = {model.name: model.tier for model in gateway.settings.models}
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": configured.get(name, "smallfirst")}
        for name in gateway.routing.model_names
    ]
    return json_response({"object": "list", "data": data})


async def health(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Say that the process lives."""
    return json_response({"status": "ok"})


async def ready(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Say whether requests can be served (200) or models still load (503), and what is not as it should be."""
    report = readiness(gateway)
    return json_response(report, status=503 if report["status"] == "loading" else 200)


async def metrics(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return the metrics in Prometheus's text format."""
    return Response(gateway.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
