"""The engine: many replies at once from one model in memory. Knows tokens, not chat."""

from .engine import Engine
from .grammar import GrammarError, Grammars, Matcher
from .native import ContextOptions, NativeModel
from .sampling import SamplingParams, Token
from .sequence import End, Job, LabelsJob, Sequence, Sink, Turn

__all__ = [
    "ContextOptions",
    "End",
    "Engine",
    "GrammarError",
    "Grammars",
    "Job",
    "LabelsJob",
    "Matcher",
    "NativeModel",
    "SamplingParams",
    "Sequence",
    "Sink",
    "Token",
    "Turn",
]
