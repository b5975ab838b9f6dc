"""What a request would have come to on the baseline: its own answer as it was, another's by prediction."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, cast, get_args

import msgspec
from msgspec.structs import replace

from smallfirst.policies.types import TaskKind

from ..errors import LedgerError
from ..ledger.savings_query import Earlier, read_lengths
from ..ledger.store import NothingRecorded, Store
from ..settings import Settings
from ..wire import Usage
from .expected import Asked, ExpectedCost
from .prices import PriceList

if TYPE_CHECKING:
    from ..journey import Journey

# Stands in a session for a request that the cache answered: the baseline would have been asked.
_CACHE = "(cache)"
_TASKS: frozenset[str] = frozenset(get_args(TaskKind))


log = logging.getLogger("smallfirst")


class Compared(msgspec.Struct, frozen=True):
    """A request on the baseline.

    Attributes:
        usd: What it would have cost, in US dollars; None where that is unknown.
        output_tokens: How many it was predicted to need, also where it answered itself, so that predictions can be held
            against what came; None where nothing was predicted.
    """

    usd: float | None
    output_tokens: int | None = None


NOT_COMPARED, _NOT_ASKED = Compared(None), Compared(0.0)


class Counterfactual:
    """Prices requests on the baseline, and learns from answers what it needs for that.

    A request that the baseline answered costs what it cost: its own count is its own prediction's test. One that
    another model or the cache answered is priced as `ExpectedCost.instead` predicts. Where there is nothing to predict
    by (the caller named the model, so that no task was seen; the answer broke off; the baseline has hardly answered
    such a task), the counts of who answered stand for the baseline's.

    Args:
        settings: Say who the baseline is.
        prices: What tokens cost.
        expected: Predicts, and learns.
    """

    def __init__(self, settings: Settings, prices: PriceList, expected: ExpectedCost) -> None:
        self._baseline = settings.baseline_model
        self._prices = prices
        self._expected = expected
        # What a thread has read, until the event loop takes it: the predictions belong to that.
        self._earlier: Earlier | None = None
        self._reader: threading.Thread | None = None

    def of(self, journey: Journey, *, model: str | None, task: str | None, whole: bool = True) -> Compared:
        """Return what a request would have come to; asked again, the same.

        Args:
            journey: The request's; what its answer took is known.
            model: Who answered, or gave the answer that the cache had.
            task: What kind of task it is; None where that was not seen.
            whole: Whether all of the answer is there.
        """
        if journey.compared is None:
            journey.compared = self._of(journey, model, task if task in _TASKS else None, whole)
        return journey.compared

    def _of(self, journey: Journey, model: str | None, task: str | None, whole: bool) -> Compared:
        self._learn_earlier()
        baseline, usage = self._baseline, journey.usage
        if baseline is None or usage is None:
            return NOT_COMPARED
        if journey.kind != "request":
            # Had all gone to the baseline, one of our own would not have been asked.
            return _NOT_ASKED
        choices, limit = journey.request.fields.n or 1, journey.request.max_output_tokens
        predicted: int | None = None
        if model == baseline.name:
            tokens = self._predicted(task, limit) if whole else None
            predicted = None if tokens is None else round(tokens * choices)
        elif task is not None and whole and model is not None:
            asked = Asked(cast("TaskKind", task), limit, journey.request.tenant, journey.hints.session)
            each = replace(usage, output_tokens=usage.output_tokens // choices)
            found = self._expected.instead(baseline.name, asked, model, each)
            usage = replace(found, output_tokens=found.output_tokens * choices)
            predicted = None if self._predicted(task, limit) is None else usage.output_tokens
        else:
            # What another model had of the prompt in its cache, the baseline had not.
            usage = Usage(usage.input_tokens, usage.output_tokens)
        return Compared(self._prices.price(baseline, usage, at=journey.started_at), predicted)

    def _predicted(self, task: str | None, limit: int | None) -> float | None:
        if task is None or self._baseline is None:
            return None
        return self._expected.predicted_tokens(self._baseline.name, cast("TaskKind", task), limit)

    def learn(self, journey: Journey) -> None:
        """Learn from a request that was answered in full."""
        usage, tenant, session = journey.usage, journey.request.tenant, journey.hints.session
        if usage is None:
            return
        if journey.answered_by is None:
            self._expected.seen(_CACHE, usage=usage, tenant=tenant, session=session)
            return
        plan, single = journey.plan, (journey.request.fields.n or 1) == 1
        self._expected.answered(
            journey.answered_by.model,
            plan.task if plan is not None and single else None,
            usage=usage,
            tenant=tenant,
            session=session,
            limit=journey.request.max_output_tokens,
            counted=None if plan is None else plan.input_tokens,
        )

    def remember(self, store: Store) -> None:
        """Begin to learn from what a ledger holds of the last month: a restart forgets nothing. Returns at once:
        a thread reads, and what it found is learned at the next request."""
        self._reader = threading.Thread(
            target=self._read, args=(store,), name="smallfirst-lengths", daemon=True
        )
        self._reader.start()

    def close(self) -> None:
        """Wait until nothing is read any more; safe to call twice."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.join()

    def _read(self, store: Store) -> None:
        try:
            with store.read() as connection:
                self._earlier = read_lengths(connection, time.time())
        except NothingRecorded:
            return
        except LedgerError as exc:
            log.info("how long answers are is learned anew: %s", exc)

    def _learn_earlier(self) -> None:
        earlier, self._earlier = self._earlier, None
        if earlier is None:
            return
        answers, pairs = earlier
        self._expected.remember(answers)
        for baseline, task, own, other, others in pairs:
            if self._baseline is not None and baseline == self._baseline.name and task in _TASKS:
                self._expected.paired(baseline, cast("TaskKind", task), own=own, other=other, others=others)

    def paired(self, journey: Journey, other: str, own: Usage) -> None:
        """Learn from a request that `other` answered, and the baseline as well: `own` is what that took."""
        if (
            self._baseline is None
            or journey.usage is None
            or journey.plan is None
            or journey.plan.task is None
        ):
            return
        self._expected.paired(
            self._baseline.name,
            journey.plan.task,
            own=own.output_tokens,
            other=other,
            others=journey.usage.output_tokens,
        )
