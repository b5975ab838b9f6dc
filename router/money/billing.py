"""What attempts used and cost, whichever way they ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from smallfirst.policies import Attempt
from smallfirst.policies.types import TaskKind

from ..errors import ModelError, RequestError
from ..journey import Journey, outcome_of
from ..settings import AnyModelSettings, CloudModelSettings, Settings
from ..wire import Reply, ReplyStream, Usage
from .charge import Charge
from .energy import Energy
from .prices import PriceList
from .usage import Meter, tier_name, total

T = TypeVar("T")

NOTHING = Usage()


class Answered(msgspec.Struct, Generic[T], frozen=True):
    """What a model answered.

    Attributes:
        result: A `Reply` or a `ReplyStream`.
        attempt: Which step of the plan it was.
        begun: When it began, in `time.perf_counter()` seconds.
        besides: What samples took that nobody sees.
        meter: What it has taken of this machine.
    """

    result: T
    attempt: Attempt
    begun: float
    besides: Usage = NOTHING
    meter: Meter = msgspec.field(default_factory=Meter)

    def spent(self, usage: Usage) -> Usage:
        """Return what was used in all for an answer that itself took `usage`."""
        all_samples = usage if self.besides is NOTHING else total(usage, self.besides)
        return metered(all_samples, self.meter)


class Billing:
    """Prices attempts and notes them in their journey.

    Args:
        settings: The models.
        prices: What tokens cost.
        count_tokens: Estimates a text's tokens, for replies whose model counts none.
        expected: How long a model's answer to a kind of task is expected to be, in tokens, under the caller's limit.
    """

    def __init__(
        self,
        settings: Settings,
        prices: PriceList,
        count_tokens: Callable[[str], int],
        *,
        expected: Callable[[str, TaskKind, int | None], float] | None = None,
    ) -> None:
        self.prices = prices
        self._energy = Energy(settings, prices)
        self._specs: dict[str, AnyModelSettings] = {model.name: model for model in settings.models}
        self._count_tokens = count_tokens
        self._expected = expected

    def charge(self, model: str, usage: Usage, *, at: float, seconds: float) -> Charge:
        """Return what a call comes to.

        Args:
            model: Who was asked, by name.
            usage: What it took.
            at: When, in Unix seconds.
            seconds: For how long.
        """
        spec = self._specs[model]
        if usage.estimated and usage.cpu_seconds is None and not isinstance(spec, CloudModelSettings):
            usage = replace(usage, cpu_seconds=0.0)  # stopped before its engine had anything to tell
        return Charge(usage, self.prices.price(spec, usage, at=at), self._energy.of(spec, usage, seconds))

    def charge_attempt(self, journey: Journey, attempt: Attempt, usage: Usage, begun: float) -> Charge:
        """Return what an attempt comes to that began at `begun` and ends now."""
        seconds = time.perf_counter() - begun
        return self.charge(attempt.model, usage, at=journey.started_at, seconds=seconds)

    def usage_of(self, journey: Journey, reply: Reply) -> Usage:
        """Return what an answer took: as its model says, else our estimate."""
        if reply.usage is not None:
            return reply.usage
        estimated = self.estimate(journey, _texts(reply.body))
        return replace(estimated, service_tier=tier_name(reply.body.get("service_tier")))

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

    def unseen(
        self, journey: Journey, attempt: Attempt, *, meter: Meter | None = None, tries: int = 1
    ) -> Usage:
        """Return what an attempt may have taken of whose answer nothing came.

        A local model's engine says what it did; where it says nothing, it had not begun. A cloud bills the prompt; and
        where the answer was asked for in one piece, it goes on writing when nobody listens any more, and bills that
        too. How much nobody says: the expected length of the answer is taken.

        Args:
            journey: The request's; decided already.
            attempt: Who was asked.
            meter: What it has taken of this machine.
            tries: How often it was asked.
        """
        assert journey.plan is not None
        counted = None if meter is None else meter.counted
        if counted is not None:
            return counted
        if not isinstance(self._specs[attempt.model], CloudModelSettings):
            return Usage(estimated=True)
        output, fields = 0, journey.request.fields
        if not fields.stream and self._expected is not None:
            # A request for a model by name was not scored: nobody knows what kind of task it is.
            task, limit = journey.plan.task or "chat", journey.request.max_output_tokens
            output = math.ceil(self._expected(attempt.model, task, limit) * (fields.n or 1))
        # That was asked for: nobody said another.
        tier = tier_name(journey.request.body.get("service_tier"))
        prompt = journey.plan.input_tokens
        return Usage(prompt * tries, output * tries, estimated=True, service_tier=tier)

    def usage_of_stored(self, body: Mapping[str, Any], count_prompt: Callable[[], int]) -> Usage:
        """Return what a stored answer takes: as its model said, else our estimate.

        Args:
            body: The `chat.completion`.
            count_prompt: Estimates the prompt's tokens.
        """
        said = Usage.of_reply(body)
        if said is not None:
            return said
        text = _texts(body)
        return Usage(count_prompt(), self._count_tokens(text) if text else 0, estimated=True)

    def answered(
        self, journey: Journey, answered: Answered[Any], usage: Usage, reply: Reply | ReplyStream
    ) -> float | None:
        """Note that an answer is whole, and return what was spent on it in US dollars (None: unknown).

        Args:
            journey: The request's.
            answered: The answer.
            usage: What it took itself.
            reply: Says how often it was tried again.
        """
        charge = self.charge_answer(journey, answered, usage, reply)
        journey.note(answered.attempt, "ok", begun=answered.begun, charge=charge, retries=reply.retries)
        journey.answered_by, journey.usage = answered.attempt, usage
        return charge.cost_usd

    def interrupted(
        self, journey: Journey, answered: Answered[ReplyStream], error: RequestError | None, usage: Usage
    ) -> None:
        """Note that a stream ended midway (`error` None: the caller left), of which `usage` was seen until then."""
        charge = self.charge_answer(journey, answered, usage, answered.result)
        journey.failed(
            answered.attempt, error, begun=answered.begun, charge=charge, retries=answered.result.retries
        )
        # Its own, as of an answer that is whole: another model would have needed that, and not what was tried before.
        journey.usage = usage

    def charge_answer(
        self, journey: Journey, answered: Answered[Any], usage: Usage, reply: Reply | ReplyStream
    ) -> Charge:
        """Return what an answer comes to that itself took `usage`: with what was used besides, and tried before."""
        spent = answered.spent(usage)
        return self.charge_tries(journey, answered.attempt, spent, answered.begun, reply.billed_tries)

    def charge_tries(
        self, journey: Journey, attempt: Attempt, usage: Usage, begun: float, billed: int
    ) -> Charge:
        """Return what an attempt comes to that took `usage` at its last try, and may be billed for `billed` before."""
        if billed:
            # Of the tier that served the last one.
            tries = replace(self.unseen(journey, attempt, tries=billed), service_tier=usage.service_tier)
            usage = total(usage, tries)
        return self.charge_attempt(journey, attempt, usage, begun)

    def failed(
        self, journey: Journey, attempt: Attempt, error: RequestError, begun: float, meter: Meter
    ) -> None:
        """Note that a model failed before there was anything to show, with what it may have taken."""
        charge = self.charge_failure(journey, attempt, error, begun, meter)
        may_have_answered = isinstance(error, ModelError) and error.billed_tries > 0
        if may_have_answered or charge is None:
            journey.failed(attempt, error, begun=begun, charge=charge)
        else:
            journey.note(attempt, outcome_of(error), begun=begun, charge=charge, error_code=error.code)

    def charge_failure(
        self, journey: Journey, attempt: Attempt, error: RequestError, begun: float, meter: Meter
    ) -> Charge | None:
        """Return what a failure comes to; None where nothing was taken.

        An error that a provider answers with is not billed. What it took without an error may be: an answer that is
        late, or breaks off.
        """
        tries = error.billed_tries if isinstance(error, ModelError) else 0
        if not tries and meter.counted is None:
            return None
        usage = self.unseen(journey, attempt, meter=meter, tries=tries)
        return self.charge_attempt(journey, attempt, usage, begun)

    def stopped(
        self, journey: Journey, attempt: Attempt, usage: Usage, begun: float, *, retries: int
    ) -> None:
        """Note an attempt whose caller left before there was an answer, with what it used until then."""
        charge = self.charge_attempt(journey, attempt, usage, begun)
        journey.failed(attempt, None, begun=begun, charge=charge, retries=retries)


def metered(usage: Usage, meter: Meter) -> Usage:
    """Return a usage with what the meter says of this machine."""
    return usage if meter.cpu_seconds is None else replace(usage, cpu_seconds=meter.cpu_seconds)


def _texts(body: Mapping[str, Any]) -> str:
    """All text of a reply's choices, for counting."""
    messages = [choice.get("message") or {} for choice in body.get("choices") or ()]
    calls = [
        (call.get("function") or {}).get("arguments") for m in messages for call in m.get("tool_calls") or ()
    ]
    # Odd servers send other things than text.
    texts = [*(m.get("content") for m in messages), *calls]
    return "\n".join(text for text in texts if isinstance(text, str))
