"""The OpenAPI 3.1 document, made from the table of operations and from the types that bodies are read as."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.types import ASGIApp

from ..gateway import Gateway
from ..wires.base import openai_error
from .http import ErrorBody, Incoming
from .schemas import SCHEMAS, TEXT, Schema

_REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")

GatewayHandler = Callable[[Gateway, Incoming], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        method: Of HTTP.
        path: As Starlette has it; `{name:path}` may hold slashes.
        handler: What it does.
        summary: In a few words.
        answers: The name of its answer's schema; None for plain text.
        body: The type that its body is read as; `dict` for one that is passed through.
        example: Of a body.
        streams: Whether it may answer with server-sent events.
        public: Whether it asks for no key.
        admin_key: Whether it asks for the admin key instead.
        admin: Whether it concerns all tenants, so that a key must be one of an administrator.
        query: Names of its query's parameters, all optional.
        error_body: The wire's error shape.
        error: The name of that shape's schema.
    """

    method: str
    path: str
    handler: GatewayHandler
    summary: str
    answers: str | None
    body: type | None = None
    example: dict[str, Any] | None = None
    streams: bool = False
    public: bool = False
    admin_key: bool = False
    admin: bool = False
    query: tuple[str, ...] = ()
    error_body: ErrorBody = openai_error
    error: str = "Error"


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the document as a JSON object."""
    types = tuple({operation.body for operation in operations} - {None, dict})
    _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    # An item without a type is a message.
    message = components["MessageItem"]
    message["required"] = [name for name in message["required"] if name != "type"]
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smallfirst",
            "version": version("smallfirst"),
            "description": "A gateway that asks the small model first. Bodies may have more fields than are listed: "
            "they are passed on to the model that answers.",
        },
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, **{name: components[name] for name in sorted(components)}},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        # A gateway without keys in its settings asks for none.
        "security": [{"bearer": []}, {"key": []}, {}],
    }


def _described(operation: Operation) -> dict[str, Any]:
    names = _PARAMETER.findall(operation.path)
    described: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}_{re.sub(r'[^a-z]+', '_', operation.path).strip('_')}",
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in names
    ] + [{"name": name, "in": "query", "schema": {"type": "string"}} for name in operation.query]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        named = "Object" if operation.body is dict else operation.body.__name__
        content = _json(_reference(named))
        if operation.example is not None:
            content["application/json"]["example"] = operation.example
        described["requestBody"] = {"required": True, "content": content}
    if operation.public:
        described["security"] = []
    if operation.admin_key:
        described["security"] = [{"bearer": []}, {"key": []}]
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    content = (
        {"text/plain": {"schema": TEXT}}
        if operation.answers is None
        else _json(_reference(operation.answers))
    )
    if operation.streams:
        content["text/event-stream"] = {"schema": _reference("Event")}
    error = {"description": "What was wrong", "content": _json(_reference(operation.error))}
    responses = {"200": {"description": "The answer", "content": content}}
    # A probe's 503 has the same report in it.
    failed = responses["200"] | {"description": "Not ready"} if operation.public else error
    return responses | {"4XX": error, "5XX": failed}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> Schema:
    return {"$ref": _REFERENCE.format(name=name)}
