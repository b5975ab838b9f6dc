"""LangChain's messages to and from OpenAI's wire form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    InvalidToolCall,
    ToolCall,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call as create_tool_call
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call

from smallfirst.router.answer import Receipt
from smallfirst.router.wire import Usage


def to_wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return OpenAI's form of a conversation."""
    converted: list[dict[str, Any]] = convert_to_openai_messages(messages)
    return converted


def from_reply(body: dict[str, Any], receipt: Receipt) -> AIMessage:
    """Return the message of a `chat.completion`, with usage and the receipt as metadata."""
    choice = body["choices"][0]
    message = choice["message"]
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for raw in message.get("tool_calls") or ():
        try:
            parsed = parse_tool_call(raw, return_id=True)
        except OutputParserException as exc:
            invalid.append(make_invalid_tool_call(raw, str(exc)))
        else:
            if parsed is not None:
                calls.append(create_tool_call(name=parsed["name"], args=parsed["args"], id=parsed["id"]))
    return AIMessage(
        content=message.get("content") or "",
        id=body.get("id"),
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage_metadata(body.get("usage")),
        additional_kwargs={"refusal": message["refusal"]} if message.get("refusal") else {},
        response_metadata=response_metadata(body, receipt, choice.get("finish_reason")),
    )


def from_chunk(chunk: dict[str, Any]) -> AIMessageChunk | None:
    """Return the message of a `chat.completion.chunk`; None where it adds nothing."""
    usage = usage_metadata(chunk.get("usage"))
    choices = chunk.get("choices") or ()
    delta = (choices[0].get("delta") or {}) if choices else {}
    calls = [
        tool_call_chunk(
            name=(call.get("function") or {}).get("name"),
            args=(call.get("function") or {}).get("arguments"),
            id=call.get("id"),
            index=call.get("index"),
        )
        for call in delta.get("tool_calls") or ()
    ]
    finish = choices[0].get("finish_reason") if choices else None
    text = delta.get("content") or ""
    if not text and not calls and usage is None and finish is None:
        return None
    return AIMessageChunk(
        content=text,
        id=chunk.get("id"),
        tool_call_chunks=calls,
        usage_metadata=usage,
        response_metadata={"finish_reason": finish} if finish else {},
    )


def last_chunk(receipt: Receipt, model_name: str) -> AIMessageChunk:
    """Return the empty chunk that ends a stream: it carries what is known only then."""
    metadata = response_metadata({"model": model_name}, receipt, None)
    return AIMessageChunk(content="", response_metadata=metadata, chunk_position="last")


def response_metadata(body: dict[str, Any], receipt: Receipt, finish_reason: str | None) -> dict[str, Any]:
    """Return who answered, why and for how much."""
    metadata: dict[str, Any] = {
        "model_name": body.get("model", receipt.model),
        "model_provider": "smallfirst",
        "request_id": receipt.request_id,
        "route": receipt.route,
        "reason": receipt.reason,
        "score": receipt.score,
        "cache": receipt.cache,
        "cost_usd": receipt.cost_usd,
        "saved_usd": receipt.saved_usd,
    }
    return metadata | ({"finish_reason": finish_reason} if finish_reason else {})


def usage_metadata(wire: dict[str, Any] | None) -> UsageMetadata | None:
    """Return LangChain's form of OpenAI's `usage`; None where there is none."""
    usage = Usage.from_wire(wire)
    if usage is None:
        return None
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
        output_token_details={"reasoning": usage.reasoning_tokens},
    )
