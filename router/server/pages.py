"""Everything but completions: models, health, metrics."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp

from ..gateway import Gateway
from ..status import readiness
from .http import Incoming, json_response


async def list_models(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """List every name that a client may put into `model`."""
    names = gateway.routing.model_names
    data = [_model(gateway, name) for name in names]
    pages = {"has_more": False, "first_id": names[0], "last_id": names[-1]}
    return json_response({"object": "list", "data": data, **pages})


async def get_model(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return one of those names; it may have a slash in it."""
    name = incoming.path_params["model"]
    gateway.routing.target(name)
    return json_response(_model(gateway, name))


def _model(gateway: Gateway, name: str) -> dict[str, Any]:
    """Return a model as OpenAI's clients read it, and with what Anthropic's look for."""
    owner = next((model.tier for model in gateway.settings.models if model.name == name), "smallfirst")
    openai = {"id": name, "object": "model", "created": 0, "owned_by": owner}
    return {**openai, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


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
