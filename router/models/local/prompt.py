"""From messages to a prompt, by the chat template inside the GGUF."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
import msgspec

from ...errors import InvalidRequest, ModelError, ModelFileError
from ...wire import ChatRequest, Message
from .template import ChatTemplate
from .template_costs import TooCostly

# Where a piece of a prompt ends: a character for private use, which no text needs.
_CUT = "\ue000"

# For models whose template knows no tools; the form is the one that tool-trained small models use.
_TOOLS_PROMPT = """\
You can call these functions:
{tools}

To call one, answer with nothing but
<tool_call>
{{"name": "function name", "arguments": {{"argument": "value"}}}}
</tool_call>
If none of them helps with the request, answer in words."""

_SCHEMA_PROMPT = "Answer with JSON only, which follows this JSON schema:\n{schema}"
_JSON_PROMPT = "Answer with a JSON object only."


class PromptRenderer:
    """Renders a conversation with a model's own template, which can reach nothing; see `template`.

    Args:
        metadata: The GGUF's.
        bos, eos: The text of the model's first and last token.
        special: Names of tokens that are no text. Where a message, a tool or a schema has one, it stays text.
        system_prompt: For conversations without one; None leaves that to the template.

    Raises:
        ModelFileError: The file has no template, or a broken one.
    """

    def __init__(
        self,
        metadata: Mapping[str, str],
        *,
        bos: str,
        eos: str,
        special: Iterable[str] = (),
        system_prompt: str | None,
    ) -> None:
        template = metadata.get("tokenizer.chat_template")
        if not template:
            raise ModelFileError("the model file has no chat template; use an 'instruct' or 'chat' model")
        try:
            self._template = ChatTemplate(template, bos=bos, eos=eos)
        except jinja2.TemplateError as exc:
            raise ModelFileError(f"the model file's chat template is broken: {exc}") from exc
        self._knows_tools = "tools" in template
        self._system_prompt = system_prompt
        # The longest first: one name may begin as another does.
        names = sorted((name for name in special if len(name) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def render(self, request: ChatRequest) -> list[str]:
        """Return the prompt, in pieces that are to be tokenised apart.

        Who writes `<|im_end|>` must not end the turn: such names are cut in two, wherever a caller writes them.

        Raises:
            InvalidRequest: The template refuses the conversation (roles out of order, say).
            ModelError: It takes too long, or makes too much.
        """
        fields = request.fields
        tools = request.body.get("tools") if fields.tools and fields.tool_choice != "none" else None
        messages = [_plain(message, self._knows_tools, self._as_text) for message in fields.messages]
        if self._system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system_prompt}, *messages]
        tools = _each_text(tools, self._as_text)
        extra = [note for note in (self._tools_note(tools), self._as_text(_format_note(request))) if note]
        if extra:
            messages = _with_system(messages, "\n\n".join(extra))
        try:
            rendered = self._template.render(messages, tools if self._knows_tools else None)
        except TooCostly as exc:
            raise ModelError(
                f"The chat template in the model's file asks for too much: {exc}.", code="template_too_costly"
            ) from exc
        except (jinja2.TemplateError, ValueError, TypeError) as exc:
            raise InvalidRequest(
                f"Invalid value for 'messages': the model's chat template refuses them ({type(exc).__name__}).",
                param="messages",
            ) from exc
        return rendered.split(_CUT)

    def _as_text(self, text: str) -> str:
        return self._special.sub(lambda found: f"{found[0][0]}{_CUT}{found[0][1:]}", text.replace(_CUT, ""))

    def _tools_note(self, tools: Any) -> str | None:
        if not tools or self._knows_tools:
            return None
        lines = [msgspec.json.encode(tool.get("function") or tool).decode() for tool in tools]
        return _TOOLS_PROMPT.format(tools="\n".join(lines))


def _format_note(request: ChatRequest) -> str:
    form = request.fields.response_format
    if form is None or form.type == "text":
        return ""
    if form.type == "json_object" or form.json_schema is None:
        return _JSON_PROMPT
    return _SCHEMA_PROMPT.format(schema=msgspec.json.encode(form.json_schema.definition).decode())


def _with_system(messages: list[dict[str, Any]], note: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system":
        first = messages[0] | {"content": f"{messages[0]['content']}\n\n{note}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": note}, *messages]


def _plain(message: Message, knows_tools: bool, as_text: Callable[[str], str]) -> dict[str, Any]:
    """Return a message with text only, in roles that every template knows."""
    text = as_text(message.text)
    role = "system" if message.role == "developer" else message.role
    calls = [call.function for call in message.tool_calls or () if call.function is not None]
    if knows_tools:
        plain: dict[str, Any] = {"role": "tool" if role == "function" else role, "content": text}
        if calls:
            plain["tool_calls"] = [
                {
                    "type": "function",
                    "function": _each_text(
                        {"name": call.name, "arguments": _arguments(call.arguments)}, as_text
                    ),
                }
                for call in calls
            ]
        return plain
    if role in ("tool", "function"):
        return {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}
    written = [
        f'<tool_call>\n{{"name": {as_text(_json(call.name))}, "arguments": {as_text(call.arguments or "{}")}}}\n'
        "</tool_call>"
        for call in calls
    ]
    return {"role": role, "content": "\n".join([*([text] if text else []), *written])}


def _arguments(text: str) -> Any:
    """Templates write arguments as JSON themselves: give them the value, or the text where it is none."""
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError):
        return text


def _each_text(value: Any, as_text: Callable[[str], str]) -> Any:
    """Return a value of JSON with `as_text` of every text in it, names of fields too."""
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, list):
        return [_each_text(one, as_text) for one in value]
    if isinstance(value, dict):
        return {as_text(name): _each_text(one, as_text) for name, one in value.items()}
    return value


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
