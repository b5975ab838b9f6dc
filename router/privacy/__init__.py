"""What in a text is nobody else's business: found, kept in the house, or taken out and put back."""

from .kinds import Kind, Span
from .structured import find_spans, redact

__all__ = ["Kind", "Span", "find_spans", "redact"]
