"""How much a request is about what a function does, by static embeddings: microseconds, and no model is asked."""

from __future__ import annotations

from functools import cached_property

from ...scoring.embedding import TokenEmbedding
from ...wire import FunctionDef


class Likeness:
    """Compares requests with functions."""

    @cached_property
    def _embedding(self) -> TokenEmbedding:
        return TokenEmbedding.load()

    def read(self) -> None:
        """Read the embedding now: it takes a while the first time."""
        _ = self._embedding

    def of(self, text: str, function: FunctionDef) -> float:
        """Return the cosine in -1..1 between a text and what describes a function; 0 where either is empty."""
        asked, offered = self._embedding.embed([text, described(function)])
        return float(asked @ offered)


def described(function: FunctionDef) -> str:
    """Return a function's name and all words that describe it."""
    properties = (function.parameters or {}).get("properties")
    words = [function.name.replace("_", " "), function.description or ""]
    for name, schema in (properties if isinstance(properties, dict) else {}).items():
        description = schema.get("description", "") if isinstance(schema, dict) else ""
        words.append(f"{name} {description}")
    return " ".join(words)
