"""For type checkers: `plain`'s functions, compiled."""

from .plain import Inference as Inference
from .plain import read_tokens as read_tokens
from .plain import unit_mean as unit_mean

WIDEST: int
