"""A request's body, text by text: everything in it that goes to a cloud, but for what is no text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from ..wire import GATEWAY_FIELDS, METADATA_HINTS

Path = tuple[str | int, ...]

# Arguments of calls are JSON inside of JSON: read as such, so that what is put in does not break them.
_JSON_TEXTS = frozenset({"arguments"})
# Files in base64.
_BINARY = frozenset({"data", "file_data"})
_DATA_ADDRESS = "data:"
# Numbers with fewer digits are nobody's.
_LEAST_NUMBER = 10**6


def named(path: Path) -> str:
    """Return a path as error messages name it: `messages[2].content`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def sent(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body without what only the gateway reads, and with the conversation last.

    What is found is numbered in this order. Tools and options stay as they are while a conversation grows, and so do
    their numbers then.
    """
    fields = {
        key: value
        for key, value in body.items()
        if key not in GATEWAY_FIELDS and key not in ("messages", "model")
    }
    metadata = fields.get("metadata")
    if isinstance(metadata, dict):
        fields["metadata"] = {key: value for key, value in metadata.items() if key not in METADATA_HINTS}
    return {**fields, "messages": body.get("messages")}


def texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield the texts of a JSON value with where they stand; names of fields too, unless they are plain identifiers."""
    if isinstance(value, str):
        if not value.startswith(_DATA_ADDRESS):
            yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not key.isidentifier():
                yield (*path, key), key
            if key in _BINARY and isinstance(inner, str):
                continue
            decoded = _decoded(key, inner)
            yield from texts(inner if decoded is None else decoded, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from texts(inner, (*path, at))
    elif _is_long_number(value) and _in_json_text(path):
        yield path, str(value)


def changed(value: Any, change: Callable[[str], str], *, numbers: bool = False) -> Any:
    """Return a JSON value with every text that `texts` yields changed; the same object where nothing changes.

    Args:
        value: Any JSON value.
        change: Returns what takes a text's place.
        numbers: Whether long numbers are texts, too: in arguments of calls.
    """
    if isinstance(value, str):
        return value if value.startswith(_DATA_ADDRESS) else change(value)
    if isinstance(value, dict):
        return _changed_object(value, change, numbers)
    if isinstance(value, list):
        items = [changed(inner, change, numbers=numbers) for inner in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if numbers and _is_long_number(value):
        said = change(str(value))
        return value if said == str(value) else said
    return value


def _changed_object(value: dict[str, Any], change: Callable[[str], str], numbers: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    same = True
    for key, inner in value.items():
        name = key if key.isidentifier() else change(key)
        decoded = _decoded(key, inner)
        if key in _BINARY and isinstance(inner, str):
            new: Any = inner
        elif decoded is not None:
            of = changed(decoded, change, numbers=True)
            new = inner if of is decoded else msgspec.json.encode(of).decode()
        else:
            new = changed(inner, change, numbers=numbers)
        same = same and name == key and new is inner
        fields[name] = new
    return value if same else fields


def _decoded(key: str, value: Any) -> Any:
    """Return what a JSON text holds, an object or a list; None where it is none."""
    if key not in _JSON_TEXTS or not isinstance(value, str):
        return None
    try:
        found = msgspec.json.decode(value.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return found if isinstance(found, (dict, list)) else None


def _is_long_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LEAST_NUMBER


def _in_json_text(path: Path) -> bool:
    return any(part in _JSON_TEXTS for part in path)
