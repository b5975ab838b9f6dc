"""Which models are known to be down, so that a request does not wait for them in vain: a circuit breaker per model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .recent import Recent
from .settings import Breaker

_USUAL = Breaker()


@dataclass(slots=True)
class _Circuit:
    """What is known of one model.

    Attributes:
        recent: Answers, and failures.
        failures: In a row.
        openings: Since it last answered to the end.
        open: Whether it rests, or is being tried after a rest.
        opened_at, rests_until: Of the latest rest.
        tried_at: When a request was let through after it; None: none is under way.
        told_until: Until when its server asked to be left alone.
        told_by: The status by which it did.
    """

    recent: Recent
    failures: int = 0
    openings: int = 0
    open: bool = False
    opened_at: float = float("-inf")
    rests_until: float = 0.0
    tried_at: float | None = None
    told_until: float = 0.0
    told_by: int = 503


class ModelHealth:
    """Lets a model rest that fails: too often in a row, or in too large a share of its latest calls.

    A rest over, one call is let through (half-open). If it is answered, the model is asked as before; if not, the rest
    is twice as long, up to a bound. Calls that began before the rest say nothing about its end, and a hundred that fail
    at once make one rest.

    Args:
        rules: By model; those that are not there have the usual ones.
        clock: Monotonic seconds; what callers say of when calls began is by the same clock.
    """

    def __init__(
        self,
        rules: Mapping[str, Breaker] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._rules = dict(rules or {})
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}

    def follow(self, rules: Mapping[str, Breaker]) -> None:
        """Go by other rules from now on: the settings were read again."""
        for name in {*self._rules, *rules}:
            if self._rules.get(name) != rules.get(name):
                self._circuits.pop(name, None)
        self._rules = dict(rules)

    def available(self, model: str) -> bool:
        """Whether a call to a model would be let through now."""
        circuit = self._circuits.get(model)
        if circuit is None or not (circuit.open or circuit.told_until):
            return True
        now = self._clock()
        if circuit.told_until > now:
            return False
        if not circuit.open:
            return True
        # A call that never said how it ended must not keep the others out for good.
        lease = self._rule(model).max_rest
        return circuit.rests_until <= now and (circuit.tried_at is None or now - circuit.tried_at > lease)

    def admits(self, model: str) -> bool:
        """Whether a model may be asked now; after a rest, the one call that finds out. Its end must be told."""
        if not self.available(model):
            return False
        circuit = self._circuits.get(model)
        if circuit is not None and circuit.open:
            circuit.tried_at = self._clock()
        return True

    def rest_left(self, model: str) -> float:
        """Return the seconds that a model rests still."""
        circuit = self._circuits.get(model)
        if circuit is None:
            return 0.0
        until = max(circuit.rests_until, circuit.told_until) if circuit.open else circuit.told_until
        return max(0.0, until - self._clock())

    def rests(self, model: str, seconds: float, status: int) -> None:
        """Leave a model alone as its server asks, but no longer than its rests may be. It is no failure.

        Args:
            model: Its name.
            seconds: From now on.
            status: By which the server said so.
        """
        circuit = self._circuit(model)
        until = self._clock() + min(seconds, self._rule(model).max_rest)
        if until > circuit.told_until:
            circuit.told_until, circuit.told_by = until, status

    def told_by(self, model: str) -> int | None:
        """Return the status by which a model's server asked to be left alone, where it did and the time is not over."""
        circuit = self._circuits.get(model)
        return circuit.told_by if circuit is not None and circuit.told_until > self._clock() else None

    def answering(self, model: str, begun: float | None = None) -> None:
        """Note that an answer began; the model is asked again, but the failures before are not forgotten yet."""
        circuit = self._circuits.get(model)
        if circuit is not None and circuit.open and not _is_stale(circuit, begun):
            circuit.open, circuit.tried_at = False, None
            # One more failure is enough for the next rest.
            circuit.failures = self._rule(model).failures - 1

    def succeeded(self, model: str, begun: float | None = None) -> None:
        """Note that a model answered (or refused for the caller's own fault).

        Args:
            model: Its name.
            begun: When the call began; None: whatever was known of the model does not hold any more.
        """
        circuit = self._circuit(model)
        if _is_stale(circuit, begun):
            return
        if begun is None:
            circuit.told_until = 0.0
        circuit.open, circuit.tried_at = False, None
        circuit.failures = circuit.openings = 0
        circuit.recent.add(1)

    def failed(self, model: str, begun: float | None = None) -> None:
        """Note that a model could not be reached, timed out, or failed by its own fault."""
        circuit, rule = self._circuit(model), self._rule(model)
        if _is_stale(circuit, begun):
            return
        circuit.failures += 1
        circuit.recent.add(0, 1)
        answers, failures = circuit.recent.counts()
        often = answers + failures >= rule.least_calls and failures >= rule.rate * (answers + failures)
        if circuit.open or circuit.failures >= rule.failures or often:
            now = self._clock()
            circuit.open, circuit.opened_at, circuit.tried_at = True, now, None
            circuit.rests_until = now + min(rule.rest * 2.0**circuit.openings, rule.max_rest)
            # Bounded: beyond it the rest is the longest anyway, and the power would overflow.
            circuit.openings = min(circuit.openings + 1, 64)
            circuit.recent.clear()

    def released(self, model: str, begun: float | None = None) -> None:
        """Note that a call ended in a way that says nothing of the model's state: its caller left, say."""
        circuit = self._circuits.get(model)
        if circuit is not None and not _is_stale(circuit, begun):
            circuit.tried_at = None

    def _rule(self, model: str) -> Breaker:
        return self._rules.get(model, _USUAL)

    def _circuit(self, model: str) -> _Circuit:
        circuit = self._circuits.get(model)
        if circuit is None:
            circuit = self._circuits[model] = _Circuit(Recent(self._rule(model).window, self._clock))
        return circuit


def _is_stale(circuit: _Circuit, begun: float | None) -> bool:
    return begun is not None and begun < circuit.opened_at
