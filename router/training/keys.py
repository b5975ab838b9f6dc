"""How a training row is recognised again: by a hash of its text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def text_of(body: Mapping[str, Any]) -> str:
    """Return a request's text, for comparing rows; messages only."""
    parts = []
    for message in body["messages"]:
        content = message.get("content")
        parts.append(content if isinstance(content, str) else json.dumps(content, sort_keys=True))
    return "\n".join(parts)


def row_key(body: Mapping[str, Any]) -> int:
    """Return 64 bits that name a request by its messages' text."""
    digest = hashlib.blake2b(text_of(body).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
