"""JSON schemas of answers, for the OpenAPI document: what a client can count on. More fields may come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
ANY_OBJECT: Schema = {"type": "object"}
NULLABLE_TEXT: Schema = {"type": ["string", "null"]}


def record(required: dict[str, Schema], **optional: Schema) -> Schema:
    """Return the schema of an object."""
    return {"type": "object", "required": list(required), "properties": required | optional}


def array(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def one_of(values: Sequence[str]) -> Schema:
    """Return the schema of one of some words."""
    return {"type": "string", "enum": list(values)}


_MODEL = record(
    {"id": TEXT, "object": one_of(["model"]), "created": {"type": "integer"}, "owned_by": TEXT},
    context_window=COUNT,
    tier={"type": ["string", "null"], "enum": ["local", "cloud", None]},
)
_OPENAI_USAGE = record({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT})
_STOP = ["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]

SCHEMAS: dict[str, Schema] = {
    "Error": record(
        {"error": record({"message": TEXT}, type=NULLABLE_TEXT, param=NULLABLE_TEXT, code={})},
    ),
    "AnthropicError": record({"type": one_of(["error"]), "error": record({"type": TEXT, "message": TEXT})}),
    "ChatCompletion": record(
        {
            "model": TEXT,
            "choices": array(
                record(
                    {"message": record({}, role=TEXT, content={}, tool_calls={})}, finish_reason=NULLABLE_TEXT
                )
            ),
        },
        usage=ANY_OBJECT,
    ),
    "Completion": record(
        {
            "id": TEXT,
            "object": one_of(["text_completion"]),
            "created": COUNT,
            "model": TEXT,
            "choices": array(record({"text": TEXT, "index": COUNT, "finish_reason": NULLABLE_TEXT})),
            "usage": _OPENAI_USAGE,
        }
    ),
    "Response": record(
        {
            "id": TEXT,
            "object": one_of(["response"]),
            "created_at": COUNT,
            "status": one_of(["completed", "incomplete"]),
            "model": TEXT,
            "output": array(record({"type": one_of(["message", "function_call", "reasoning"]), "id": TEXT})),
            "usage": record({"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT}),
        }
    ),
    "DeletedResponse": record({"id": TEXT, "object": one_of(["response"]), "deleted": {"type": "boolean"}}),
    "Reload": record(
        {
            "object": one_of(["reload"]),
            "changed": array(TEXT),
            "needs_restart": array(TEXT),
            "models": record({name: array(TEXT) for name in ("kept", "added", "changed", "removed")}),
        }
    ),
    "DeletedCache": record(
        {"object": one_of(["cache.deleted"]), "tenant": TEXT, "namespace": NULLABLE_TEXT, "deleted": COUNT}
    ),
    "AnthropicMessage": record(
        {
            "id": TEXT,
            "type": one_of(["message"]),
            "role": one_of(["assistant"]),
            "model": TEXT,
            "content": array(record({"type": one_of(["text", "tool_use", "thinking"])})),
            "stop_reason": one_of(_STOP),
            "stop_sequence": NULLABLE_TEXT,
            "usage": record(
                {"input_tokens": COUNT, "output_tokens": COUNT, "cache_read_input_tokens": COUNT}
            ),
        }
    ),
    "TokenCount": record({"input_tokens": COUNT}),
    "Embeddings": record(
        {
            "object": one_of(["list"]),
            "model": TEXT,
            "data": array(record({"index": COUNT, "embedding": {"anyOf": [array(NUMBER), TEXT]}})),
        }
    ),
    "Classification": {
        "anyOf": [
            record({"object": one_of(["classification"]), "label": {}}),
            record({"object": one_of(["list"]), "results": array(record({"label": {}}))}),
        ]
    },
    "Decision": record(
        {"model": TEXT, "route": one_of(["local", "cloud"]), "reason": TEXT, "attempts": array(ANY_OBJECT)}
    ),
    "Report": record(
        {
            "object": one_of(["report"]),
            "tenant": NULLABLE_TEXT,
            "since": NULLABLE_TEXT,
            "until": NULLABLE_TEXT,
            "by": array(TEXT),
            "rows": array(record({"key": ANY_OBJECT, "requests": COUNT, "cost_usd": NUMBER})),
            "total": record({"requests": COUNT, "cost_usd": NUMBER, "saved_usd": NUMBER}),
            "prices": TEXT,
        }
    ),
    "Feedback": record({"object": one_of(["feedback"]), "request_id": TEXT, "score": NUMBER}),
    "Model": _MODEL,
    "Models": record({"object": one_of(["list"]), "data": array({"$ref": "#/components/schemas/Model"})}),
    "Event": record({"data": TEXT}, event=TEXT),
    "Object": ANY_OBJECT,
    "Health": record({"status": TEXT}),
}
