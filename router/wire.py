"""The one request and reply that the whole gateway works with: OpenAI's chat completions.

A request is parsed once. `ChatRequest.body` keeps every field as the client sent it (unknown ones too) and is what goes
upstream; the typed fields beside it are what routing needs to read.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .confidence import Confidence
from .errors import InvalidRequest
from .money.usage import Meter
from .money.usage import Usage as Usage  # noqa: PLC0414 - others find it here

if TYPE_CHECKING:
    from .access.grant import Grant
    from .privacy.screening import Screening

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a multimodal message; only text is read here, the rest is passed through in the body."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    """A call that the model made: arguments are JSON text, as the wire has them."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    """One entry of an assistant message's `tool_calls`."""

    id: str = ""
    type: str = "function"
    function: FunctionCall | None = None


class Message(msgspec.Struct, frozen=True):
    """One message of the conversation."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """All text of the message, parts joined by a line break; empty where it has none."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text)


class FunctionDef(msgspec.Struct, frozen=True):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    """One entry of `tools`."""

    type: str
    function: FunctionDef | None = None


class NamedFunction(msgspec.Struct, frozen=True):
    """The function of a named `tool_choice`."""

    name: str


class NamedToolChoice(msgspec.Struct, frozen=True):
    """`tool_choice` as an object."""

    type: str
    function: NamedFunction | None = None


class JsonSchema(msgspec.Struct, frozen=True, rename={"definition": "schema"}):
    """`response_format.json_schema`."""

    name: str = "response"
    definition: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`."""

    include_usage: bool = False


class Metadata(msgspec.Struct, frozen=True):
    """The hints that this gateway reads from `metadata`; other keys pass through."""

    agent: str | None = None
    step: str | int | None = None
    session: str | None = None
    tenant: str | None = None
    tags: list[str] | str | None = None
    privacy: Literal["local", "any"] | None = None


class CacheControl(msgspec.Struct, frozen=True, rename={"no_cache": "no-cache", "no_store": "no-store"}):
    """The body's `cache` field, a hint to this gateway alone (never sent upstream).

    Attributes:
        no_cache: Do not answer from the cache.
        no_store: Do not keep the reply.
        ttl: Seconds to keep the reply; asking for it also stores sampled replies.
        namespace: Keeps entries of the same tenant apart.
    """

    no_cache: bool = False
    no_store: bool = False
    ttl: float | None = None
    namespace: str = ""


class ChatFields(msgspec.Struct, frozen=True):
    """The fields of a chat completion body that are read here. Every other field passes through untouched."""

    messages: list[Message]
    model: str = "auto"
    stream: bool | None = False
    tools: list[Tool] | None = None
    tool_choice: str | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stream_options: StreamOptions | None = None
    metadata: Metadata | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    previous_response_id: str | None = None
    cache: CacheControl | None = None


# Fields of the body that are addressed to the gateway and mean nothing (or an error) to a cloud.
GATEWAY_FIELDS = ("cache",)
METADATA_HINTS = frozenset(Metadata.__struct_fields__)

_PATH = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")


# More than any model ever answers; larger numbers would only overflow somewhere.
MOST_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion request: the body as it came, and the typed fields that routing reads.

    Attributes:
        body: The JSON object as decoded, with every field.
        fields: Its typed view.
        tenant: Whose request it is; part of every cache key.
        headers: Lower-case request headers that carry hints (`x-session-id`, `x-smallfirst-*`).
        grant: What a virtual key's limits granted it; None: nothing is counted, and all models may answer.
        screening: What personal data was found in it, and what follows; None: nobody has looked.
        meter: Where a model in this house reports what the answer takes of the machine; None: nobody asks.
        deadline: When it must be over, in `time.monotonic()` seconds, where its caller said; see `deadline`.
    """

    body: dict[str, Any]
    fields: ChatFields
    tenant: str = "default"
    headers: Mapping[str, str] = field(default_factory=dict)
    meter: Meter | None = field(default=None, compare=False)
    grant: Grant | None = field(default=None, compare=False, repr=False)
    screening: Screening | None = field(default=None, compare=False, repr=False)
    deadline: float | None = field(default=None, compare=False)

    @classmethod
    def parse(
        cls, raw: bytes | dict[str, Any], *, tenant: str = "default", headers: Mapping[str, str] | None = None
    ) -> ChatRequest:
        """Decode and check a body.

        Raises:
            InvalidRequest: The JSON is broken or a field has the wrong type; the message names the field.
        """
        body = decode_object(raw)
        try:
            fields = msgspec.convert(body, ChatFields)
        except msgspec.ValidationError as exc:
            raise invalid_field(str(exc)) from exc
        _check(fields)
        return cls(body, fields, tenant, headers or {})

    @classmethod
    def of(
        cls, request: ChatRequest | Mapping[str, Any] | str, fields: Mapping[str, Any], *, stream: bool | None
    ) -> ChatRequest:
        """Make a request of what an SDK user passes.

        Args:
            request: A parsed request, a body, or just the user's message.
            fields: More fields of the body; they win.
            stream: What the body's `stream` shall say; None leaves it.

        Raises:
            InvalidRequest: A field is missing or has the wrong type.
        """
        tenant, headers = "default", dict[str, str]()
        meter: Meter | None = None
        grant: Grant | None = None
        screening: Screening | None = None
        deadline: float | None = None
        if isinstance(request, ChatRequest):
            if not fields and stream in (None, request.fields.stream):
                return request
            tenant, headers, body = request.tenant, dict(request.headers), dict(request.body)
            meter, grant, screening = request.meter, request.grant, request.screening
            deadline = request.deadline
        elif isinstance(request, str):
            body = {"messages": [{"role": "user", "content": request}]}
        else:
            body = dict(request)
        body.update(fields)
        if stream is not None:
            body["stream"] = stream
        parsed = cls.parse(body, tenant=tenant, headers=headers)
        metadata = parsed.fields.metadata
        if not isinstance(request, ChatRequest) and metadata is not None and metadata.tenant:
            return parsed.with_tenant(metadata.tenant)
        if meter is None and grant is None and screening is None and deadline is None:
            return parsed
        return replace(parsed, meter=meter, grant=grant, screening=screening, deadline=deadline)

    @property
    def max_output_tokens(self) -> int | None:
        """The caller's limit on generated tokens, by either of OpenAI's names."""
        return self.fields.max_completion_tokens or self.fields.max_tokens

    @property
    def text(self) -> str:
        """The text of all messages, joined by line breaks."""
        return "\n".join(message.text for message in self.fields.messages)

    def upstream_body(self, model: str) -> dict[str, Any]:
        """Return the body for a cloud model: as the client sent it, but for the model's name and our own fields."""
        body = {key: value for key, value in self.body.items() if key not in GATEWAY_FIELDS}
        body["model"] = model
        metadata = body.get("metadata")
        if metadata:
            own = {key: value for key, value in metadata.items() if key not in METADATA_HINTS}
            if own:
                body["metadata"] = own
            else:
                del body["metadata"]
        return body

    def unstreamed(self) -> ChatRequest:
        """Return the same request for an answer in one piece."""
        body = {key: value for key, value in self.body.items() if key not in ("stream", "stream_options")}
        parsed = ChatRequest.parse(body, tenant=self.tenant, headers=self.headers)
        return parsed if self.screening is None else replace(parsed, screening=self.screening)

    def with_headers(self, headers: Mapping[str, str]) -> ChatRequest:
        """Return the same request with other headers."""
        return replace(self, headers=headers)

    def with_tenant(self, tenant: str) -> ChatRequest:
        """Return the same request for another tenant."""
        return replace(self, tenant=tenant)

    def with_meter(self, meter: Meter) -> ChatRequest:
        """Return the same request with another meter: as `replace`, in a third of its time, as each attempt has one."""
        return ChatRequest(
            self.body,
            self.fields,
            self.tenant,
            self.headers,
            meter,
            self.grant,
            self.screening,
            self.deadline,
        )


# Levels of a body. Whatever reads one by recursion (the privacy screening, templates) manages more than these; what
# decodes JSON refuses a few hundred more by itself.
DEEPEST = 128


def decode_object(raw: bytes | dict[str, Any]) -> dict[str, Any]:
    """Decode a body.

    Raises:
        InvalidRequest: It is no JSON object, or nested deeper than `DEEPEST`.
    """
    try:
        body = msgspec.json.decode(raw) if isinstance(raw, bytes) else raw
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}", code="invalid_json") from exc
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    # Only where there are brackets enough does the depth need to be looked at.
    if isinstance(raw, bytes) and raw.count(b"[") + raw.count(b"{") > DEEPEST and _deeper(body, DEEPEST):
        raise InvalidRequest(f"The body is nested deeper than {DEEPEST} levels.", code="json_too_deep")
    return body


def _deeper(body: dict[str, Any], most: int) -> bool:
    """Whether a value is nested deeper than so many levels; it is walked level by level."""
    level: list[Any] = [body]
    for _ in range(most):
        level = [
            inner
            for item in level
            for inner in (item.values() if type(item) is dict else item)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


def invalid_field(problem: str) -> InvalidRequest:
    """Turn the message of msgspec's `ValidationError` into ours, naming the field by its path."""
    match = _PATH.search(problem)
    path = match["path"] if match else ""
    what = problem[: match.start()] if match else problem
    missing = re.match(r"Object missing required field `(\w+)`", what)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
        return InvalidRequest(f"Missing required field: '{path}'.", param=path, code="missing_field")
    return InvalidRequest(f"Invalid value for '{path}': {what}.", param=path or None, code="invalid_type")


def _check(fields: ChatFields) -> None:
    """Check what types alone cannot say."""
    if not fields.messages:
        raise InvalidRequest(
            "Invalid value for 'messages': expected at least one message.",
            param="messages",
            code="empty_array",
        )
    _check_parts(fields.messages)
    _check_range("temperature", fields.temperature, 0, 2)
    _check_range("top_p", fields.top_p, 0, 1)
    _check_range("max_tokens", fields.max_tokens, 1, MOST_TOKENS)
    _check_range("max_completion_tokens", fields.max_completion_tokens, 1, MOST_TOKENS)
    _check_range("n", fields.n, 1, 128)
    _check_range("top_logprobs", fields.top_logprobs, 0, 20)
    if fields.cache is not None and len(fields.cache.namespace) > 200:
        raise InvalidRequest(
            "Invalid value for 'cache.namespace': expected at most 200 characters.", param="cache.namespace"
        )
    if fields.cache is not None and fields.cache.ttl is not None and not fields.cache.ttl > 0:
        raise InvalidRequest(
            "Invalid value for 'cache.ttl': expected more than 0 seconds.", param="cache.ttl"
        )
    _check_tools(fields)
    form = fields.response_format
    if (
        form is not None
        and form.type == "json_schema"
        and (form.json_schema is None or not form.json_schema.definition)
    ):
        path = "response_format.json_schema.schema"
        raise InvalidRequest(f"Missing required field: '{path}'.", param=path, code="missing_field")


_PART_TYPES = frozenset({"text", "image_url", "input_audio", "file", "refusal"})


def _check_parts(messages: list[Message]) -> None:
    for at, message in enumerate(messages):
        if not isinstance(message.content, list):
            continue
        for part_at, part in enumerate(message.content):
            if part.type not in _PART_TYPES:
                path = f"messages[{at}].content[{part_at}].type"
                raise InvalidRequest(
                    f"Invalid value for '{path}': unsupported content part; expected one of "
                    f"{', '.join(sorted(_PART_TYPES))}.",
                    param=path,
                    code="unsupported_content_part",
                )
            if part.type == "text" and part.text is None:
                path = f"messages[{at}].content[{part_at}].text"
                raise InvalidRequest(f"Missing required field: '{path}'.", param=path, code="missing_field")


def _check_range(name: str, value: float | None, low: float, high: float | None) -> None:
    if value is None or (value >= low and (high is None or value <= high)):
        return
    expected = f"at least {low}" if high is None else f"between {low} and {high}"
    raise InvalidRequest(f"Invalid value for '{name}': expected {expected}.", param=name, code="out_of_range")


def _check_tools(fields: ChatFields) -> None:
    for at, tool in enumerate(fields.tools or ()):
        if tool.type == "function" and tool.function is None:
            path = f"tools[{at}].function"
            raise InvalidRequest(f"Missing required field: '{path}'.", param=path, code="missing_field")
    choice = fields.tool_choice
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        raise InvalidRequest(
            "Invalid value for 'tool_choice': expected 'auto', 'none', 'required' or a named function.",
            param="tool_choice",
        )
    named = choice.function.name if isinstance(choice, NamedToolChoice) and choice.function else None
    if named is not None and named not in {
        tool.function.name for tool in fields.tools or () if tool.function
    }:
        raise InvalidRequest(
            "Invalid value for 'tool_choice': that function is not among 'tools'.", param="tool_choice"
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer of one model.

    Attributes:
        body: OpenAI's `chat.completion` object; `body["model"]` is the model that answered.
        usage: Token counts, or None where the model sent none.
        retries: How often the call was tried again before it succeeded.
        billed_tries: Of the tries that failed, those that the provider may bill.
        confidence: How sure the model was, where it is one whose probabilities are at hand.
        cut: Whether it was cut by a limit of the model's own (its context, or what it is set to where the caller sets
            none), before the caller's limit on its length was reached.
    """

    body: dict[str, Any]
    usage: Usage | None
    retries: int = 0
    confidence: Confidence | None = None
    cut: bool = False
    billed_tries: int = 0


class ReplyStream:
    """A streamed answer of one model: iterate over `chat.completion.chunk` objects, each as JSON bytes.

    The last chunk before the end may carry `usage` with empty `choices`. Iterating raises `StreamBroken` or
    `ModelTimeout` when it fails midway. `aclose()` stops the model and frees what it holds; it is safe to call twice.

    Attributes:
        retries, billed_tries: As a `Reply`'s.
        confidence: How sure the model was of what came so far, where its probabilities are at hand.
        tells_confidence: Whether `confidence` will be set at all.
        cut: Once it has ended, whether it was cut by a limit of the model's own, as a `Reply`'s.
    """

    tells_confidence = False

    def __init__(self, chunks: AsyncIterator[bytes], *, retries: int = 0, billed_tries: int = 0) -> None:
        self._chunks = chunks
        self.retries = retries
        self.billed_tries = billed_tries
        self.confidence: Confidence | None = None
        self.cut = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    @property
    def ready(self) -> bool:
        """Whether it is known that the next chunk is there already; where nobody knows, it is not."""
        chunks: object = self._chunks
        return chunks is not self and getattr(chunks, "ready", False) is True

    async def aclose(self) -> None:
        """Stop the model; nothing more is yielded."""
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()
