"""Embeddings by local models: OpenAI's request and reply."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from .errors import InvalidRequest, ModelNotFound
from .models.base import Embedder, Model
from .settings import AnyModelSettings, LocalModelSettings
from .wire import invalid_field

MOST_TEXTS = 2048


class EmbeddingFields(msgspec.Struct, frozen=True):
    """The body of `/v1/embeddings`.

    Attributes:
        input: One text or several.
        encoding_format: `base64` packs each vector as little-endian single-precision numbers; None,
            which LiteLLM sends, is the same as `float`.
        dimensions: Only the model's own number is possible: its vectors cannot be cut.
    """

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None
    user: str | None = None

    @property
    def texts(self) -> list[str]:
        """The texts as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


def parse(raw: bytes) -> EmbeddingFields:
    """Decode and check a body.

    Raises:
        InvalidRequest: The JSON is broken or a field is wrong; the message names the field.
    """
    try:
        fields = msgspec.json.decode(raw, type=EmbeddingFields)
    except msgspec.ValidationError as exc:
        raise invalid_field(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}", code="invalid_json") from exc
    if not 1 <= len(fields.texts) <= MOST_TEXTS:
        raise InvalidRequest(
            f"Invalid value for 'input': expected 1 to {MOST_TEXTS} texts.",
            param="input",
            code="invalid_value",
        )
    return fields


def embedder_of(configured: Sequence[AnyModelSettings], models: Mapping[str, Model], name: str) -> Embedder:
    """Return the model that embeds.

    Args:
        configured: All models' settings.
        models: By name.
        name: The model that is asked for.

    Raises:
        ModelNotFound: No model of that name is configured with `embeddings: true`.
    """
    able = [spec.name for spec in configured if isinstance(spec, LocalModelSettings) and spec.embeddings]
    found = models.get(name)
    if name in able and isinstance(found, Embedder):
        return found
    known = f"Available: {', '.join(able)}" if able else "None is; set 'embeddings: true' on a local model"
    raise ModelNotFound(f"No model '{name[:100]}' is configured for embeddings. {known}.", param="model")


def reply_body(
    fields: EmbeddingFields, model: str, vectors: Sequence[Sequence[float]], tokens: int
) -> dict[str, Any]:
    """Return OpenAI's reply.

    Raises:
        InvalidRequest: Other `dimensions` were asked for than the model has.
    """
    if fields.dimensions is not None and fields.dimensions != len(vectors[0]):
        raise InvalidRequest(
            f"Invalid value for 'dimensions': model '{model}' has {len(vectors[0])}.",
            param="dimensions",
            code="invalid_value",
        )
    encode = _packed if fields.encoding_format == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
