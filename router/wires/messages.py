"""Anthropic's Messages API; `message_fields` has the types of its bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..answer import Answer, Receipt
from ..errors import RequestError
from ..wire import ChatRequest, Usage, decode_object
from .base import (
    UNKNOWN_USAGE,
    NothingToSettle,
    event,
    receipt_field,
    refuse,
    refuse_several,
    renamed,
    typed,
    without,
)
from .conversation import ChatPart, Conversation, text_part
from .message_fields import (
    AnthropicTool,
    AnthropicToolChoice,
    Block,
    CountFields,
    Document,
    Image,
    MessagesFields,
    RedactedThinking,
    Text,
    TextSource,
    Thinking,
    ToolResult,
    ToolUse,
    Turn,
    UrlSource,
)
from .parts import Part, PartReader, Step, parts_of
from .upstream import choices_of

# Fields that are translated. `cache_control` says what to keep where the prompt is billed by Anthropic; nothing else.
_KNOWN = frozenset({*MessagesFields.__struct_fields__, "cache_control"}) - {"thinking"}
# What runs at Anthropic, and changes the answer.
_ELSEWHERE = ("container", "mcp_servers")
_CHAT_ONLY = dict.fromkeys(("functions", "function_call"), "use 'tools'")
# Chat completions' names -> this wire's, for errors.
_NAMES = {
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
    "max_completion_tokens": "max_tokens",
    "reasoning_effort": "output_config.effort",
    "stop": "stop_sequences",
}
_SAME = ("model", "stream", "temperature", "top_p")

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_STOPS = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}


@dataclass(frozen=True, slots=True)
class MessagesCall(NothingToSettle):
    """A request by the Messages API.

    Attributes:
        request: What the gateway is asked.
        stops: The client's stop sequences.
        thinks: Whether the client wants to see reasoning.
    """

    request: ChatRequest
    stops: tuple[str, ...] = ()
    thinks: bool = False

    def reply(self, answer: Answer) -> dict[str, Any]:
        """Return the `message` object."""
        choice = choices_of(answer.body)[0]
        parts = [part for part in parts_of(choice) if self.shows(part)]
        reason, stop = self.stopped(choice.finish_reason, choice.stop_reason, parts)
        cut = reason == "max_tokens"
        return {
            **_message(answer.receipt),
            "content": [_block(part, _call_id(answer.receipt, at), cut=cut) for at, part in enumerate(parts)],
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": _usage(answer.usage or UNKNOWN_USAGE),
        }

    def events(self, receipt: Receipt, usage: Usage) -> MessagesEvents:
        """Return what translates a streamed answer."""
        return MessagesEvents(self, receipt, usage)

    def shows(self, part: Part) -> bool:
        """Whether the client gets to see a part."""
        return self.thinks or part.kind != "reasoning"

    def stopped(self, finish: str | None, stop: Any, parts: Sequence[Part]) -> tuple[str, str | None]:
        """Return `stop_reason` and `stop_sequence`; only some servers say which stop string was found."""
        if finish == "stop" and isinstance(stop, str) and stop in self.stops:
            return "stop_sequence", stop
        # Where a certain call was asked for, OpenAI says `stop` and not `tool_calls`.
        if finish not in ("length", "content_filter") and any(part.kind == "call" for part in parts):
            return "tool_use", None
        if any(part.kind == "refusal" for part in parts):
            return "refusal", None
        return _STOPS.get(finish or "", "end_turn"), None


class MessagesEvents(NothingToSettle):
    """Translates one stream; see `Events`."""

    def __init__(self, call: MessagesCall, receipt: Receipt, usage: Usage) -> None:
        self._call = call
        self._receipt = receipt
        self._prompt = usage
        self._reader = PartReader()
        self._begun = False
        self._blocks = 0

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk."""
        start = b"" if self._begun else self._start()
        return start + self._shown(self._reader.feed(chunk))

    def end(self, usage: Usage, receipt: Receipt | None = None) -> bytes:
        """Return the last events."""
        last = self._shown(self._reader.finish())
        reader = self._reader
        reason, stop = self._call.stopped(reader.finish_reason, reader.stop_reason, reader.parts)
        if reason == "tool_use":
            # Raises for a call that no client could read: the answer must not look complete.
            for part in reader.parts:
                if part.kind == "call":
                    part.arguments()
        delta = {"stop_reason": reason, "stop_sequence": stop}
        return (
            last
            + event(
                {"type": "message_delta", "delta": delta, "usage": _usage(usage), **receipt_field(receipt)}
            )
            + event({"type": "message_stop"})
        )

    def error(self, exc: RequestError) -> bytes:
        """Return the error event."""
        return event(error_body(exc))

    def _start(self) -> bytes:
        self._begun = True
        message = {
            **_message(self._receipt),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(self._prompt),
        }
        return event({"type": "message_start", "message": message}) + event({"type": "ping"})

    def _shown(self, steps: Sequence[Step]) -> bytes:
        return b"".join(self._step(step) for step in steps if self._call.shows(step.part))

    def _step(self, step: Step) -> bytes:
        if step.does == "open":
            self._blocks += 1
            block = _empty(step.part, _call_id(self._receipt, self._blocks - 1))
            return self._event("content_block_start", content_block=block)
        if step.does == "close":
            return self._event("content_block_stop")
        return self._event("content_block_delta", delta=_delta(step)) if step.text else b""

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event({"type": kind, "index": self._blocks - 1, **fields})


def parse(raw: bytes | dict[str, Any], *, headers: dict[str, str], tenant: str = "default") -> MessagesCall:
    """Read a request.

    Raises:
        InvalidRequest: A field is wrong, or cannot be translated; the message names it.
    """
    body = decode_object(raw)
    fields = typed(body, MessagesFields)
    if fields.max_tokens < 1:
        raise refuse("max_tokens", "expected at least 1", code="out_of_range")
    for name in _ELSEWHERE:
        if body.get(name):
            raise refuse(name, "it runs at Anthropic, and not here")
    refuse_several(body, _CHAT_ONLY)
    chat = without(body, _KNOWN) | {name: body[name] for name in _SAME if body.get(name) is not None}
    chat |= _prompt(fields)
    chat["max_completion_tokens"] = fields.max_tokens
    if fields.stop_sequences:
        chat["stop"] = fields.stop_sequences
    metadata = dict(fields.metadata or {})
    user = metadata.pop("user_id", None)
    if isinstance(user, str):
        chat["user"] = user
    if metadata:
        chat["metadata"] = metadata
    thinks = fields.thinking is not None and fields.thinking.type != "disabled"
    request = ChatRequest.parse(chat, headers=headers, tenant=tenant)
    return MessagesCall(request, tuple(fields.stop_sequences or ()), thinks)


def parse_count(raw: bytes | dict[str, Any]) -> ChatRequest:
    """Read a request to count tokens.

    Raises:
        InvalidRequest: A field is wrong, or cannot be translated; the message names it.
    """
    fields = typed(decode_object(raw), CountFields)
    return ChatRequest.parse({"model": fields.model, **_prompt(fields)})


def error_body(exc: RequestError) -> dict[str, Any]:
    """Return an error in Anthropic's shape."""
    error = renamed(exc.body(), _NAMES)["error"]
    return {"type": "error", "error": {"type": _error_type(exc.status), "message": error["message"]}}


def _error_type(status: int) -> str:
    known = {
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
    return known.get(status, "invalid_request_error" if status < 500 else "api_error")


# --- requests -------------------------------------------------------------------------------------------------------


def _prompt(fields: CountFields) -> dict[str, Any]:
    """Return what the model gets to read, and what it may do, as fields of a chat completion."""
    if not fields.messages:
        raise refuse("messages", "expected at least one message", code="empty_array")
    conversation = Conversation()
    if fields.system:
        system = [text_part(fields.system)] if isinstance(fields.system, str) else _parts(fields.system)
        conversation.say("system", system)
    for at, turn in enumerate(fields.messages):
        _add(conversation, turn, f"messages[{at}]")
    chat: dict[str, Any] = {"messages": conversation.messages()}
    if fields.tools:
        chat["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(fields.tools)]
    choice = fields.tool_choice
    if choice is not None and not fields.tools and choice.type in ("any", "tool"):
        raise refuse("tool_choice", "there are no 'tools' to choose from", code="invalid_value")
    if choice is not None and fields.tools:
        chat["tool_choice"] = _choice(choice)
        if choice.disable_parallel_tool_use:
            chat["parallel_tool_calls"] = False
    config = fields.output_config
    if config is not None and config.effort is not None:
        chat["reasoning_effort"] = config.effort
    if config is not None and config.format is not None:
        if not config.format.definition:
            raise refuse("output_config.format.schema", "expected a JSON schema")
        schema = {"name": "response", "schema": config.format.definition, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat


def _add(conversation: Conversation, turn: Turn, path: str) -> None:
    blocks: Sequence[Block] = [Text(turn.content)] if isinstance(turn.content, str) else turn.content
    if turn.role == "assistant":
        conversation.end_turn()
        for at, block in enumerate(blocks):
            if isinstance(block, Text):
                conversation.answer([text_part(block.text)], more=True)
            elif isinstance(block, ToolUse):
                conversation.call(block.id, block.name, msgspec.json.encode(block.input).decode())
            elif isinstance(block, Thinking):
                conversation.think(block.thinking)
            elif not isinstance(block, RedactedThinking):
                raise refuse(f"{path}.content[{at}].type", "the assistant's message cannot hold such a block")
        if not blocks:
            conversation.answer([])
        return
    for at, block in enumerate(blocks):
        own = (Text,) if turn.role == "system" else (Text, Image, Document, ToolResult)
        if not isinstance(block, own):
            raise refuse(f"{path}.content[{at}].type", f"the {turn.role}'s message cannot hold such a block")
        if isinstance(block, ToolResult):
            content = block.content
            parts = [text_part(content)] if isinstance(content, str) else _parts(content or ())
            conversation.result(block.tool_use_id, parts, failed=bool(block.is_error))
    rest = _parts(blocks)
    if rest or not blocks:
        conversation.say(turn.role, rest)


def _parts(blocks: Sequence[Block]) -> list[ChatPart]:
    """Return texts, images and documents as content parts; other blocks are no content."""
    parts = []
    for block in blocks:
        if isinstance(block, Document) and block.context:
            parts.append(text_part(block.context))
        if isinstance(block, (Text, Image, Document)):
            parts.append(_part(block))
    return parts


def _part(block: Text | Image | Document) -> ChatPart:
    if isinstance(block, Text):
        return text_part(block.text)
    source = block.source
    if isinstance(source, TextSource):
        title = f"{block.title}\n\n" if isinstance(block, Document) and block.title else ""
        return text_part(title + source.data)
    url = source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"
    if isinstance(block, Image):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": block.title or "document.pdf", "file_data": url}}


def _tool(tool: AnthropicTool, path: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise refuse(
            f"{path}.type", f"'{tool.type[:100]}' runs at Anthropic; expected a tool of your own ('custom')"
        )
    if tool.input_schema is None:
        raise refuse(f"{path}.input_schema", "expected a JSON schema", code="missing_field")
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: AnthropicToolChoice) -> Any:
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if not choice.name:
        raise refuse("tool_choice.name", "expected the tool's name", code="missing_field")
    return {"type": "function", "function": {"name": choice.name}}


# --- answers --------------------------------------------------------------------------------------------------------


def _message(receipt: Receipt) -> dict[str, Any]:
    return {
        "id": "msg_" + receipt.request_id.removeprefix("req_"),
        "type": "message",
        "role": "assistant",
        "model": receipt.model,
    }


def _call_id(receipt: Receipt, at: int) -> str:
    """Return a name for a call whose model gave it none."""
    return f"toolu_{receipt.request_id.removeprefix('req_')}{at:02x}"


def _usage(usage: Usage) -> dict[str, Any]:
    """Return the counts; Anthropic's `input_tokens` are those that were neither read from nor written to its cache."""
    return {
        "input_tokens": max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


def _empty(part: Part, call_id: str) -> dict[str, Any]:
    if part.kind == "call":
        return {"type": "tool_use", "id": part.id or call_id, "name": part.name, "input": {}}
    if part.kind == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _block(part: Part, call_id: str, *, cut: bool) -> dict[str, Any]:
    empty = _empty(part, call_id)
    if part.kind == "call":
        return empty | {"input": part.arguments(cut=cut)}
    return empty | {empty["type"]: part.text}


def _delta(step: Step) -> dict[str, Any]:
    if step.part.kind == "call":
        return {"type": "input_json_delta", "partial_json": step.text}
    if step.part.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": step.text}
    return {"type": "text_delta", "text": step.text}
