"""What attempts used and cost, whichever way they ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from smallfirst.policies import Attempt

from .errors import RequestError
from .journey import Journey
from .prices import PriceList
from .settings import AnyModelSettings, Settings
from .wire import Reply, Usage

T = TypeVar("T")

NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """What a model answered.

    Attributes:
        result: A `Reply` or a `ReplyStream`.
        attempt: Which step of the plan it was.
        begun: When it began, in `time.perf_counter()` seconds.
        besides: What samples took that nobody sees.
    """

    result: T
    attempt: Attempt
    begun: float
    besides: Usage = NOTHING

    def spent(self, usage: Usage) -> Usage:
        """Return what was used in all for an answer that itself took `usage`."""
        return usage if self.besides is NOTHING else total(usage, self.besides)


class Billing:
    """Prices attempts and notes them in their journey.

    Args:
        settings: The models, and which of them is the baseline.
        prices: What tokens cost.
        count_tokens: Estimates a text's tokens, for replies whose model counts none.
    """

    def __init__(self, settings: Settings, prices: PriceList, count_tokens: Callable[[str], int]) -> None:
        self.prices = prices
        self.baseline = settings.baseline_model
        self._specs: dict[str, AnyModelSettings] = {model.name: model for model in settings.models}
        self._count_tokens = count_tokens

    def price(self, model: str, usage: Usage) -> float | None:
        """Return what a model's tokens cost in US dollars, or None where its price is unknown."""
        return self.prices.price(self._specs[model], usage)

    def baseline_usd(self, usage: Usage | None) -> float | None:
        """Return what the same tokens cost on the baseline model, or None where that is unknown."""
        if self.baseline is None or usage is None:
            return None
        return self.prices.price(self.baseline, usage)

    def usage_of(self, journey: Journey, reply: Reply) -> Usage:
        """Return what an answer took: as its model says, else our estimate."""
        return reply.usage or self.estimate(journey, _texts(reply.body))

    def estimate(self, journey: Journey, text: str = "", *, tokens: int = 0) -> Usage:
        """Return token counts for an answer whose model sent none, or that was not finished.

        Args:
            journey: The request's; decided already.
            text: What there is of the answer.
            tokens: More tokens of it, where they were counted.
        """
        assert journey.plan is not None
        output = tokens + (self._count_tokens(text) if text else 0)
        return Usage(input_tokens=journey.plan.input_tokens, output_tokens=output, estimated=True)

    def usage_of_stored(self, body: Mapping[str, Any], count_prompt: Callable[[], int]) -> Usage:
        """Return what a stored answer takes: as its model said, else our estimate.

        Args:
            body: The `chat.completion`.
            count_prompt: Estimates the prompt's tokens.
        """
        said = Usage.from_wire(body.get("usage"))
        if said is not None:
            return said
        text = _texts(body)
        return Usage(count_prompt(), self._count_tokens(text) if text else 0, estimated=True)

    def answered(
        self, journey: Journey, answered: Answered[Any], usage: Usage, *, retries: int
    ) -> float | None:
        """Note that an answer is whole, and return what was spent on it in US dollars (None: unknown).

        Args:
            journey: The request's.
            answered: The answer.
            usage: What it took itself.
            retries: How often it was tried again.
        """
        spent = answered.spent(usage)
        cost = self.price(answered.attempt.model, spent)
        journey.note(
            answered.attempt, "ok", begun=answered.begun, usage=spent, cost_usd=cost, retries=retries
        )
        journey.answered_by, journey.usage = answered.attempt, usage
        return cost

    def stopped(
        self, journey: Journey, attempt: Attempt, error: RequestError | None, usage: Usage, begun: float
    ) -> None:
        """Note an attempt that ended midway (`error` None: the caller left), with what it used until then."""
        cost = self.price(attempt.model, usage)
        journey.failed(attempt, error, begun=begun, usage=usage, cost_usd=cost)


def total(*usages: Usage) -> Usage:
    """Return the sum of some usages; it is an estimate where one of them is."""
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        estimated=any(usage.estimated for usage in usages),
    )


def _texts(body: Mapping[str, Any]) -> str:
    """All text of a reply's choices, for counting."""
    messages = [choice.get("message") or {} for choice in body.get("choices") or ()]
    calls = [
        (call.get("function") or {}).get("arguments") for m in messages for call in m.get("tool_calls") or ()
    ]
    # Odd servers send other things than text.
    texts = [*(m.get("content") for m in messages), *calls]
    return "\n".join(text for text in texts if isinstance(text, str))
