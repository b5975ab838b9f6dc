"""OpenAI's Responses API: requests, and whole answers. `response_events` has the streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..answer import Answer, Receipt
from ..errors import RequestError
from ..hints import read_hints
from ..wire import METADATA_HINTS, ChatRequest, Usage, decode_object
from .base import UNKNOWN_USAGE, refuse, refuse_several, renamed, typed, without
from .conversation import ChatPart, Conversation, add_answer, text_part
from .parts import Part, parts_of
from .response_events import ResponseEvents
from .response_fields import (
    KNOWN,
    CallItem,
    Content,
    FlatChoice,
    FlatTool,
    InputAudio,
    InputFile,
    InputImage,
    Item,
    MessageItem,
    Refused,
    ResponseFields,
    ResultItem,
    TextConfig,
)
from .response_items import CUT, ItemMaker
from .response_store import ResponseStore, Stored
from .upstream import choices_of

_SAME = ("model", "temperature", "top_p", "top_logprobs", "parallel_tool_calls")
_LOGPROBS = "message.output_text.logprobs"

# What the answer says again of its request, and what it says where the request does not.
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_CHAT_ONLY = {
    "functions": "use 'tools'",
    "function_call": "use 'tool_choice'",
    "max_tokens": "use 'max_output_tokens'",
    "max_completion_tokens": "use 'max_output_tokens'",
}
# Chat completions' names -> this wire's, for errors.
_NAMES = {
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
    "verbosity": "text.verbosity",
}


@dataclass(frozen=True, slots=True)
class ResponsesCall:
    """A request by the Responses API.

    Attributes:
        request: What the gateway is asked.
        echoed: What the answer says again of the request.
        history: The conversation without instructions, as chat messages: what an answer is kept with.
        store: Where the answer is kept; None where it shall not be.
        private: Whether the request, and with it all that follows on its answer, must stay in the house.
    """

    request: ChatRequest
    echoed: dict[str, Any]
    history: list[dict[str, Any]]
    store: ResponseStore | None
    private: bool = False

    def reply(self, answer: Answer) -> dict[str, Any]:
        """Return the `response` object."""
        choice = choices_of(answer.body)[0]
        parts = parts_of(choice)
        body = self.begun(answer.receipt)
        return self.ended(body, parts, choice.finish_reason, answer.usage or UNKNOWN_USAGE)

    async def settle(self, answer: Answer, reply: dict[str, Any]) -> None:
        """Keep the response."""
        await self.keep(reply, parts_of(choices_of(answer.body)[0]))

    def events(self, receipt: Receipt, usage: Usage) -> ResponseEvents:
        """Return what translates a streamed answer."""
        return ResponseEvents(self, receipt)

    def error(self, exc: RequestError) -> dict[str, Any]:
        """Return an error in this wire's shape."""
        return error_body(exc)

    def begun(self, receipt: Receipt) -> dict[str, Any]:
        """Return the `response` object of an answer that has just begun."""
        return {
            "id": "resp_" + receipt.request_id.removeprefix("req_"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": receipt.model,
            "output": [],
            "usage": None,
            **self.echoed,
        }

    def ended(
        self, begun: dict[str, Any], parts: Sequence[Part], finish: str | None, usage: Usage
    ) -> dict[str, Any]:
        """Return the `response` object of a whole answer."""
        reason = CUT.get(finish or "")
        items = ItemMaker(begun["id"])
        output = [items.done(part, at) for at, part in enumerate(parts)]
        if reason and output:
            output[-1] |= {"status": "incomplete"}
        return begun | {
            "status": "incomplete" if reason else "completed",
            "incomplete_details": {"reason": reason} if reason else None,
            "completed_at": None if reason else int(time.time()),
            "output": output,
            "usage": usage_body(usage),
        }

    async def keep(self, body: dict[str, Any], parts: Sequence[Part]) -> None:
        """Keep a `response` object with its conversation; where that cannot be, its `store` says so."""
        if self.store is None:
            return
        items = ItemMaker(body["id"])
        conversation = Conversation(self.history)
        add_answer(conversation, [items.named(part, at) for at, part in enumerate(parts)])
        session = read_hints(self.request).session
        kept = Stored(body, conversation.messages(), session, self.private)
        if not await self.store.put(self.request.tenant, body["id"], kept):
            body["store"] = False


async def parse(
    raw: bytes | dict[str, Any],
    *,
    headers: dict[str, str],
    tenant_of: Callable[[dict[str, Any] | None], str],
    store: ResponseStore,
    is_private: Callable[[str], bool] = lambda _: False,
) -> ResponsesCall:
    """Read a request.

    Args:
        raw: The body.
        headers: Those that carry hints.
        tenant_of: Says whose request it is, by its `metadata`.
        store: Where earlier answers are.
        is_private: Says whether what is asked of a `model` must stay in the house by its policy.

    Raises:
        InvalidRequest: A field is wrong, or cannot be translated; the message names it.
        ResponseNotFound: `previous_response_id` is none of the tenant's.
        ResponsesUnavailable: Nobody knows what `previous_response_id` stands for, as the store does not answer.
    """
    body = _with_types(decode_object(raw))
    fields = typed(body, ResponseFields)
    for name in ("background", "conversation", "prompt"):
        if body.get(name):
            raise refuse(name, "this gateway does not keep such things", code="unsupported_parameter")
    refuse_several(body, _CHAT_ONLY)
    if fields.max_output_tokens is not None and fields.max_output_tokens < 1:
        raise refuse("max_output_tokens", "expected at least 1", code="out_of_range")
    tenant = tenant_of(fields.metadata)
    before = None
    if fields.previous_response_id is not None:
        before = await store.get(tenant, fields.previous_response_id, param="previous_response_id")
    history = _history(fields.input, before.messages if before else [])
    if not history:
        raise refuse("input", "expected a text or at least one item", code="empty_array")
    chat = without(body, KNOWN) | _options(body, fields)
    system = [{"role": "system", "content": fields.instructions}] if fields.instructions else []
    chat["messages"] = [*system, *history]
    request = ChatRequest.parse(chat, headers=headers, tenant=tenant)
    if before is not None:
        request = _following(request, before)
    echoed = {name: default if body.get(name) is None else body[name] for name, default in _ECHOED.items()}
    private = read_hints(request).privacy == "local" or is_private(request.fields.model)
    return ResponsesCall(request, echoed, history, None if fields.store is False else store, private)


def error_body(exc: RequestError) -> dict[str, Any]:
    """Return an error in OpenAI's shape, with this wire's names of fields."""
    return renamed(exc.body(), _NAMES)


def usage_body(usage: Usage) -> dict[str, Any]:
    """Return the counts as this wire has them."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


# --- requests -------------------------------------------------------------------------------------------------------


def _with_types(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body with a type for every item: a message may come without."""
    items = body.get("input")
    if not isinstance(items, list):
        return body
    named = [
        {**item, "type": "message"} if isinstance(item, dict) and item.get("type") is None else item
        for item in items
    ]
    return body | {"input": named}


def _following(request: ChatRequest, before: Stored) -> ChatRequest:
    """Return a request with what it inherits: the session, unless it names one, and that it must stay in the house."""
    fields = request.fields
    headers = dict(request.headers)
    if not (fields.metadata is not None and fields.metadata.session) and not fields.prompt_cache_key:
        headers.setdefault("x-session-id", before.session)
    if before.private:
        headers["x-smallfirst-privacy"] = "local"
    return replace(request, headers=headers)


def _history(given: str | list[Item], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    conversation = Conversation(before)
    items = [MessageItem("user", given)] if isinstance(given, str) and given else given
    for at, item in enumerate(items):
        assert not isinstance(item, str)
        if isinstance(item, CallItem):
            conversation.call(item.call_id, item.name, item.arguments)
        elif isinstance(item, ResultItem):
            conversation.result(item.call_id, _parts(item.output, f"input[{at}].output"))
        elif isinstance(item, MessageItem):
            parts = _parts(item.content, f"input[{at}].content")
            if item.role == "assistant":
                conversation.answer(parts)
            else:
                conversation.say(item.role, parts)
        else:
            thoughts = item.content or item.summary or ()
            text = "\n\n".join(thought.text for thought in thoughts if thought.text)
            if text:
                conversation.think(text)
    return conversation.messages()


def _parts(content: str | list[Content], path: str) -> list[ChatPart]:
    if isinstance(content, str):
        return [text_part(content)]
    return [_part(part, f"{path}[{at}]") for at, part in enumerate(content)]


def _part(part: Content, path: str) -> ChatPart:
    if isinstance(part, InputImage):
        if not part.image_url:
            raise refuse(f"{path}.image_url", "expected a URL; files are not kept here", code="missing_field")
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
    if isinstance(part, InputFile):
        if not part.file_data:
            raise refuse(
                f"{path}.file_data", "expected the file itself; files are not kept here", code="missing_field"
            )
        return {"type": "file", "file": {"filename": part.filename or "file", "file_data": part.file_data}}
    if isinstance(part, InputAudio):
        return {"type": "input_audio", "input_audio": part.input_audio}
    return text_part(part.refusal if isinstance(part, Refused) else part.text)


def _options(body: dict[str, Any], fields: ResponseFields) -> dict[str, Any]:
    """Return everything but the messages, as fields of a chat completion."""
    chat = {name: body[name] for name in _SAME if body.get(name) is not None}
    if fields.stream is not None:
        chat["stream"] = fields.stream
    if fields.max_output_tokens is not None:
        chat["max_completion_tokens"] = fields.max_output_tokens
    if fields.reasoning is not None and fields.reasoning.effort is not None:
        chat["reasoning_effort"] = fields.reasoning.effort
    if fields.top_logprobs or _LOGPROBS in (fields.include or ()):
        chat["logprobs"] = True
    else:
        # A server refuses the one without the other.
        chat.pop("top_logprobs", None)
    # Of the metadata only the hints are meant for this gateway; the rest stays with the response.
    hints = {key: value for key, value in (fields.metadata or {}).items() if key in METADATA_HINTS}
    if hints:
        chat["metadata"] = hints
    if fields.text is not None:
        chat |= _text(fields.text)
    tools = _tools(fields)
    if not tools:
        chat.pop("parallel_tool_calls", None)
    return chat | tools


def _text(text: TextConfig) -> dict[str, Any]:
    chat: dict[str, Any] = {} if text.verbosity is None else {"verbosity": text.verbosity}
    form = text.format
    if form is None or form.type == "text":
        return chat
    if form.type == "json_object":
        return chat | {"response_format": {"type": "json_object"}}
    if not form.definition:
        raise refuse("text.format.schema", "expected a JSON schema", code="missing_field")
    schema: dict[str, Any] = {"name": form.name, "schema": form.definition}
    schema |= {} if form.strict is None else {"strict": form.strict}
    schema |= {} if form.description is None else {"description": form.description}
    return chat | {"response_format": {"type": "json_schema", "json_schema": schema}}


def _tools(fields: ResponseFields) -> dict[str, Any]:
    tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(fields.tools or ())]
    choice: Any = fields.tool_choice
    if isinstance(choice, FlatChoice):
        choice, tools = _choice(choice, tools)
    if tools:
        return {"tools": tools} if choice is None else {"tools": tools, "tool_choice": choice}
    if choice not in (None, "auto", "none"):
        raise refuse("tool_choice", "there are no 'tools' to choose from", code="invalid_value")
    return {}


def _tool(tool: FlatTool, path: str) -> dict[str, Any]:
    if tool.type != "function":
        raise refuse(
            f"{path}.type",
            f"'{tool.type[:100]}' is not run here; expected 'function'",
            code="unsupported_tool",
        )
    if not tool.name:
        raise refuse(f"{path}.name", "expected the function's name", code="missing_field")
    named = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    return {"type": "function", "function": {key: value for key, value in named.items() if value is not None}}


def _choice(choice: FlatChoice, tools: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    """Return `tool_choice`, and the tools that it allows."""
    if choice.type == "function":
        if not choice.name:
            raise refuse("tool_choice.name", "expected the function's name", code="missing_field")
        return {"type": "function", "function": {"name": choice.name}}, tools
    if choice.type == "allowed_tools":
        names = {tool.name for tool in choice.tools or ()}
        allowed = [tool for tool in tools if tool["function"]["name"] in names]
        if not allowed:
            raise refuse("tool_choice.tools", "none of them is among 'tools'", code="invalid_value")
        return choice.mode, allowed
    raise refuse("tool_choice.type", "expected 'function' or 'allowed_tools'")
