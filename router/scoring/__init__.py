"""Scoring: how hard a request is, and who is likely to get it right."""

from .features import Features
from .scorer import Scorer

__all__ = ["Features", "Scorer"]
