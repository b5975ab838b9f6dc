"""Classification: a request that may be answered by one of a list of labels, and the labels' probabilities."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from ...wire import ChatFields, ChatRequest

# What a text without content says about the labels is the model's bias towards them, which is taken out again:
# contextual calibration (Zhao et al. 2021, "Calibrate before use", arXiv:2102.09690) in the form of a difference of
# log-probabilities (Holtzman et al. 2021, arXiv:2104.08315).
CONTENT_FREE = "N/A"
_KEPT = 64


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
    if not isinstance(schema, dict) or set(schema) - {"type", "enum", "title", "description"}:
        return None
    labels = schema.get("enum")
    if not isinstance(labels, list) or schema.get("type", "string") != "string":
        return None
    if len(labels) < 2 or len(set(map(str, labels))) < len(labels):
        return None
    return tuple(labels) if all(isinstance(label, str) and label for label in labels) else None


def without_content(request: ChatRequest) -> ChatRequest | None:
    """Return the request with a text that says nothing in place of the one to classify.

    None where the text cannot be told from the instructions: they must stand in a system message.
    """
    *before, last = request.body["messages"]
    if last["role"] != "user" or not any(message["role"] in ("system", "developer") for message in before):
        return None
    return ChatRequest.parse(
        request.body | {"messages": [*before, {"role": "user", "content": CONTENT_FREE}]}
    )


def probabilities(
    scores: Sequence[float], bias: Sequence[float] | None, lengths: Sequence[int], *, sharpness: float
) -> list[float]:
    """Return the labels' probabilities.

    Args:
        scores: Mean log-probability of each label's tokens.
        bias: The same where the text says nothing; None leaves it out.
        lengths: Tokens of each label.
        sharpness: What a difference of scores counts in logits.
    """
    values = np.asarray(scores) - (0.0 if bias is None else np.asarray(bias))
    weights = np.exp((values - values.max()) * sharpness)
    shares: list[float] = (weights / weights.sum()).tolist()
    return shares


class BiasMemory:
    """Remembers what the model says of a text without content, by prompt: the least recently used are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], tuple[float, ...]] = OrderedDict()

    def get(self, prompt: tuple[int, ...]) -> tuple[float, ...] | None:
        """Return the scores for a prompt."""
        if prompt in self._known:
            self._known.move_to_end(prompt)
        return self._known.get(prompt)

    def put(self, prompt: tuple[int, ...], scores: tuple[float, ...]) -> None:
        """Remember them."""
        self._known[prompt] = scores
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)


def _json(value: str) -> str:
    return msgspec.json.encode(value).decode()


def described(choice: LabelChoice, shares: Sequence[float]) -> Mapping[str, float]:
    """Return probabilities by label, likeliest first."""
    order = sorted(zip(choice.labels, shares, strict=True), key=lambda pair: -pair[1])
    return dict(order)
