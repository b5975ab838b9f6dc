"""What a request asks of a model, read off its fields."""

from __future__ import annotations

from smallfirst.policies import Needs
from smallfirst.policies.types import Capability

from .hints import Hints
from .wire import ChatFields, ChatRequest

_PART_CAPABILITY: dict[str, Capability] = {"image_url": "images", "input_audio": "audio", "file": "files"}


def needs_of(request: ChatRequest, hints: Hints, *, input_tokens: int, pinned: str | None) -> Needs:
    """Return the hard constraints of a request.

    Args:
        input_tokens: Estimated length of the prompt.
        pinned: The model that the caller named, or None under `auto`.
    """
    screening = request.screening
    kept = screening is not None and screening.keeps_local
    return Needs(
        input_tokens=input_tokens,
        output_tokens=request.max_output_tokens,
        capabilities=_capabilities(request.fields),
        privacy="local" if kept else hints.privacy,
        personal=screening.kinds if screening is not None and kept else (),
        pinned=pinned,
        whole=not request.fields.stream,
    )


def _capabilities(fields: ChatFields) -> frozenset[Capability]:
    found: set[Capability] = set()
    if fields.tools and fields.tool_choice != "none":
        found.add("tools")
    if fields.response_format is not None and fields.response_format.type != "text":
        found.add("json_schema" if fields.response_format.type == "json_schema" else "json_object")
    if fields.logprobs:
        found.add("logprobs")
    if (fields.n or 1) > 1:
        found.add("multiple")
    for message in fields.messages:
        if isinstance(message.content, list):
            found.update(
                _PART_CAPABILITY[part.type] for part in message.content if part.type in _PART_CAPABILITY
            )
    return frozenset(found)
