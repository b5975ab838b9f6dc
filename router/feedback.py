"""Feedback: what callers say that answers were worth. Written to the ledger, and fed to the test of the loss budget."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .drift import DriftMonitor
from .errors import InvalidRequest, LedgerError, LedgerUnavailable, RequestNotFound
from .ledger import Entry, Finding, Ledger, Outcome, find
from .settings import DriftSettings
from .wire import invalid_field

# Requests are remembered until the ledger surely has them; feedback on older ones is looked up there.
REMEMBERED = 20_000
REMEMBERED_SECONDS = 900.0
MOST_COMMENT = 2_000
_LONGEST_ID = 200
_WORDS = {"good": 1.0, "bad": 0.0}


class FeedbackFields(msgspec.Struct, frozen=True):
    """The body.

    Attributes:
        request_id: From the response header `x-smallfirst-request-id`, or the receipt.
        score: 0 (wrong) to 1 (right), `good`, `bad`, true or false.
        comment: In words.
        metadata: Its `tenant` counts where the gateway has no keys.
    """

    request_id: str
    score: float | str | bool
    comment: str | None = None
    metadata: dict[str, Any] | None = None


def parse(raw: bytes | Mapping[str, Any]) -> FeedbackFields:
    """Decode and check a body.

    Raises:
        InvalidRequest: The JSON is broken or a field is wrong; the message names the field.
    """
    try:
        body = msgspec.json.decode(raw) if isinstance(raw, bytes) else raw
        fields = msgspec.convert(body, FeedbackFields)
    except msgspec.ValidationError as exc:
        raise invalid_field(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}", code="invalid_json") from exc
    if not 1 <= len(fields.request_id) <= _LONGEST_ID:
        raise _invalid("request_id", f"expected 1 to {_LONGEST_ID} characters")
    if fields.comment is not None and len(fields.comment) > MOST_COMMENT:
        raise _invalid("comment", f"expected at most {MOST_COMMENT} characters")
    to_score(fields.score)
    return fields


def to_score(value: float | str | bool) -> float:
    """Return a score in 0..1.

    Raises:
        InvalidRequest: It is none; the message names the field.
    """
    number = _WORDS.get(value.strip().lower()) if isinstance(value, str) else float(value)
    if number is None or not 0 <= number <= 1:
        raise _invalid("score", "expected a number from 0 to 1, 'good', 'bad', true or false")
    return number


class Feedback:
    """Takes feedback on requests of this process and of the ledger.

    Loss: the baseline's answer is taken to be right with the probability that the router gave it when it scored the
    request, so an answer of another model with score s lost P(baseline) - s, and the baseline's own lost nothing. Of a
    request that was not scored, or was unlike everything measured, the loss is not known: such feedback is stored, but
    tests nothing.

    Args:
        ledger: Where feedback is stored, and older requests are found.
        drift: Is told of losses.
        settings: Whether comments are kept.
        elsewhere: Seconds after which the ledger has what another process has just served; 0: there is none.
        clock: Seconds, from any start.
    """

    def __init__(
        self,
        ledger: Ledger,
        drift: DriftMonitor,
        settings: DriftSettings,
        *,
        elsewhere: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.taken = 0
        self._ledger = ledger
        self._drift = drift
        self._settings = settings
        self._elsewhere = elsewhere
        self._clock = clock
        self._recent: OrderedDict[tuple[str, str], tuple[float, Finding]] = OrderedDict()
        # Requests whose feedback the test has had; their first score counts there, the ledger keeps the last.
        self._counted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def remember(self, entry: Entry) -> None:
        """Take a request that has ended: its feedback may come before the ledger has it on disk."""
        if entry.kind != "request":
            return
        now = self._clock()
        self._recent[entry.tenant, entry.request_id] = now, Finding.of(entry)
        while (
            len(self._recent) > REMEMBERED or now - next(iter(self._recent.values()))[0] > REMEMBERED_SECONDS
        ):
            self._recent.popitem(last=False)

    async def take(
        self, request_id: str, score: float | str | bool, *, tenant: str, comment: str | None = None
    ) -> float:
        """Take feedback; of several on one request the last one is kept.

        Returns:
            The score in 0..1.

        Raises:
            RequestNotFound: The tenant has no request of that id.
            InvalidRequest: The score is none.
            LedgerUnavailable: The request is not a recent one, and the ledger cannot be read.
        """
        number = to_score(score)
        found = await self._find(request_id, tenant)
        if found is None:
            raise RequestNotFound(
                "There is no request of this id. Take it from the header 'x-smallfirst-request-id'.",
                param="request_id",
            )
        loss = loss_of(found, number)
        outcome = Outcome(
            request_id=found.request_id,
            source="feedback",
            tenant=tenant,
            recorded_at=time.time(),
            policy=found.policy,
            model=found.model,
            score=number,
            loss=loss,
            detail="rated",
            comment=comment if self._settings.comments else None,
        )
        self._ledger.record(outcome)
        self.taken += 1
        if self._is_first(found) and loss is not None:
            self._drift.outcome(found.policy, "feedback", loss)
        return number

    async def _find(self, request_id: str, tenant: str) -> Finding | None:
        recent = self._recent.get((tenant, request_id))
        if recent is not None:
            return recent[1]
        try:
            found = await asyncio.to_thread(find, self._ledger.store, request_id, tenant)
            if found is None and self._elsewhere:
                await asyncio.sleep(self._elsewhere)
                found = await asyncio.to_thread(find, self._ledger.store, request_id, tenant)
            return found
        except LedgerError as exc:
            raise LedgerUnavailable("The ledger cannot be read now; try again.") from exc

    def _is_first(self, found: Finding) -> bool:
        key = found.tenant, found.request_id
        if found.rated or key in self._counted:
            return False
        self._counted[key] = None
        if len(self._counted) > REMEMBERED:
            self._counted.popitem(last=False)
        return True


def loss_of(found: Finding, score: float) -> float | None:
    """Return the loss against the baseline, in [-1, 1]; None where it is not known."""
    if found.model is None:
        return None
    if found.model == found.baseline:
        return 0.0
    return None if found.baseline_success is None else found.baseline_success - score


def _invalid(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {what}.", param=param, code="invalid_value")
