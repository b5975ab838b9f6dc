"""What is read of a body of Anthropic's Messages API."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Text(msgspec.Struct, frozen=True, tag="text"):
    """A text block."""

    text: str


class Base64Source(msgspec.Struct, frozen=True, tag="base64"):
    """Data in the request itself."""

    media_type: str
    data: str


class UrlSource(msgspec.Struct, frozen=True, tag="url"):
    """Data elsewhere."""

    url: str


class TextSource(msgspec.Struct, frozen=True, tag="text"):
    """A document's plain text."""

    data: str


class Image(msgspec.Struct, frozen=True, tag="image"):
    """An image block."""

    source: Base64Source | UrlSource


class Document(msgspec.Struct, frozen=True, tag="document"):
    """A document block: a PDF file or plain text."""

    source: Base64Source | TextSource
    title: str | None = None
    context: str | None = None


class ToolUse(msgspec.Struct, frozen=True, tag="tool_use"):
    """A call that the assistant made."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result"):
    """What a call returned."""

    tool_use_id: str
    content: str | list[Text | Image | Document] | None = None
    is_error: bool | None = None


class Thinking(msgspec.Struct, frozen=True, tag="thinking"):
    """The assistant's reasoning."""

    thinking: str


class RedactedThinking(msgspec.Struct, frozen=True, tag="redacted_thinking"):
    """Reasoning that only its maker can read; it is left out."""


Block = Text | Image | Document | ToolUse | ToolResult | Thinking | RedactedThinking


class Turn(msgspec.Struct, frozen=True):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicTool(msgspec.Struct, frozen=True):
    """A tool of the client's own."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class AnthropicToolChoice(msgspec.Struct, frozen=True):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(msgspec.Struct, frozen=True, rename={"definition": "schema"}):
    """`output_config.format`."""

    type: Literal["json_schema"]
    definition: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    """`output_config`."""

    format: OutputFormat | None = None
    effort: str | None = None


class ThinkingConfig(msgspec.Struct, frozen=True):
    """`thinking`; passed through as it is."""

    type: str


class CountFields(msgspec.Struct, frozen=True):
    """The body of `/v1/messages/count_tokens`, as far as it is read here."""

    messages: list[Turn]
    model: str
    system: str | list[Text] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    output_config: OutputConfig | None = None
    thinking: ThinkingConfig | None = None


class MessagesFields(CountFields, frozen=True, kw_only=True):
    """The body of `/v1/messages`, as far as it is read here; every other field goes upstream as it is."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    metadata: dict[str, Any] | None = None
