"""What the operator wants, and the pure function that decides by it. Knows nothing of HTTP, llama.cpp or Redis."""

from .decide import decide
from .policy import PRESETS, Policy, load_preset
from .types import Allowance, Attempt, Candidate, Decision, Needs, Refusal, Score

__all__ = [
    "PRESETS",
    "Allowance",
    "Attempt",
    "Candidate",
    "Decision",
    "Needs",
    "Policy",
    "Refusal",
    "Score",
    "decide",
    "load_preset",
]
