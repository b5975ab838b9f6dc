"""What is read of a body of OpenAI's Responses API."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class InputText(msgspec.Struct, frozen=True, tag="input_text"):
    """A text that the model reads."""

    text: str


class OutputText(msgspec.Struct, frozen=True, tag="output_text"):
    """A text that the model wrote."""

    text: str


class Refused(msgspec.Struct, frozen=True, tag="refusal"):
    """A refusal that the model wrote."""

    refusal: str


class InputImage(msgspec.Struct, frozen=True, tag="input_image"):
    """A picture, by its URL."""

    image_url: str | None = None
    detail: str | None = None


class InputFile(msgspec.Struct, frozen=True, tag="input_file"):
    """A file, in the request itself."""

    file_data: str | None = None
    filename: str | None = None


class InputAudio(msgspec.Struct, frozen=True, tag="input_audio"):
    """A sound."""

    input_audio: dict[str, Any]


Content = InputText | OutputText | Refused | InputImage | InputFile | InputAudio


class MessageItem(msgspec.Struct, frozen=True, tag="message"):
    """A message; the only item whose `type` may be left out."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Content]


class CallItem(msgspec.Struct, frozen=True, tag="function_call"):
    """A call that the model made."""

    call_id: str
    name: str
    arguments: str


class ResultItem(msgspec.Struct, frozen=True, tag="function_call_output"):
    """What a call returned."""

    call_id: str
    output: str | list[Content]


class Thought(msgspec.Struct, frozen=True):
    """A piece of reasoning."""

    text: str = ""


class ReasoningItem(msgspec.Struct, frozen=True, tag="reasoning"):
    """The model's reasoning; what is encrypted can be read by its maker alone, and is left out."""

    content: list[Thought] | None = None
    summary: list[Thought] | None = None


Item = MessageItem | CallItem | ResultItem | ReasoningItem


class FlatTool(msgspec.Struct, frozen=True):
    """One entry of `tools`: a function, without the nesting of chat completions."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FlatChoice(msgspec.Struct, frozen=True):
    """`tool_choice` as an object: a function, or those that are allowed."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[FlatTool] | None = None


class TextFormat(msgspec.Struct, frozen=True, rename={"definition": "schema"}):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = "response"
    description: str | None = None
    definition: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True):
    """`text`."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct, frozen=True):
    """`reasoning`."""

    effort: str | None = None


class ResponseFields(msgspec.Struct, frozen=True):
    """The body of `/v1/responses`, as far as it is read here; every other field goes upstream as it is."""

    model: str = "auto"
    input: str | list[Item] = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: list[FlatTool] | None = None
    tool_choice: str | FlatChoice | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    metadata: dict[str, Any] | None = None
    background: bool | None = None


# Fields that are translated, or that mean something to the server of this wire alone.
KNOWN = frozenset(
    {
        *ResponseFields.__struct_fields__,
        "conversation",
        "max_tool_calls",
        "prompt",
        "stream_options",
        "truncation",
    }
)
