"""OpenAI's older text completions: a prompt becomes one message of a user."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..answer import Answer, Receipt
from ..errors import RequestError, StreamBroken, UpstreamError
from ..wire import ChatRequest, Usage, decode_object
from .base import UNKNOWN_USAGE, refuse, typed, without

MOST_PROMPTS = 64


class CompletionFields(msgspec.Struct, frozen=True):
    """The body of `/v1/completions`, as far as it is read here; every other field goes upstream as it is."""

    prompt: str | list[str | int | list[int]]
    model: str = "auto"
    stream: bool | None = None
    n: int | None = None
    max_tokens: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    best_of: int | None = None


_KNOWN = frozenset({"prompt", "stream", "max_tokens", "echo", "suffix", "logprobs", "best_of"})
# A completion has no room for what these lead to.
_FOREIGN = ("messages", "tools", "functions", "response_format")


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """A request for one prompt's completions.

    Attributes:
        request: What the gateway is asked.
        prompt: The prompt.
        echo: Whether the prompt comes before the completion.
    """

    request: ChatRequest
    prompt: str
    echo: bool = False

    def reply(self, answer: Answer) -> dict[str, Any]:
        """Return the `text_completion` object."""
        body = answer.body
        usage = (answer.usage or UNKNOWN_USAGE).to_wire()
        return {
            **_base(answer.receipt),
            "choices": [self._choice(choice) for choice in body["choices"]],
            "usage": usage,
        }

    def events(self, receipt: Receipt, usage: Usage) -> CompletionEvents:
        """Return what translates a streamed answer."""
        return CompletionEvents(self, receipt)

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        message = choice["message"]
        if message.get("tool_calls"):
            raise UpstreamError("The model made a call where a text was asked for.", status=502)
        text = message.get("content") or message.get("refusal") or ""
        entries = (choice.get("logprobs") or {}).get("content")
        return {
            "text": self.prompt + text if self.echo else text,
            "index": choice.get("index", 0),
            "logprobs": None if entries is None else logprobs_of(entries),
            "finish_reason": choice.get("finish_reason"),
        }


class CompletionEvents:
    """Translates one stream; see `Events`."""

    def __init__(self, call: CompletionCall, receipt: Receipt) -> None:
        self._call = call
        self._base = _base(receipt)
        self._echoed: set[int] = set()
        self._offsets: dict[int, int] = {}
        options = call.request.fields.stream_options
        self._wants_usage = options is not None and options.include_usage

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk."""
        try:
            choices = _decode(chunk).choices
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise StreamBroken("The model's stream has a chunk that cannot be read.") from exc
        shown = [self._choice(choice) for choice in choices or ()]
        shown = [
            choice for choice in shown if choice["text"] or choice["finish_reason"] or choice["logprobs"]
        ]
        return _event({**self._base, "choices": shown}) if shown else b""

    def end(self, usage: Usage) -> bytes:
        """Return the last events."""
        last = _event({**self._base, "choices": [], "usage": usage.to_wire()}) if self._wants_usage else b""
        return last + b"data: [DONE]\n\n"

    def error(self, exc: RequestError) -> bytes:
        """Return the error event; `[DONE]` does not follow."""
        return _event(exc.body())

    def _choice(self, choice: _Choice) -> dict[str, Any]:
        delta = choice.delta or _Delta()
        if delta.tool_calls:
            raise StreamBroken("The model made a call where a text was asked for.")
        text = delta.content or delta.refusal or ""
        if self._call.echo and choice.index not in self._echoed:
            self._echoed.add(choice.index)
            text = self._call.prompt + text
        entries = choice.logprobs.content if choice.logprobs else None
        offset = self._offsets.get(choice.index, 0)
        self._offsets[choice.index] = offset + len(text)
        return {
            "text": text,
            "index": choice.index,
            "logprobs": None if entries is None else logprobs_of(entries, offset),
            "finish_reason": choice.finish_reason,
        }


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None


class _Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


def parse(
    raw: bytes | dict[str, Any], *, headers: dict[str, str], tenant: str = "default"
) -> list[CompletionCall]:
    """Read a request: one call for each prompt.

    Raises:
        InvalidRequest: A field is wrong, or cannot be translated; the message names it.
    """
    body = decode_object(raw)
    fields = typed(body, CompletionFields)
    prompts = _prompts(fields)
    _check(body, fields)
    chat = without(body, _KNOWN)
    if fields.stream is not None:
        chat["stream"] = fields.stream
    if fields.max_tokens is not None:
        chat["max_completion_tokens"] = fields.max_tokens
    if fields.logprobs is not None:
        chat |= {"logprobs": True, "top_logprobs": fields.logprobs}
    return [
        CompletionCall(
            ChatRequest.parse(
                {**chat, "messages": [{"role": "user", "content": prompt}]}, headers=headers, tenant=tenant
            ),
            prompt,
            bool(fields.echo),
        )
        for prompt in prompts
    ]


def together(replies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the answers to several prompts as one: the choices of the first prompt, then those of the next."""
    choices = [choice for reply in replies for choice in reply["choices"]]
    usage = {
        name: sum(reply["usage"][name] for reply in replies)
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    }
    return {
        **replies[0],
        "choices": [choice | {"index": at} for at, choice in enumerate(choices)],
        "usage": usage,
    }


def logprobs_of(entries: Sequence[Mapping[str, Any]], offset: int = 0) -> dict[str, Any]:
    """Return logprobs as this wire has them.

    Args:
        entries: As chat completions have them.
        offset: Where in the text the first token begins, in characters.
    """
    tokens = [entry["token"] for entry in entries]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {top["token"]: top["logprob"] for top in entry.get("top_logprobs") or ()} for entry in entries
        ],
        "text_offset": offsets,
    }


def _base(receipt: Receipt) -> dict[str, Any]:
    return {
        "id": "cmpl-" + receipt.request_id.removeprefix("req_"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": receipt.model,
    }


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def _prompts(fields: CompletionFields) -> list[str]:
    prompts = [fields.prompt] if isinstance(fields.prompt, str) else fields.prompt
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise refuse("prompt", f"expected 1 to {MOST_PROMPTS} texts", code="invalid_value")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise refuse("prompt", "expected text: token ids mean something else to every model")
    if len(texts) > 1 and fields.stream:
        raise refuse("prompt", "several prompts cannot be streamed; expected one")
    return texts


def _check(body: Mapping[str, Any], fields: CompletionFields) -> None:
    for name in _FOREIGN:
        if body.get(name):
            raise refuse(name, "a text completion cannot have it; use /v1/chat/completions")
    if fields.suffix:
        raise refuse("suffix", "chat models do not fill gaps")
    if fields.best_of is not None and fields.best_of > (fields.n or 1):
        raise refuse("best_of", "expected no more than 'n'")
    if fields.max_tokens is not None and fields.max_tokens < 1:
        raise refuse("max_tokens", "expected at least 1", code="out_of_range")
    if fields.logprobs is not None and not 0 <= fields.logprobs <= 20:
        raise refuse("logprobs", "expected between 0 and 20", code="out_of_range")
    if fields.logprobs is not None and fields.echo:
        raise refuse("logprobs", "a prompt that is echoed has none; set 'echo' to false")
