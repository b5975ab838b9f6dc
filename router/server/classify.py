"""`/v1/classify`: text and labels in, probabilities out."""

from __future__ import annotations

from functools import partial

import msgspec
from starlette.types import ASGIApp

from ..classification.request import parse
from ..gateway import Gateway
from .http import Incoming, header_safe, json_response
from .serve import unless_gone


async def classify(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Label one text, or several: then the results are in `results`."""
    fields = parse(await incoming.json())
    given = {key: value for key, value in msgspec.structs.asdict(fields).items() if value is not None}
    may = partial(incoming.access.allows, gateway)
    work = gateway.classify(
        tenant=incoming.tenant_of(fields.metadata),
        headers=incoming.hints,
        admitted=partial(incoming.access.admitted, gateway),
        **{"model": gateway.classifying_model(fields.labels, may=may), **given},
    )
    found = await unless_gone(incoming.receive, work, incoming.drain, incoming.client)
    results = [result for result, _ in found]
    headers = header_safe(found[0][1].headers())
    if isinstance(fields.text, str):
        return json_response({"object": "classification", **results[0]}, headers=headers)
    return json_response({"object": "list", "results": results}, headers=headers)
