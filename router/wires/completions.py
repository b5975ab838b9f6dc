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
from .base import UNKNOWN_USAGE, NothingToSettle, receipt_field, refuse, renamed, typed, without
from .upstream import Piece, Said, WholeChoice, choices_of, pieces_of

MOST_PROMPTS = 64

_CALLED = "The model made a call where a text was asked for."


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
# Chat completions' names -> this wire's, for errors.
_NAMES = {"messages": "prompt", "max_completion_tokens": "max_tokens", "top_logprobs": "logprobs"}
# A completion has no room for what these lead to.
_FOREIGN = ("messages", "tools", "functions", "response_format")


@dataclass(frozen=True, slots=True)
class CompletionCall(NothingToSettle):
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
        usage = (answer.usage or UNKNOWN_USAGE).to_wire()
        return {
            **_base(answer.receipt),
            "choices": [self._choice(choice) for choice in choices_of(answer.body)],
            "usage": usage,
        }

    def events(self, receipt: Receipt, usage: Usage) -> CompletionEvents:
        """Return what translates a streamed answer."""
        return CompletionEvents(self, receipt)

    def _choice(self, choice: WholeChoice) -> dict[str, Any]:
        message = choice.message
        if message.calls:
            raise UpstreamError(_CALLED, status=502)
        text = message.text or message.refusal or ""
        entries = choice.logprobs.entries if choice.logprobs else None
        return {
            "text": self.prompt + text if self.echo else text,
            "index": choice.index,
            "logprobs": None if entries is None else logprobs_of(entries),
            "finish_reason": choice.finish_reason,
        }


class CompletionEvents(NothingToSettle):
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
        shown = [self._choice(choice) for choice in pieces_of(chunk)]
        shown = [
            choice for choice in shown if choice["text"] or choice["finish_reason"] or choice["logprobs"]
        ]
        return _event({**self._base, "choices": shown}) if shown else b""

    def end(self, usage: Usage, receipt: Receipt | None = None) -> bytes:
        """Return the last events."""
        counts = {"choices": [], "usage": usage.to_wire(), **receipt_field(receipt)}
        return (_event({**self._base, **counts}) if self._wants_usage else b"") + b"data: [DONE]\n\n"

    def error(self, exc: RequestError) -> bytes:
        """Return the error event; `[DONE]` does not follow."""
        return _event(error_body(exc))

    def _choice(self, choice: Piece) -> dict[str, Any]:
        delta = choice.delta or Said()
        if delta.calls:
            raise StreamBroken(_CALLED)
        text = delta.text or delta.refusal or ""
        if self._call.echo and choice.index not in self._echoed:
            self._echoed.add(choice.index)
            text = self._call.prompt + text
        entries = choice.logprobs.entries if choice.logprobs else None
        # By tokens, and not by the text of the chunks: those of a stored answer come with the last one.
        offset = self._offsets.get(choice.index, 0)
        self._offsets[choice.index] = offset + sum(len(entry["token"]) for entry in entries or ())
        return {
            "text": text,
            "index": choice.index,
            "logprobs": logprobs_of(entries, offset) if entries else None,
            "finish_reason": choice.finish_reason,
        }


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


def error_body(exc: RequestError) -> dict[str, Any]:
    """Return an error in OpenAI's shape, with this wire's names of fields."""
    return renamed(exc.body(), _NAMES)


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
