"""The ASGI application: which path does what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ..classification.request import ClassifyFields
from ..embeddings import EmbeddingFields
from ..errors import RequestError
from ..feedback import FeedbackFields
from ..gateway import Gateway
from ..routing import AUTO
from ..wire import ChatFields
from ..wires.base import openai_error
from ..wires.completions import CompletionFields
from ..wires.completions import error_body as completion_error
from ..wires.message_fields import CountFields, MessagesFields
from ..wires.messages import error_body as anthropic_error
from ..wires.response_fields import ResponseFields
from ..wires.response_store import ResponseStore
from ..wires.responses import error_body as response_error
from . import (
    cache,
    chat,
    classify,
    completions,
    embeddings,
    feedback,
    messages,
    moderations,
    pages,
    responses,
)
from .http import Endpoint, Incoming, error_response, json_response
from .openapi import Operation, document

_QUESTION = "What is the capital of France?"
_CHAT = {"model": AUTO, "messages": [{"role": "user", "content": _QUESTION}]}


def operations(store: ResponseStore) -> tuple[Operation, ...]:
    """Return everything that the proxy does; the OpenAPI document is made from it.

    Args:
        store: Where `/v1/responses` keeps its answers.
    """
    openai = (
        Operation(
            "POST",
            "/v1/chat/completions",
            chat.chat_completions,
            "Answer a conversation (OpenAI)",
            "ChatCompletion",
            ChatFields,
            streams=True,
            example=_CHAT,
        ),
        Operation(
            "POST",
            "/v1/completions",
            completions.completions,
            "Complete a text (OpenAI's older form)",
            "Completion",
            CompletionFields,
            streams=True,
            example={"model": AUTO, "prompt": _QUESTION},
            error_body=completion_error,
        ),
        Operation(
            "POST",
            "/v1/responses",
            partial(responses.create, store),
            "Answer a conversation (OpenAI's Responses)",
            "Response",
            ResponseFields,
            streams=True,
            example={"model": AUTO, "input": _QUESTION},
            error_body=response_error,
        ),
        Operation(
            "GET",
            "/v1/responses/{response_id}",
            partial(responses.get, store),
            "Return a response that was kept",
            "Response",
        ),
        Operation(
            "DELETE",
            "/v1/responses/{response_id}",
            partial(responses.delete, store),
            "Forget a response",
            "DeletedResponse",
        ),
        Operation(
            "POST",
            "/v1/embeddings",
            embeddings.embeddings,
            "Turn texts into vectors",
            "Embeddings",
            EmbeddingFields,
            example={"model": "small", "input": "A text."},
        ),
        Operation(
            "POST",
            "/v1/moderations",
            moderations.moderations,
            "Ask the first cloud model's server whether a text is harmful",
            "Object",
            dict,
            example={"input": "A text."},
        ),
        Operation("GET", "/v1/models", pages.list_models, "List the names that `model` may have", "Models"),
        Operation("GET", "/v1/models/{model:path}", pages.get_model, "Return one of those names", "Model"),
    )
    return (*openai, *_anthropic(), *_own(), *_public())


def _anthropic() -> tuple[Operation, ...]:
    error: dict[str, Any] = {"error_body": anthropic_error, "error": "AnthropicError"}
    return (
        Operation(
            "POST",
            "/v1/messages",
            messages.messages,
            "Answer a conversation (Anthropic)",
            "AnthropicMessage",
            MessagesFields,
            streams=True,
            example={**_CHAT, "max_tokens": 100},
            **error,
        ),
        Operation(
            "POST",
            "/v1/messages/count_tokens",
            messages.count_tokens,
            "Estimate a prompt's tokens",
            "TokenCount",
            CountFields,
            example=_CHAT,
            **error,
        ),
    )


def _own() -> tuple[Operation, ...]:
    return (
        Operation(
            "POST",
            "/v1/classify",
            classify.classify,
            "Label texts",
            "Classification",
            ClassifyFields,
            example={"text": "Where is my parcel?", "labels": ["order", "other"]},
        ),
        Operation(
            "POST",
            "/v1/feedback",
            feedback.feedback,
            "Say what an answer was worth",
            "Feedback",
            FeedbackFields,
            example={"request_id": "req_0123456789abcdef", "score": 1},
        ),
        Operation(
            "POST", "/v1/route", chat.route, "Decide, and run nothing", "Decision", ChatFields, example=_CHAT
        ),
        Operation(
            "DELETE",
            "/v1/cache",
            cache.forget,
            "Forget the tenant's cached answers, or those of one namespace",
            "DeletedCache",
            query=("namespace", "tenant"),
        ),
        Operation("GET", "/metrics", pages.metrics, "Metrics for Prometheus", None),
    )


def _public() -> tuple[Operation, ...]:
    """Return what asks for no key: probes tell nothing of requests."""
    return (
        Operation("GET", "/health", pages.health, "Say that the process lives", "Health", public=True),
        Operation(
            "GET", "/health/ready", pages.ready, "Say whether requests can be served", "Health", public=True
        ),
    )


def make_app(gateway: Gateway) -> ASGIApp:
    """Return the proxy over a gateway. Its lifespan loads the models and closes the gateway at the end."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        gateway.start()
        # In the background: the server answers probes at once, and requests wait for the model they need.
        loading = asyncio.create_task(gateway.load_models())
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await gateway.aclose()

    settings = gateway.settings
    table = operations(ResponseStore(settings.responses.max_bytes, settings.responses.ttl))
    described = document(table)

    async def openapi(_: Gateway, incoming: Incoming) -> ASGIApp:
        return json_response(described)

    by_path: dict[str, dict[str, Endpoint]] = {}
    for operation in (
        *table,
        Operation("GET", "/openapi.json", openapi, "This document", "Object", public=True),
    ):
        endpoint = Endpoint(
            partial(operation.handler, gateway),
            settings,
            public=operation.public,
            error_body=operation.error_body,
        )
        by_path.setdefault(operation.path, {})[operation.method] = endpoint
    routes = [Route(path, _Methods(endpoints)) for path, endpoints in by_path.items()]
    return Router(routes, redirect_slashes=False, default=_not_found, lifespan=lifespan)


class _Methods:
    """One path's endpoints by method; another method gets 405 in the wire's error shape."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        allowed = ", ".join(self._endpoints)
        error_body = next(iter(self._endpoints.values())).error_body
        response = error_response(_HttpError(405, f"Method not allowed. Allowed: {allowed}."), error_body)
        response.headers["allow"] = allowed
        await response(scope, receive, send)


class _HttpError(RequestError):
    type = "invalid_request_error"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    error_body = anthropic_error if scope["path"].startswith("/v1/messages/") else openai_error
    exc = _HttpError(404, f"There is no {scope['method']} {scope['path'][:100]}.")
    response = error_response(exc, error_body)
    await response(scope, receive, send)
