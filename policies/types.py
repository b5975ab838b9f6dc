"""The values that a decision is made of: what a request needs, how it scored, who could answer, and the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Tier = Literal["local", "cloud"]
Capability = Literal[
    "tools", "images", "audio", "files", "json_schema", "json_object", "logprobs", "multiple"
]
TaskKind = Literal[
    "function_call", "classification", "extraction", "summarisation", "knowledge", "reading", "reasoning", "code",
    "creative", "chat", "agent",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request asks of a model; hard constraints.

    Attributes:
        input_tokens: Estimated prompt length, tools included.
        output_tokens: The caller's limit on the answer's length, or None where none was given.
        capabilities: What the model must be able to do.
        privacy: `local` where the data may not leave the house.
        pinned: A model that the caller named, or None for the policy's choice.
    """

    input_tokens: int
    output_tokens: int | None = None
    capabilities: frozenset[Capability] = frozenset()
    privacy: Literal["any", "local"] = "any"
    pinned: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How hard a request is, and who is likely to get it right.

    Attributes:
        success: P(the model's answer is right) by model name, each in [0, 1].
        task: The most likely kind of task.
        difficulty: In [0, 1]; 0 is trivial.
        known: False where the request is unlike everything that the classifier has seen: the other values are then
            no evidence, and the policy says what that means.
    """

    success: Mapping[str, float]
    task: TaskKind
    difficulty: float
    known: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configured model, as deciding sees it.

    Attributes:
        name: As configured.
        tier: `local` runs in this house, `cloud` sends data out.
        context_tokens: Prompt and answer together, in tokens.
        capabilities: What it can do.
        available: False where it is known to be down.
    """

    name: str
    tier: Tier
    context_tokens: int
    capabilities: frozenset[Capability] = frozenset()
    available: bool = True


@dataclass(frozen=True, slots=True)
class Attempt:
    """One step of a plan."""

    model: str
    tier: Tier


@dataclass(frozen=True, slots=True)
class Decision:
    """What will be done: attempts in order, with the reason in words.

    Attributes:
        attempts: Tried in order until one answers; never empty.
        reason: One sentence, free of prompt text.
        code: The reason as a stable word, for metrics and filters.
        policy: The deciding policy's name.
        score: What the decision was based on; None where nothing was scored (a pinned model).
    """

    attempts: tuple[Attempt, ...]
    reason: str
    code: str
    policy: str
    score: Score | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """No model may or can answer.

    Attributes:
        code: `context_length_exceeded`, `unsupported_capability`, `privacy_local_only` or `no_model_available`.
        reason: What would have been needed and what is there, in words.
        param: The request's field that is to blame, where there is one.
    """

    code: str
    reason: str
    policy: str
    param: str | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
