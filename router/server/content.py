"""Bounds on what a body may hold, by the names of the caller's own wire. Looked at before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ..errors import BodyTooLarge, InvalidRequest
from ..settings import Limits

# Longer than any name, and than what is kept of other labels.
MOST_NAME = 500
# OpenAI takes 4 stop strings, other servers more.
MOST_STOPS, LONGEST_STOP = 64, 1000
MOST_BIASES = 1024
# OpenAI takes 16 pairs of 64 and 512 characters.
MOST_METADATA, MOST_METADATA_BYTES = 64, 16 * 1024

# No body of so few bytes has too much of anything else than what the settings bound.
_SMALL = 2 * MOST_STOPS
# Bytes of the smallest part with data, and of the smallest item of a list.
_LEAST_PART, _LEAST_ITEM = 15, 2

_CONVERSATIONS = ("messages", "input", "system", "prompt")
_NAMES = ("model", "user", "prompt_cache_key", "previous_response_id", "safety_identifier")
_STOPS = ("stop", "stop_sequences")
_TOOLS = ("tools", "functions")
# Where a schema of the answer stands: chat completions, Responses, Messages.
_SCHEMAS = (
    ("response_format", "json_schema", "schema"),
    ("text", "format", "schema"),
    ("output_config", "format", "schema"),
)
# Parts that hold data: chat completions', the Responses API's, the Messages API's.
_MEDIA = frozenset(
    {
        "image_url", "input_audio", "file",
        "input_image", "input_file",
        "image", "document",
    }
)  # fmt: skip


def check_content(body: Mapping[str, Any], size: int, limits: Limits) -> None:
    """Check that nothing in a body is beyond its limit. What has a wrong type is left to who reads it.

    Args:
        body: The request's, in any wire.
        size: Its bytes: what cannot be in so few is not looked for.
        limits: The server's.

    Raises:
        InvalidRequest: Something is too much; names the field.
        BodyTooLarge: Images, sounds and files are too large together.
    """
    for name in _TOOLS:
        tools = body.get(name)
        if isinstance(tools, list) and len(tools) > limits.max_tools:
            raise _too_many(name, len(tools), limits.max_tools, "limits.max_tools")
    least = min(_LEAST_PART * limits.max_images, _LEAST_ITEM * limits.max_messages, limits.max_image_bytes)
    if size > least:
        _check_conversation(body, limits)
    if size <= _SMALL:
        return
    for name in _NAMES:
        value = body.get(name)
        if isinstance(value, str) and len(value) > MOST_NAME:
            raise _too_long(name, len(value), MOST_NAME)
    for name in _STOPS:
        _check_stops(name, body.get(name))
    biases = body.get("logit_bias")
    if isinstance(biases, dict) and len(biases) > MOST_BIASES:
        raise _too_many_keys("logit_bias", len(biases), MOST_BIASES)
    if size > limits.max_schema_bytes:
        _check_schemas(body, limits)
    _check_metadata(body.get("metadata"), size)


def _check_conversation(body: Mapping[str, Any], limits: Limits) -> None:
    count = images = data = 0
    for name in _CONVERSATIONS:
        items = body.get(name)
        if not isinstance(items, list):
            continue
        count += len(items)
        if count > limits.max_messages:
            raise _too_many(name, count, limits.max_messages, "limits.max_messages")
        for at, item in enumerate(items):
            # `input` and `system` may be lists of texts and of parts, too.
            if not isinstance(item, dict):
                continue
            parts = item.get("content") or item.get("output")
            if isinstance(parts, str) and not _is_media(item):
                continue
            nested = parts if isinstance(parts, list) else (item,) if _is_media(item) else ()
            for where, part in _parts(nested, f"{name}[{at}]"):
                count += 1
                if count > limits.max_messages:
                    raise _too_many(where, count, limits.max_messages, "limits.max_messages")
                if _is_media(part):
                    images += 1
                    data += _data_in(part)
                    if images > limits.max_images:
                        raise _too_many(where, images, limits.max_images, "limits.max_images")
                    if data > limits.max_image_bytes:
                        raise _too_much_data(where, limits.max_image_bytes)


def _is_media(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    # What is of another type is told later, and may be something that no set takes.
    return isinstance(kind, str) and kind in _MEDIA


def _parts(parts: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield parts, and those inside results of tools, with the field that they are in."""
    for part in parts:
        yield where, part
        inner = part.get("content") if isinstance(part, dict) else None
        if isinstance(inner, list):
            for below in inner:
                yield where, below


def _data_in(part: Mapping[str, Any]) -> int:
    """Return the length of the texts in a part that hold its data: they stand at most two levels below it."""
    size = 0
    for value in part.values():
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, dict):
            size += sum(len(inner) for inner in value.values() if isinstance(inner, str))
    return size


def _check_stops(name: str, stops: Any) -> None:
    if isinstance(stops, list) and len(stops) > MOST_STOPS:
        raise _too_many(name, len(stops), MOST_STOPS)
    for stop in stops if isinstance(stops, list) else (stops,):
        if isinstance(stop, str) and len(stop) > LONGEST_STOP:
            raise _too_long(name, len(stop), LONGEST_STOP)


def _check_schemas(body: Mapping[str, Any], limits: Limits) -> None:
    """Check how large tools and schemas are as JSON: reading them costs more than other text."""
    found = [(name, body.get(name)) for name in _TOOLS]
    for path in _SCHEMAS:
        value: Any = body
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        found.append((".".join(path), value))
    for name, value in found:
        if not value:
            continue
        size = len(msgspec.json.encode(value))
        if size > limits.max_schema_bytes:
            most = f"at most {limits.max_schema_bytes} are taken ('limits.max_schema_bytes')"
            message = f"Invalid value for '{name}': {size} bytes of schemas; {most}."
            raise InvalidRequest(message, param=name, code="schema_too_large")


def _check_metadata(metadata: Any, size: int) -> None:
    if not isinstance(metadata, dict):
        return
    if len(metadata) > MOST_METADATA:
        raise _too_many_keys("metadata", len(metadata), MOST_METADATA)
    if size > MOST_METADATA_BYTES:
        length = len(msgspec.json.encode(metadata))
        if length > MOST_METADATA_BYTES:
            raise _too_long("metadata", length, MOST_METADATA_BYTES)


def _too_many(name: str, count: int, most: int, setting: str | None = None) -> InvalidRequest:
    by = f" ('{setting}')" if setting else ""
    message = f"Invalid value for '{name}': too long an array; at most {most} are taken{by}, not {count}."
    return InvalidRequest(message, param=name, code="array_above_max_length")


def _too_many_keys(name: str, count: int, most: int) -> InvalidRequest:
    message = f"Invalid value for '{name}': too many properties; at most {most} are taken, not {count}."
    return InvalidRequest(message, param=name, code="object_above_max_properties")


def _too_long(name: str, length: int, most: int) -> InvalidRequest:
    message = f"Invalid value for '{name}': too long; at most {most} characters are taken, not {length}."
    return InvalidRequest(message, param=name, code="string_above_max_length")


def _too_much_data(name: str, most: int) -> BodyTooLarge:
    message = f"Invalid value for '{name}': images, sounds and files together have more than {most} bytes"
    return BodyTooLarge(f"{message} ('limits.max_image_bytes').", param=name, code="images_too_large")
