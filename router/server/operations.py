"""Everything that the proxy does: which path does what. The OpenAPI document is made from this table."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..classification.request import ClassifyFields
from ..embeddings import EmbeddingFields
from ..feedback import FeedbackFields
from ..routing import AUTO
from ..wire import ChatFields
from ..wires.completions import CompletionFields
from ..wires.completions import error_body as completion_error
from ..wires.message_fields import CountFields, MessagesFields
from ..wires.messages import error_body as anthropic_error
from ..wires.response_fields import ResponseFields
from ..wires.response_store import ResponseStore
from ..wires.responses import error_body as response_error
from . import (
    admin,
    cache,
    chat,
    classify,
    completions,
    embeddings,
    feedback,
    messages,
    moderations,
    pages,
    report,
    responses,
)
from .family import Family
from .openapi import Operation
from .reload import Reload

_QUESTION = "What is the capital of France?"
_CHAT = {"model": AUTO, "messages": [{"role": "user", "content": _QUESTION}]}


def operations(
    store: ResponseStore, reload: Reload | None = None, family: Family | None = None
) -> tuple[Operation, ...]:
    """Return all operations.

    Args:
        store: Where `/v1/responses` keeps its answers.
        reload: Reads the settings again; None where they cannot be.
        family: Other processes that serve beside this one.
    """
    return (
        *_completions(),
        *_responses(store),
        *_models(),
        *_anthropic(),
        *_own(),
        *_records(family),
        *_admin(reload if family is None else family.reload),
        *_public(),
    )


def _completions() -> tuple[Operation, ...]:
    return (
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
    )


def _responses(store: ResponseStore) -> tuple[Operation, ...]:
    return (
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
    )


def _models() -> tuple[Operation, ...]:
    return (
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
    )


def _records(family: Family | None) -> tuple[Operation, ...]:
    return (
        Operation(
            "GET",
            "/v1/report",
            report.report,
            "Add up who used what, and what it cost",
            "Report",
            query=report.PARAMETERS,
        ),
        Operation(
            "DELETE",
            "/v1/cache",
            partial(cache.forget, family),
            "Forget the tenant's cached answers, or those of one namespace",
            "DeletedCache",
            query=("namespace", "tenant"),
        ),
        Operation(
            "GET", "/metrics", partial(pages.metrics, family), "Metrics for Prometheus", None, admin=True
        ),
    )


def _admin(reload: Reload | None) -> tuple[Operation, ...]:
    return (
        Operation(
            "POST",
            "/admin/reload",
            partial(admin.reload, reload),
            "Read the settings again",
            "Reload",
            admin_key=True,
        ),
    )


def _public() -> tuple[Operation, ...]:
    """Return what asks for no key: probes tell nothing of requests."""
    return (
        Operation("GET", "/health", pages.health, "Say that the process lives", "Health", public=True),
        Operation(
            "GET", "/health/ready", pages.ready, "Say whether requests can be served", "Health", public=True
        ),
    )
