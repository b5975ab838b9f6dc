"""Everything but completions: models, health, metrics."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp

from ..gateway import Gateway
from ..settings import ClassifierSettings
from ..status import readiness
from .family import Family
from .http import Incoming, json_response


async def list_models(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """List every name that a client may put into `model`."""
    names = [name for name in gateway.routing.model_names if incoming.access.allows(gateway, name)]
    data = [_model(gateway, name) for name in names]
    pages = {"has_more": False, "first_id": names[0], "last_id": names[-1]}
    return json_response({"object": "list", "data": data, **pages})


async def get_model(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return one of those names; it may have a slash in it."""
    name = incoming.path_params["model"]
    incoming.access.target(gateway, name)
    return json_response(_model(gateway, name))


def _model(gateway: Gateway, name: str) -> dict[str, Any]:
    """Return a model as OpenAI's clients read it, with what Anthropic's look for, its context and its tier.

    Under `auto` the context is the longest of the models that may be asked, and there is no tier.
    """
    target = gateway.routing.target(name)
    models = [model for model in gateway.settings.models if target.pinned in (None, model.name)]
    tier = models[0].tier if target.pinned is not None else None
    allowed = [m for m in models if tier is not None or target.policy.privacy != "local" or m.tier == "local"]
    # A classifier answers with a label: it takes texts of any length, and no conversations.
    talking = [model for model in allowed if not isinstance(model, ClassifierSettings)] or allowed
    context = max((model.context_tokens for model in talking), default=0)
    openai = {"id": name, "object": "model", "created": 0, "owned_by": tier or "smallfirst"}
    anthropic = {"type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {**openai, **anthropic, "max_input_tokens": context, "context_window": context, "tier": tier}


async def health(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Say that the process lives."""
    return json_response({"status": "ok"})


async def ready(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Say whether requests can be served (200), or models still load or the server is about to end (503), and what is
    not as it should be.
    """
    report = readiness(gateway)
    if incoming.drain.begun:
        report["status"] = "draining"
    return json_response(report, status=503 if report["status"] in ("loading", "draining") else 200)


async def metrics(family: Family | None, gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return the metrics in Prometheus's text format."""
    own = gateway.metrics
    text = own.render() if family is None else await family.metrics(own)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
