"""What makes two requests the same: everything that may change the answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from ..errors import InvalidRequest
from ..wire import ChatRequest

PREFIX = "smallfirst:2"

# What begins the last part of a key that is no answer's: of a partition, and of a claim.
PARTITION, CLAIM = "~", "!"

# Fields that cannot change the answer: how it is delivered, and labels. Every other field is part of the key, unknown
# ones too. `model` is replaced by the target: `auto` means something else under another policy.
_LEFT_OUT = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "metadata",
        "user",
        "cache",
        "prompt_cache_key",
        "safety_identifier",
        "store",
    }
)

# Raise when texts are embedded in another way: vectors of both must not be compared.
_VECTORS = 1

_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Identity:
    """A request as the cache knows it.

    Attributes:
        prefix: What all keys of its tenant and namespace begin with.
        key: Of its answer: the same for requests that are equal in all that may change the answer.
    """

    prefix: str
    key: str
    _request: ChatRequest
    _given: list[Any]
    _body: dict[str, Any]

    @classmethod
    def of(cls, request: ChatRequest, *, target: str) -> Identity:
        """Read a request.

        Args:
            target: Stands for the model or the policy with its models (`Target.fingerprint`).

        Raises:
            InvalidRequest: A text of it is no valid Unicode.
        """
        try:
            return cls._of(request, target)
        except UnicodeEncodeError as exc:
            raise InvalidRequest(
                "The request has half a surrogate pair in a text, which is no valid Unicode.",
                code="invalid_json",
            ) from exc

    @classmethod
    def _of(cls, request: ChatRequest, target: str) -> Identity:
        control, metadata = request.fields.cache, request.fields.metadata
        body = {key: value for key, value in request.body.items() if key not in _LEFT_OUT}
        body["messages"] = _with_plain_ids(body["messages"])
        # A request that must stay in the house is another request: its answer must come from a model in the house.
        private = "local" in (
            request.headers.get("x-smallfirst-privacy", "").strip().lower(),
            metadata.privacy if metadata else None,
        )
        given = [target, private]
        prefix = key_prefix(request.tenant, control.namespace if control else "")
        return cls(prefix, prefix + _digest([*given, body]), request, given, body)

    @property
    def question(self) -> str | None:
        """The text of the last message, where it is the user's; None where no other request may stand for this one."""
        last = self._request.fields.messages[-1]
        return (last.text or None) if last.role == "user" else None

    @property
    def partition(self) -> str:
        """Key of the set of requests that differ from this one in their last message's text at most.

        Tenant, namespace, model, settings, system prompt, tools (in any order), schema, earlier turns and tool results
        are all equal within it.
        """
        *earlier, last = self._body["messages"]
        body = {**self._body, "messages": [*earlier, _without_text(last)]}
        if body.get("tools"):
            body["tools"] = sorted(body["tools"], key=_encode)
        return f"{self.prefix}{PARTITION}{_digest([_VECTORS, *self._given, body])}"

    def claim(self, session: str) -> str:
        """Key by which a session is marked that has had this answer."""
        return f"{self.prefix}{CLAIM}{_digest([session, self.key])}"


def key_prefix(tenant: str, namespace: str | None = None) -> str:
    """Return what all keys of a tenant, or of one of its namespaces, begin with.

    Both are quoted, so that neither can contain the separator and reach into another's.
    """
    start = f"{PREFIX}:{quote(tenant, safe='')}:"
    return start if namespace is None else f"{start}{quote(namespace, safe='')}:"


def _digest(value: object) -> str:
    return hashlib.blake2b(_encode(value), digest_size=20).hexdigest()


def _with_plain_ids(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with tool calls numbered in place of their ids, which are drawn at random for every run.

    A call and its result keep the same number.
    """
    if not any("tool_calls" in message or "tool_call_id" in message for message in messages):
        return messages
    numbers: dict[Any, str] = {}

    def plain(of: dict[str, Any], field: str) -> dict[str, Any]:
        if not isinstance(of.get(field), str):
            return of
        return {**of, field: numbers.setdefault(of[field], f"call_{len(numbers)}")}

    def renamed(message: dict[str, Any]) -> dict[str, Any]:
        message = plain(message, "tool_call_id")
        calls = message.get("tool_calls")
        return {**message, "tool_calls": [plain(call, "id") for call in calls]} if calls else message

    return [renamed(message) for message in messages]


def _without_text(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with what it has beside text: a name, and images with the places of texts among them."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    if all(part.get("type") == "text" for part in parts):
        return {**message, "content": []}
    return {
        **message,
        "content": [{"type": "text"} if part.get("type") == "text" else part for part in parts],
    }
