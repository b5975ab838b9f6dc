"""Requests that leave nothing open but one of some labels: classification in the form of `response_format`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..wire import ChatFields

_LABEL_KEYS = frozenset({"type", "enum", "title", "description"})


@dataclass(frozen=True, slots=True)
class LabelChoice:
    """What a `response_format` that leaves nothing open but one of some strings asks for.

    Attributes:
        key: The property that holds the label; None where the answer is the label itself, as a JSON string.
        labels: At least two, all different.
    """

    key: str | None
    labels: tuple[str, ...]

    @property
    def opening(self) -> str:
        """What the answer has before the label."""
        return '"' if self.key is None else f'{{{_json(self.key)}: "'

    def written(self, label: str) -> str:
        """Return the rest of the answer for a label."""
        return _json(label)[1:] + ("" if self.key is None else "}")

    def answer(self, label: str) -> str:
        """Return the whole answer for a label."""
        return self.opening + self.written(label)


def label_choice(fields: ChatFields) -> LabelChoice | None:
    """Return the choice that a request leaves, or None where it asks for more than a label."""
    form = fields.response_format
    if form is None or form.json_schema is None or form.json_schema.definition is None:
        return None
    if (fields.tools and fields.tool_choice != "none") or fields.logprobs:
        return None
    schema = form.json_schema.definition
    labels = _labels(schema)
    if labels is not None:
        return LabelChoice(None, labels)
    properties = schema.get("properties")
    if not isinstance(properties, dict) or len(properties) != 1 or schema.get("type", "object") != "object":
        return None
    if set(schema) - {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "title",
        "description",
        "$schema",
    }:
        return None
    (key, value), *_ = properties.items()
    labels = _labels(value)
    return None if labels is None or schema.get("required") != [key] else LabelChoice(key, labels)


def _labels(schema: Any) -> tuple[str, ...] | None:
    if not isinstance(schema, dict) or set(schema) - _LABEL_KEYS:
        return None
    labels = schema.get("enum")
    if not isinstance(labels, list) or schema.get("type", "string") != "string":
        return None
    if len(labels) < 2 or len(set(map(str, labels))) < len(labels):
        return None
    return tuple(labels) if all(isinstance(label, str) and label for label in labels) else None


def ranked(choice: LabelChoice, shares: Sequence[float]) -> dict[str, float]:
    """Return probabilities by label, likeliest first."""
    return dict(sorted(zip(choice.labels, shares, strict=True), key=lambda pair: -pair[1]))


def text_of(fields: ChatFields) -> str:
    """Return what is to be classified: the last user message."""
    return next((message.text for message in reversed(fields.messages) if message.role == "user"), "")


def _json(value: str) -> str:
    return msgspec.json.encode(value).decode()
