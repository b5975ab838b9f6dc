"""What a request is expected to cost on each model: how long its answer will be, and what of its prompt is cached."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from smallfirst.policies.types import TaskKind

from .settings import AnyModelSettings
from .wire import Usage

# Answers' tokens by task kind until this gateway has seen some of its own: rough figures, by a reader's judgement.
FIRST_GUESS: Final[Mapping[TaskKind, int]] = {
    "function_call": 40, "classification": 8, "extraction": 60, "summarisation": 150, "knowledge": 120,
    "reading": 60, "reasoning": 250, "code": 400, "creative": 500, "chat": 250, "agent": 120,
}  # fmt: skip
# An average over about so many of the latest answers; the guess counts as a few of them.
_RECENT, _GUESS_COUNTS = 200, 5
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
        # By model and task kind: mean tokens of its answers, and how many were counted.
        self._lengths: dict[tuple[str, str], tuple[float, int]] = {}
        # By tenant and session, most recent last: who answered, how long the prompt was, and when.
        self._sessions: OrderedDict[tuple[str, str], dict[str, tuple[int, float]]] = OrderedDict()

    def output_tokens(self, model: str, task: TaskKind, limit: int | None) -> float:
        """Return how long an answer is expected to be, in tokens, and no longer than the caller's limit."""
        mean, _ = self._lengths.get((model, task), (float(FIRST_GUESS[task]), 0))
        return mean if limit is None else min(mean, float(limit))

    def cached_tokens(self, model: str, tenant: str, session: str, input_tokens: int) -> int:
        """Return how much of a prompt the model's provider is expected to have from the session's last request."""
        seen = self._sessions.get((tenant, session), {}).get(model)
        if seen is None or self._clock() - seen[1] > CACHE_SECONDS:
            return 0
        shared = min(seen[0], input_tokens)
        return shared if shared >= CACHE_TOKENS else 0

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

    def answered(self, model: str, task: TaskKind | None, *, usage: Usage, tenant: str, session: str) -> None:
        """Learn from an answer."""
        if task is not None:
            mean, count = self._lengths.get((model, task), (float(FIRST_GUESS[task]), _GUESS_COUNTS))
            count = min(count + 1, _RECENT)
            self._lengths[model, task] = (mean + (usage.output_tokens - mean) / count, count)
        by_model = self._sessions.setdefault((tenant, session), {})
        by_model[model] = (usage.input_tokens + usage.output_tokens, self._clock())
        self._sessions.move_to_end((tenant, session))
        if len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)


def _rates(model: AnyModelSettings, price: Callable[[AnyModelSettings, Usage], float | None]) -> Rates | None:
    fresh = price(model, Usage(input_tokens=_SAMPLE))
    cached = price(model, Usage(input_tokens=_SAMPLE, cached_tokens=_SAMPLE))
    output = price(model, Usage(output_tokens=_SAMPLE))
    if fresh is None or cached is None or output is None:
        return None
    return Rates(fresh / _SAMPLE, cached / _SAMPLE, output / _SAMPLE)
