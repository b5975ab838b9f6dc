"""What the pretended upstream of a soak does wrong: to which call, how, and how often; drawn from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Fault = Literal["reset", "error", "busy", "wait", "hang", "stall", "cut", "garbage", "slow", "down"]

# Probabilities for each call: about one of twenty fails. `down` is no call's: the model's port is closed for a while.
CHANCES: Mapping[Fault, float] = {
    "reset": 0.010,
    "error": 0.015,
    "busy": 0.005,
    "wait": 0.005,
    "hang": 0.001,
    "stall": 0.001,
    "cut": 0.008,
    "garbage": 0.005,
    "slow": 0.010,
}
WORDS: Mapping[Fault, str] = {
    "reset": "the connection is reset before an answer",
    "error": "500",
    "busy": "429",
    "wait": "429 with `Retry-After: 1`",
    "hang": "no answer at all",
    "stall": "the answer begins and does not go on",
    "cut": "the connection is closed in the middle of the answer",
    "garbage": "broken JSON",
    "slow": "the answer comes slowly, but in time",
    "down": "the port refuses connections for a while, and those that stand are reset",
}
# An answer comes all the same.
HARMLESS: frozenset[Fault] = frozenset({"slow"})

# Requests whose ids begin so are answered well: by them the capacity is measured.
CALM = "calm-"


@dataclass(frozen=True, slots=True)
class Draw:
    """What becomes of one call.

    Attributes:
        fault: None: it is answered well.
        input_tokens, output_tokens: That the upstream says were used, where it answers.
    """

    fault: Fault | None
    input_tokens: int
    output_tokens: int


def draw(seed: int, identity: str, model: str, time: int) -> Draw:
    """Draw what becomes of a call.

    Args:
        seed: Of the soak.
        identity: The request's.
        model: That is called.
        time: How often it was called for this request before.
    """
    digest = hashlib.blake2b(f"{seed}:{identity}:{model}:{time}".encode(), digest_size=16).digest()
    at = int.from_bytes(digest[:8], "big") / 2**64
    prompt, words = 20 + digest[8], 5 + digest[9]
    if identity.startswith(CALM):
        return Draw(None, prompt, words)
    for fault, chance in CHANCES.items():
        if at < chance:
            return Draw(fault, prompt, words)
        at -= chance
    return Draw(None, prompt, words)
