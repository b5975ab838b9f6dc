"""What makes two requests the same: everything that may change the answer."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

import msgspec

from ..wire import METADATA_HINTS, ChatRequest

PREFIX = "smallfirst:1"

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

_encode = msgspec.json.Encoder(order="sorted").encode


def cache_key(request: ChatRequest, *, target: str) -> str:
    """Return the key of a request: tenant and namespace in clear (quoted), the rest hashed.

    Args:
        target: Stands for the model or the policy with its models (`Target.fingerprint`).
    """
    control = request.fields.cache
    metadata = request.fields.metadata
    body: dict[str, Any] = {key: value for key, value in request.body.items() if key not in _LEFT_OUT}
    raw_metadata = request.body.get("metadata") or {}
    own = {key: value for key, value in raw_metadata.items() if key not in METADATA_HINTS}
    # A request that must stay in the house is another request: its answer must come from a model in the house.
    private = "local" in (
        request.headers.get("x-smallfirst-privacy", "").strip().lower(),
        metadata.privacy if metadata else None,
    )
    digest = hashlib.blake2b(_encode([target, private, own, body]), digest_size=20).hexdigest()
    return f"{key_prefix(request.tenant, control.namespace if control else '')}{digest}"


def key_prefix(tenant: str, namespace: str | None = None) -> str:
    """Return what all keys of a tenant, or of one of its namespaces, begin with.

    Both are quoted, so that neither can contain the separator and reach into another's.
    """
    start = f"{PREFIX}:{quote(tenant, safe='')}:"
    return start if namespace is None else f"{start}{quote(namespace, safe='')}:"
