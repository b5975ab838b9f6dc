"""One reply in the making, and what the engine is told and tells about it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal, Protocol

from .grammar import Matcher
from .prefix import Hold
from .sampling import IdArray, Sampler, SamplingParams, Token


@dataclass(frozen=True, slots=True)
class Job:
    """A generation.

    Attributes:
        prompt: Token ids; with `max_tokens` within the model's cells.
        matcher: What the reply must look like, at its beginning; None for free text.
        adapter: The LoRA adapter's name, or None.
        group: Whose job it is; groups take turns where jobs wait.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    params: SamplingParams = field(default_factory=SamplingParams)
    matcher: Matcher | None = None
    adapter: str | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class LabelsJob:
    """Scores the given continuations of a prompt, each a label's token ids.

    A score is the mean natural log-probability of the label's tokens.
    """

    prompt: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]
    adapter: str | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended.

    Attributes:
        reason: `stop` where the model, its constraint or the sink ended it, `length` at `max_tokens`.
        cached_tokens: Prompt tokens that were in memory already.
        scores: Of a `LabelsJob`, one a label.
    """

    reason: Literal["stop", "length"]
    cached_tokens: int = 0
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """Asks the engine to go back to the end of the prompt, and on from there under another constraint."""

    matcher: Matcher | None


class Sink(Protocol):
    """Who a job is done for; called in the engine's thread, so it must be quick."""

    @property
    def alternatives(self) -> int:
        """How many likely alternatives are wanted with each token."""
        ...

    @property
    def watched(self) -> IdArray | None:
        """Token ids whose share of the probability is wanted with each token."""
        ...

    @property
    def forcing(self) -> bool:
        """Whether tokens that a constraint leaves no choice about are taken without asking the model."""
        ...

    def spent(self, cpu_seconds: float, cached_tokens: int) -> None:
        """Take note of what the job has taken so far, as a sum; the last time right before `end` or `failed`."""
        ...

    def token(self, token: Token) -> bool | Turn:
        """Take a token; returns whether more are wanted, or that it shall be another reply."""
        ...

    def may_end(self, token: Token) -> bool:
        """Whether the reply may end by this token; asked only where a constraint would let it go on as well."""
        ...

    def end(self, end: End) -> None:
        """Take note of the end. Not called for a job that was cancelled or failed."""
        ...

    def failed(self, error: Exception) -> None:
        """Take note that the job failed."""
        ...


@dataclass(eq=False, slots=True)
class Sequence:
    """A job's way through the engine.

    Attributes:
        tokens: Prompt and what was generated.
        computed: How many of them are in the model's memory.
        made: How many were generated.
        id: Its sequence id while it is active; -1 while it waits.
        cached: Prompt tokens that were in memory already.
        matcher: What the rest of the reply must look like.
        hold: What it has of the prefixes that are kept; `kept` says that its own prompt is among them.
        scores: Of a `LabelsJob`, the log-probabilities by label; `labels_left` are still to be computed, by batch.
        cpu_seconds: Its share of the process's processor time; `told` of it the sink knows.
    """

    job: Job | LabelsJob
    sink: Sink
    sampler: Sampler
    tokens: list[int]
    computed: int = 0
    made: int = 0
    id: int = -1
    cached: int = 0
    matcher: Matcher | None = None
    hold: Hold = field(default_factory=lambda: Hold(None))
    kept: bool = False
    scores: list[list[float]] = field(default_factory=list)
    labels_left: list[list[int]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    cpu_seconds: float = 0.0
    told: float = 0.0

    def tell(self, least: float = 0.0) -> None:
        """Tell the sink what the job has taken, where that is at least `least` seconds more than it knows."""
        if self.cpu_seconds - self.told >= least:
            self.told = self.cpu_seconds
            self.sink.spent(self.cpu_seconds, self.cached)

    @property
    def pending(self) -> int:
        """Tokens that are still to be computed."""
        return len(self.tokens) - self.computed

    @property
    def prefilling(self) -> bool:
        """Whether its prompt is not in memory yet."""
        return self.computed < len(self.job.prompt)

    @property
    def own_cells(self) -> int:
        """Cells that only this sequence has."""
        return self.computed - self.hold.shared
