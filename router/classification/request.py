"""`/v1/classify`: texts and labels in, probabilities out. A thin form of a chat completion with an `enum`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..answer import Answer
from ..errors import InvalidRequest
from ..wire import invalid_field

MOST_LABELS = 1000
MOST_TEXTS = 256
_LONGEST_LABEL = 200

_INSTRUCTIONS = "Classify the user's message. Answer with exactly one label from this list:\n{labels}"


class ClassifyFields(msgspec.Struct, frozen=True):
    """The body.

    Attributes:
        text: One text or several.
        labels: Two or more, all different.
        model: As for a chat completion; None takes a classifier that was trained for these labels, else the first
            local model.
        instructions: What the labels mean, in place of one sentence that lists them.
    """

    text: str | list[str]
    labels: list[str]
    model: str | None = None
    instructions: str | None = None
    metadata: dict[str, Any] | None = None
    cache: dict[str, Any] | None = None

    @property
    def texts(self) -> list[str]:
        """The texts as a list."""
        return [self.text] if isinstance(self.text, str) else self.text


def parse(raw: bytes | Mapping[str, Any]) -> ClassifyFields:
    """Decode and check a body.

    Raises:
        InvalidRequest: The JSON is broken or a field is wrong; the message names the field.
    """
    try:
        body = msgspec.json.decode(raw) if isinstance(raw, bytes) else dict(raw)
        if isinstance(body, dict) and "input" in body and "text" not in body:
            body["text"] = body.pop("input")  # as the embeddings endpoint calls it
        fields = msgspec.convert(body, ClassifyFields)
    except msgspec.ValidationError as exc:
        raise invalid_field(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}", code="invalid_json") from exc
    _check_labels(fields.labels)
    if not 1 <= len(fields.texts) <= MOST_TEXTS:
        raise _invalid("text", f"expected 1 to {MOST_TEXTS} texts")
    for at, text in enumerate(fields.texts):
        if not text.strip():
            raise _invalid(
                "text" if isinstance(fields.text, str) else f"text[{at}]", "expected a text that is not empty"
            )
    return fields


def _check_labels(labels: Sequence[str]) -> None:
    if not 2 <= len(labels) <= MOST_LABELS:
        raise _invalid("labels", f"expected 2 to {MOST_LABELS} labels, not {len(labels)}")
    seen: set[str] = set()
    for at, label in enumerate(labels):
        if not label.strip() or len(label) > _LONGEST_LABEL:
            raise _invalid(f"labels[{at}]", f"expected 1 to {_LONGEST_LABEL} characters")
        if label in seen:
            raise _invalid(f"labels[{at}]", "the label is given twice")
        seen.add(label)


def _invalid(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {what}.", param=param, code="invalid_value")


def chat_body(fields: ClassifyFields, text: str, model: str) -> dict[str, Any]:
    """Return the chat completion that classifies one text."""
    instructions = fields.instructions or _INSTRUCTIONS.format(labels=", ".join(fields.labels))
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": fields.labels}},
        "required": ["label"],
        "additionalProperties": False,
    }
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "system", "content": instructions}, {"role": "user", "content": text}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "label", "strict": True, "schema": schema},
        },
    }
    return body | {key: value for key in ("metadata", "cache") if (value := getattr(fields, key)) is not None}


def result_of(answer: Answer) -> dict[str, Any]:
    """Return one text's result: `probabilities` are None where a cloud model answered, which tells none."""
    known = answer.body.get("classification") or {}
    try:
        label = msgspec.json.decode(answer.text.encode())["label"]
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
        label = None
    return {
        "label": label,
        "probabilities": known.get("probabilities"),
        "method": known.get("method", "cloud"),
        "model": answer.body["model"],
    }
