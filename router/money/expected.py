"""What a request is expected to cost on each model: how long its answer will be, and what of its prompt is cached."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from smallfirst.policies.types import TaskKind

from ..settings import AnyModelSettings
from ..wire import Usage
from .lengths import Lengths, Pairs

# Answers' tokens by task kind until this gateway has seen some of its own: rough figures, by a reader's judgement.
FIRST_GUESS: Final[Mapping[TaskKind, int]] = {
    "function_call": 40, "classification": 8, "extraction": 60, "summarisation": 150, "knowledge": 120,
    "reading": 60, "reasoning": 250, "code": 400, "creative": 500, "chat": 250, "agent": 120,
}  # fmt: skip
# A model's own answers to a kind of task say how long they are once there are so many.
LEAST_SEEN: Final = 5.0
# How much longer than the mean an answer may well be. By a reader's judgement: one that finds less room costs a local
# answer thrown away, or (in a stream) cut short.
ROOM_MARGIN: Final = 2.0
# Providers keep a prompt's prefix for some minutes, from so many tokens on (OpenAI: 1,024 and 5 to 10 minutes).
CACHE_SECONDS, CACHE_TOKENS = 300.0, 1024
SESSIONS = 10_000
# Prices are read off the list once a model, at a size below which no list has a dearer tier.
_SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars a token."""

    input: float
    cached: float
    output: float


class Asked(msgspec.Struct, frozen=True):
    """What is known of a request before it is answered.

    Attributes:
        task: What kind of task it is; None where nothing was scored.
        limit: The caller's, of the answer's tokens.
    """

    task: TaskKind | None
    limit: int | None
    tenant: str
    session: str


@dataclass(slots=True)
class _Tokenizer:
    """Tokens by a model's count to this gateway's own, over about its latest million; 1 counts for some thousand."""

    counted: float = 5_000.0
    said: float = 5_000.0

    @property
    def ratio(self) -> float:
        return self.said / self.counted

    def add(self, counted: int, said: int) -> None:
        if self.counted > 1_000_000:
            self.counted, self.said = self.counted / 2, self.said / 2
        self.counted += counted
        self.said += said


class ExpectedCost:
    """Predicts costs. Belongs to the gateway's event loop; does no I/O, and its memory is bounded.

    Args:
        models: The configured ones.
        price: What tokens cost on a model; None where that is unknown.
        clock: Seconds, from any start.
    """

    def __init__(
        self,
        models: tuple[AnyModelSettings, ...],
        price: Callable[[AnyModelSettings, Usage], float | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rates = {model.name: _rates(model, price) for model in models}
        self._clock = clock
        self._lengths: defaultdict[tuple[str, TaskKind], Lengths] = defaultdict(Lengths)
        # By model, the other one, and task kind.
        self._pairs: defaultdict[tuple[str, str, TaskKind], Pairs] = defaultdict(Pairs)
        self._tokenizers: defaultdict[str, _Tokenizer] = defaultdict(_Tokenizer)
        # By tenant and session, most recent last: who answered, how long the prompt was, and when.
        self._sessions: OrderedDict[tuple[str, str], dict[str, tuple[int, float]]] = OrderedDict()

    def output_tokens(self, model: str, task: TaskKind, limit: int | None) -> float:
        """Return how long an answer is expected to be, in tokens, and no longer than the caller's limit."""
        return self._lengths[model, task].expected(limit, float(FIRST_GUESS[task]))

    def predicted_tokens(self, model: str, task: TaskKind, limit: int | None) -> float | None:
        """Return how long an answer is predicted to be by this model's own answers alone; None where it has given fewer
        than `LEAST_SEEN` to such tasks."""
        known = self._lengths[model, task]
        return known.expected(limit) if known.seen >= LEAST_SEEN else None

    def room(self, model: str, task: TaskKind | None) -> int:
        """Return how long an answer may well be, in tokens; of an unknown kind of task 0, as nothing is known."""
        return 0 if task is None else math.ceil(self.output_tokens(model, task, None) * ROOM_MARGIN)

    def priced(self, model: str) -> bool:
        """Whether it is known what a model's tokens cost."""
        return self._rates[model] is not None

    def cached_tokens(self, model: str, tenant: str, session: str, input_tokens: int) -> int:
        """Return how much of a prompt the model's provider is expected to have from the session's last request."""
        seen = self._sessions.get((tenant, session), {}).get(model)
        return 0 if seen is None else self._cached((seen,), input_tokens)

    def usd(
        self, model: str, task: TaskKind, *, input_tokens: int, limit: int | None, tenant: str, session: str
    ) -> float | None:
        """Return what a request is expected to cost, or None where the model's price is unknown.

        A model that answered the session's last request has its prefix at the cached price, another one has not: so
        the price of switching is in the figures.
        """
        rates = self._rates[model]
        if rates is None:
            return None
        cached = self.cached_tokens(model, tenant, session, input_tokens)
        output = self.output_tokens(model, task, limit)
        return (input_tokens - cached) * rates.input + cached * rates.cached + output * rates.output

    def instead(self, model: str, asked: Asked, other: str, usage: Usage) -> Usage:
        """Return what a model is expected to take for a request that another one answered; always an estimate.

        The prompt is as the other counted it, converted by what both make of this gateway's own count. Of it, the
        provider has what the session's last request left, whoever answered that: all would have gone to this model.
        The answer is as long as this model's are for such a task under such a limit, and, where both answered some
        requests, as the other's answer lets expect. Where this model has hardly answered such a task, the other's own
        length stands for it: small models' answers are mostly the shorter ones, so that this errs to the low side.

        Args:
            model: Who is asked about.
            asked: The request; its task is known.
            other: Who answered it.
            usage: What that took.

        Raises:
            ValueError: The task is not known.
        """
        if asked.task is None:
            raise ValueError("without a task, nothing is known of how long an answer is")
        known = self.predicted_tokens(model, asked.task, asked.limit)
        tokens = float(usage.output_tokens) if known is None else known
        pairs = self._pairs.get((model, other, asked.task))
        if pairs is not None:
            tokens = pairs.expected(usage.output_tokens, tokens)
            tokens = tokens if asked.limit is None else min(tokens, float(asked.limit))
        theirs = 1.0 if usage.estimated else self._ratio(other)
        prompt = round(usage.input_tokens * self._ratio(model) / theirs)
        return Usage(
            input_tokens=prompt,
            output_tokens=round(tokens),
            cached_tokens=self._cached(
                self._sessions.get((asked.tenant, asked.session), {}).values(), prompt
            ),
            estimated=True,
        )

    def answered(
        self,
        model: str,
        task: TaskKind | None,
        *,
        usage: Usage,
        tenant: str,
        session: str,
        limit: int | None = None,
        counted: int | None = None,
    ) -> None:
        """Learn from an answer.

        Args:
            model: Who gave it.
            task: What it was for; None where that is not known.
            usage: What it took.
            tenant, session: Whose.
            limit: The caller's, of the answer's tokens.
            counted: This gateway's own count of the prompt's tokens.
        """
        if task is not None:
            self._lengths[model, task].add(usage.output_tokens, limit)
        if counted is not None and not usage.estimated:
            self._tokenizers[model].add(counted, usage.input_tokens)
        self.seen(model, usage=usage, tenant=tenant, session=session)

    def seen(self, by: str, *, usage: Usage, tenant: str, session: str) -> None:
        """Note what a session's prompt came to, with the answer; `by` is a model, or the cache."""
        key = tenant, session
        self._sessions.setdefault(key, {})[by] = (usage.input_tokens + usage.output_tokens, self._clock())
        self._sessions.move_to_end(key)
        if len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)

    def paired(self, model: str, task: TaskKind, *, own: int, other: str, others: int) -> None:
        """Learn from a request that two models answered: `own` and `others` tokens.

        Only for answers that were chosen at random, or the model's usual lengths would be learned from odd ones.
        """
        self._pairs[model, other, task].add(others, own)

    def remember(self, answers: Iterable[tuple[str, str, int]]) -> None:
        """Learn from answers of earlier days: (model, task, tokens) each, the oldest first; unknown names are passed
        over. What was learned since comes to count less, so do this at the start.

        Args:
            answers: What limit they were under is not known: one that was cut counts as it was.
        """
        for model, task, tokens in answers:
            if model in self._rates and task in FIRST_GUESS:
                self._lengths[model, cast("TaskKind", task)].add(tokens)

    def _ratio(self, model: str) -> float:
        tokenizer = self._tokenizers.get(model)
        return 1.0 if tokenizer is None else tokenizer.ratio

    def _cached(self, seen: Iterable[tuple[int, float]], input_tokens: int) -> int:
        recent = (tokens for tokens, when in seen if self._clock() - when <= CACHE_SECONDS)
        shared = min(max(recent, default=0), input_tokens)
        return shared if shared >= CACHE_TOKENS else 0


def _rates(model: AnyModelSettings, price: Callable[[AnyModelSettings, Usage], float | None]) -> Rates | None:
    # By tokens alone: what of this machine it will take nobody knows ahead.
    fresh = price(model, Usage(input_tokens=_SAMPLE, cpu_seconds=0.0))
    cached = price(model, Usage(input_tokens=_SAMPLE, cached_tokens=_SAMPLE, cpu_seconds=0.0))
    output = price(model, Usage(output_tokens=_SAMPLE, cpu_seconds=0.0))
    if fresh is None or cached is None or output is None:
        return None
    return Rates(fresh / _SAMPLE, cached / _SAMPLE, output / _SAMPLE)
