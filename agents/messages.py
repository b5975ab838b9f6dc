"""LangChain's messages to and from OpenAI's wire form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    InvalidToolCall,
    ToolCall,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call as create_tool_call
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
from langchain_core.utils.json import parse_partial_json

from smallfirst.router.answer import AnswerStream, Receipt
from smallfirst.router.wire import Usage

# Parts of an assistant message that go elsewhere on the wire (calls), or nowhere: a model's thoughts and what a
# provider's own tools did for it are its own.
_NOT_CONTENT = frozenset(
    {"reasoning", "thinking", "redacted_thinking", "tool_call", "invalid_tool_call", "tool_call_chunk"}
    | {"server_tool_call", "server_tool_call_chunk", "server_tool_result"}
)
# What a message's calls are told of one that its limit cut.
_CUT = "The call is cut off: the answer reached its limit of tokens."
_ATTACHED = "The result is attached to the next message."
# The names under which servers report what a model thought.
_REASONING_FIELDS = ("reasoning_content", "reasoning")


def to_wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return OpenAI's form of a conversation.

    Content in LangChain's, OpenAI's and Anthropic's forms is understood. Images and files in a tool's result move to a
    message of the user after it: on this wire a tool may return text alone.
    """
    converted = convert_to_openai_messages([_plain(message) for message in messages])
    assert isinstance(converted, list)  # it was given a list
    unread = {
        call["id"]: call
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.invalid_tool_calls
    }
    wire: list[dict[str, Any]] = []
    attached: list[dict[str, Any]] = []
    for one in converted:
        message = one
        if message["role"] == "tool":
            if message.get("tool_call_id") in unread:
                _add_call(wire, unread[message["tool_call_id"]])
            message, media = _without_media(message)
            attached += media
        elif attached:
            wire.append({"role": "user", "content": attached})
            attached = []
        wire.append(message)
    return [*wire, {"role": "user", "content": attached}] if attached else wire


def _plain(message: BaseMessage) -> BaseMessage:
    """Return a message in the forms that LangChain's own translation knows.

    An assistant's is without the parts that are no content on the wire; files have a name, and plain texts are text.
    """
    if isinstance(message.content, str):
        return message
    kept: list[Any] = []
    for block in message.content:
        if not isinstance(block, dict):
            kept.append(block)
        elif not (isinstance(message, AIMessage) and block.get("type") in _NOT_CONTENT):
            kept.append(_as_text(block) or _named(block))
    return message.model_copy(update={"content": kept})


def _add_call(wire: list[dict[str, Any]], call: InvalidToolCall) -> None:
    """Give a call that could not be read back to who made it: its result would have no call else."""
    caller = next((message for message in reversed(wire) if message["role"] == "assistant"), None)
    if caller is not None:
        function = {"name": call["name"] or "", "arguments": call["args"] or ""}
        calls = [*caller.get("tool_calls", ()), {"id": call["id"], "type": "function", "function": function}]
        caller["tool_calls"] = calls


def _as_text(block: dict[str, Any]) -> dict[str, Any] | None:
    """Return a plain text (LangChain's standard content) as a part of text; None for what is none."""
    plain = block.get("type") == "text-plain" and isinstance(block.get("text"), str)
    return {"type": "text", "text": block["text"]} if plain else None


def _named(block: dict[str, Any]) -> dict[str, Any]:
    """Give a file a name: OpenAI wants one, and LangChain's own warns where there is none."""
    named = "filename" in block or "filename" in (block.get("extras") or block.get("metadata") or {})
    if block.get("type") != "file" or named or not ({"base64", "source_type"} & block.keys()):
        return block
    return {**block, "filename": f"file.{str(block.get('mime_type', 'bin')).rpartition('/')[2]}"}


def _without_media(message: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    content = message.get("content")
    if not isinstance(content, list):
        return message, []
    texts = [part for part in content if part.get("type") == "text"]
    media = [part for part in content if part.get("type") != "text"]
    if not media:
        return message, []
    return {**message, "content": texts or _ATTACHED}, media


def from_reply(body: dict[str, Any], receipt: Receipt) -> list[AIMessage]:
    """Return the messages of a `chat.completion`, one a choice, with the receipt as metadata.

    The usage is on the first one alone, so that adding messages up counts it once.
    """
    usage = usage_metadata(body.get("usage"))
    return [
        _from_choice(choice, body, receipt, usage if at == 0 else None)
        for at, choice in enumerate(body["choices"])
    ]


def _from_choice(
    choice: dict[str, Any], body: dict[str, Any], receipt: Receipt, usage: UsageMetadata | None
) -> AIMessage:
    message = choice["message"]
    calls, invalid = _calls(message, cut=choice.get("finish_reason") == "length")
    metadata = response_metadata(body, receipt, choice.get("finish_reason"))
    if choice.get("logprobs"):
        metadata["logprobs"] = choice["logprobs"]
    return AIMessage(
        content=message.get("content") or "",
        # Not the reply's own id: an answer from the cache has the same one each time, and LangGraph takes messages of
        # one id for one message.
        id=receipt.request_id if choice is body["choices"][0] else None,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage,
        additional_kwargs=_additional(message),
        response_metadata=metadata,
    )


def _calls(message: dict[str, Any], *, cut: bool) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """Return a reply's calls, and those that cannot be read; a cut answer may have one without any arguments."""
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for raw in message.get("tool_calls") or ():
        if cut and "function" in raw and not _is_whole(raw["function"].get("arguments")):
            invalid.append(make_invalid_tool_call(raw, _CUT))
            continue
        try:
            parsed = parse_tool_call(raw, return_id=True)
        except OutputParserException as exc:
            invalid.append(make_invalid_tool_call(raw, str(exc)))
        else:
            if parsed is not None:
                calls.append(create_tool_call(name=parsed["name"], args=parsed["args"], id=parsed["id"]))
    return calls, invalid


def _is_whole(arguments: str | None) -> bool:
    try:
        json.loads(arguments or "", strict=False)
    except json.JSONDecodeError:
        return False
    return True


def _additional(message: dict[str, Any]) -> dict[str, Any]:
    """Return what LangChain keeps beside the content: a refusal, thoughts, a spoken answer."""
    found = {name: message[name] for name in ("refusal", "audio") if message.get(name)}
    thought = next((message[name] for name in _REASONING_FIELDS if message.get(name)), None)
    return found | ({"reasoning_content": thought} if isinstance(thought, str) else {})


def from_chunk(chunk: dict[str, Any], request_id: str) -> AIMessageChunk | None:
    """Return the message of a `chat.completion.chunk`; None where it adds nothing.

    Its id is the request's, as a whole answer's is. Of several choices only the first is streamed: pieces of one
    message cannot tell them apart.
    """
    usage = usage_metadata(chunk.get("usage"))
    choices = [choice for choice in chunk.get("choices") or () if not choice.get("index")]
    choice = choices[0] if choices else {}
    delta = choice.get("delta") or {}
    calls = [
        tool_call_chunk(
            name=(call.get("function") or {}).get("name"),
            args=(call.get("function") or {}).get("arguments"),
            id=call.get("id"),
            index=call.get("index"),
        )
        for call in delta.get("tool_calls") or ()
    ]
    metadata = {name: choice[name] for name in ("finish_reason", "logprobs") if choice.get(name)}
    text, additional = delta.get("content") or "", _additional(delta)
    if not (text or calls or additional or metadata) and usage is None:
        return None
    return AIMessageChunk(
        content=text,
        id=request_id,
        tool_call_chunks=calls,
        usage_metadata=usage,
        additional_kwargs=additional,
        response_metadata=metadata,
    )


class StreamReader:
    """Reads a stream's chunks as messages.

    Args:
        stream: It is not read from here; its receipt is.
    """

    def __init__(self, stream: AnswerStream) -> None:
        self._stream = stream
        self._model = ""
        self._index: int | None = None
        self._arguments = ""

    def read(self, raw: bytes) -> AIMessageChunk | None:
        """Return the message of a chunk; None where it adds nothing."""
        chunk = msgspec.json.decode(raw)
        self._model = chunk.get("model") or self._model
        message = from_chunk(chunk, self._stream.receipt.request_id)
        if message is None:
            return None
        for call in message.tool_call_chunks:
            if call["index"] != self._index:
                self._index, self._arguments = call["index"], ""
            self._arguments += call["args"] or ""
        if message.response_metadata.get("finish_reason") == "length" and self._is_cut:
            end = tool_call_chunk(name=None, args=_spoiling(self._arguments), id=None, index=self._index)
            update = {"tool_call_chunks": [*message.tool_call_chunks, end]}
            return AIMessageChunk(**{**dict(message), **update, "tool_calls": [], "invalid_tool_calls": []})
        return message

    def last(self) -> AIMessageChunk:
        """Return the empty chunk that ends a stream: it carries what is known only then."""
        receipt = self._stream.receipt
        metadata = response_metadata({"model": self._model or receipt.model}, receipt, None)
        return AIMessageChunk(
            content="", id=receipt.request_id, response_metadata=metadata, chunk_position="last"
        )

    @property
    def _is_cut(self) -> bool:
        return self._index is not None and not _is_whole(self._arguments)


def _spoiling(arguments: str) -> str:
    """Return what is added to a cut call's arguments, so that the call is an invalid one.

    LangChain closes what is open when it adds a stream up, and would run half a call as if it were a whole one.
    """
    for end in ("]", "}", '"]', '"}', '""]'):
        try:
            found = parse_partial_json(arguments + end)
        except json.JSONDecodeError:
            return end
        if not isinstance(found, dict):
            return end
    return '""}'


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
        "overhead_ms": receipt.overhead_ms,
        "attempts": receipt.attempts,
        "hedged": receipt.hedged,
    }
    return metadata | ({"finish_reason": finish_reason} if finish_reason else {})


def usage_metadata(wire: dict[str, Any] | None) -> UsageMetadata | None:
    """Return LangChain's form of OpenAI's `usage`; None where there is none."""
    usage = Usage.from_wire(wire)
    if usage is None or wire is None:
        return None
    heard = (wire.get("prompt_tokens_details") or {}).get("audio_tokens")
    said = (wire.get("completion_tokens_details") or {}).get("audio_tokens")
    taken = InputTokenDetails(cache_read=usage.cached_tokens)
    if usage.cache_write_tokens:
        taken["cache_creation"] = usage.cache_write_tokens
    given = OutputTokenDetails(reasoning=usage.reasoning_tokens)
    if heard is not None:
        taken["audio"] = heard
    if said is not None:
        given["audio"] = said
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details=taken,
        output_token_details=given,
    )
