"""The values that a decision is made of: what a request needs, how it scored, who could answer, and the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Tier = Literal["local", "cloud"]
Capability = Literal[
    "tools", "images", "audio", "files", "json_schema", "json_object", "logprobs", "multiple"
]
TaskKind = Literal[
    "function_call", "classification", "extraction", "summarisation", "knowledge", "reading", "reasoning", "code",
    "creative", "chat", "agent",
]  # fmt: skip

# What a text may give away of somebody: by its form, and the last two by its meaning alone.
PersonalData = Literal[
    "secret", "email", "phone", "card", "iban", "ssn", "passport", "driver_licence", "birth_date", "ip", "crypto",
    "name", "address",
]  # fmt: skip


class Needs(msgspec.Struct, frozen=True):
    """What a request asks of a model; hard constraints.

    Attributes:
        input_tokens: Estimated prompt length, tools included.
        output_tokens: The caller's limit on the answer's length, or None where none was given. Many clients always
            send a high one: it says how long an answer may be, not how long it will be.
        capabilities: What the model must be able to do.
        privacy: `local` where the data may not leave the house.
        pinned: A model that the caller named, or None for the policy's choice.
        allowed: The models that the caller may use; None: all.
        personal: What kinds of personal data it holds, where that is why `privacy` is `local`.
        whole: Whether the answer is wanted in one piece.
    """

    input_tokens: int
    output_tokens: int | None = None
    capabilities: frozenset[Capability] = frozenset()
    privacy: Literal["any", "local"] = "any"
    pinned: str | None = None
    allowed: frozenset[str] | None = None
    personal: tuple[PersonalData, ...] = ()
    whole: bool = False


class Score(msgspec.Struct, frozen=True):
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


class Candidate(msgspec.Struct, frozen=True):
    """A configured model, as deciding sees it.

    Attributes:
        name: As configured.
        tier: `local` runs in this house, `cloud` sends data out.
        context_tokens: Prompt and answer together, in tokens.
        answer_tokens: How long its answer to this request may well be, in tokens; None where its server wants room
            for the whole of the caller's limit (many refuse a prompt and a limit that are too long together).
        capabilities: What it can do.
        available: False where it is known to be down.
        measured: Whether its P(success) rests on its own outcomes, not on a like model's.
        usd: What this request is expected to cost on it, in US dollars; None where its price is unknown.
        baseline: Whether savings are counted against it, and quality under a risk budget.
    """

    name: str
    tier: Tier
    context_tokens: int
    capabilities: frozenset[Capability] = frozenset()
    available: bool = True
    measured: bool = False
    usd: float | None = None
    baseline: bool = False
    answer_tokens: int | None = None


class Allowance(msgspec.Struct, frozen=True):
    """What a risk budget allows a local model; see `policies.risk`.

    Attributes:
        max_gap: It answers where the baseline's P(success) leads by no more than this, in [-1, 1].
        cascade_gap: It answers first where the lead is over that and no more than this, and its answer is kept
        min_confidence: where it was at least so sure of it, in [0, 1].
        kept: Share of its answers that were kept then, in calibration.
    """

    max_gap: float
    cascade_gap: float
    min_confidence: float
    kept: float


class Attempt(msgspec.Struct, frozen=True):
    """One step of a plan: who is asked, and what keeps its answer. By default every answer is kept.

    Attributes:
        model: Who is asked.
        tier: Where it runs.
        min_confidence: In 0..1; an answer whose model was less sure of it is not kept. 0 keeps any, and so does a
            model that tells no confidence.
        samples: How often it is asked; with 2 or more, an answer is kept that more than half of them give.
        valid: Whether JSON and tool calls must be whole and follow their schemas.
        sure: Whether an answer is turned down, too, whose model tells no confidence: a risk budget has no evidence
            for it.
        early: In 0..1; the next attempt's call starts while this one still answers, as soon as the confidence of
            what there is falls under it. 0: never.
        hedge: Seconds; while it has not begun to answer after them, the next cloud attempt's call starts too, or where
            there is none a second one to the same model, and the answer that begins first is taken. 0: never.
    """

    model: str
    tier: Tier
    min_confidence: float = 0.0
    samples: int = 1
    valid: bool = False
    sure: bool = False
    early: float = 0.0
    hedge: float = 0.0

    @property
    def checked(self) -> bool:
        """Whether its answer may be turned down."""
        return self.valid or self.sure or self.min_confidence > 0 or self.samples > 1


class Decision(msgspec.Struct, frozen=True):
    """What will be done: attempts in order, with the reason in words.

    Attributes:
        attempts: Tried in order until one answers; never empty.
        reason: One sentence, free of prompt text.
        code: The reason as a stable word, for metrics and filters.
        policy: The deciding policy's name.
        score: What the decision was based on; None where nothing was scored (a pinned model).
        propensity: P(the first attempt's tier) for this request under the policy, in (0, 1]; 1 where nothing was left
            to chance.
        explored: Whether chance put another tier first than the policy would have.
    """

    attempts: tuple[Attempt, ...]
    reason: str
    code: str
    policy: str
    score: Score | None = None
    propensity: float = 1.0
    explored: bool = False

    @property
    def mode(self) -> Literal["route", "cascade"]:
        """`cascade` where the first answer may be turned down for the next model's, `route` where it stands."""
        return "cascade" if self.attempts[0].checked else "route"


class Refusal(msgspec.Struct, frozen=True):
    """No model may or can answer.

    Attributes:
        code: `context_length_exceeded`, `unsupported_capability`, `privacy_local_only`, `model_not_allowed` or
            `no_model_available`.
        reason: What would have been needed and what is there, in words.
        param: The request's field that is to blame, where there is one.
    """

    code: str
    reason: str
    policy: str
    param: str | None = None
    excluded: Mapping[str, str] = {}
