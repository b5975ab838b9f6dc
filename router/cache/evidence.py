"""What became of semantic hits: where too many turn out wrong, a namespace's cache gets stricter, then exact only."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ..drift.loss import LossDrift

log = logging.getLogger("smallfirst.cache")

# P(a false alarm, ever) of a namespace.
ALPHA = 0.01
# After the first alarm, hits must be so many times less likely to be wrong than the operator allows.
STRICTER = 5.0
# Remembered of each tenant, so that none can push out what is known of another; the least recent are forgotten first.
NAMESPACES, HITS = 1_000, 5_000
TENANTS = 10_000

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class _Watch:
    """One namespace: its test, and how many alarms it had."""

    drift: LossDrift
    alarms: int = 0


@dataclass(slots=True)
class _Tenant:
    """What is known of a tenant: a watch by its namespaces' prefixes, and the prefix by the request ids of hits."""

    watches: OrderedDict[str, _Watch] = field(default_factory=OrderedDict)
    hits: OrderedDict[str, str] = field(default_factory=OrderedDict)


class Evidence:
    """Chooses the least P(same answer) at which a hit is served, by namespace; see `Equivalence.threshold`.

    Evidence of a wrong hit is a fresh answer that says something else, or a caller's rating. It is tested by betting
    (see `LossDrift`), so that one may look after every single one. One tenant's evidence moves no other's.

    Args:
        max_error: Share of semantic hits that may be wrong, in [0, 1]; 0: there are none.
        threshold: Returns the least probability for a share of wrong hits; None where none keeps it.
    """

    def __init__(self, max_error: float, threshold: Callable[[float], float | None]) -> None:
        self.taken = {"right": 0, "wrong": 0}
        self._max_error = max_error
        # After no alarm, one, two.
        self._thresholds = (
            (threshold(max_error), threshold(max_error / STRICTER), None) if max_error > 0 else (None,) * 3
        )
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        if max_error > 0 and not self.possible:
            log.warning(
                "cache.max_cache_error: %g cannot be shown to be kept; answers are served to equal requests only",
                max_error,
            )

    @property
    def possible(self) -> bool:
        """Whether there are semantic hits at all."""
        return self._thresholds[0] is not None

    def threshold(self, tenant: str, prefix: str) -> float | None:
        """Return the least probability in a namespace (by its keys' prefix); None where it is exact only."""
        known = self._tenants.get(tenant)
        watch = known.watches.get(prefix) if known is not None else None
        return self._thresholds[0 if watch is None else watch.alarms]

    def remember(self, tenant: str, request_id: str, prefix: str) -> None:
        """Note a semantic hit, that may be rated later."""
        _put(self._tenant(tenant).hits, request_id, prefix, HITS)

    def rated(self, tenant: str, request_id: str, score: float) -> None:
        """Take a rating in [0, 1]; it counts once, and only where that request was a semantic hit."""
        known = self._tenants.get(tenant)
        prefix = known.hits.pop(request_id, None) if known is not None else None
        if prefix is not None:
            self.observe(tenant, prefix, wrong=1.0 - score)

    def observe(self, tenant: str, prefix: str, *, wrong: float) -> None:
        """Take how wrong a hit of a namespace was: 0 (the same answer) to 1."""
        self.taken["wrong" if wrong > 0.5 else "right"] += 1
        watches = self._tenant(tenant).watches
        watch = watches.get(prefix) or _Watch(self._test())
        _put(watches, prefix, watch, NAMESPACES)
        watch.drift.add(wrong)
        if watch.drift.alarm and watch.alarms < len(self._thresholds) - 1:
            watch.alarms += 1
            # What comes now is decided by the stricter rule: the next alarm must be about that.
            watch.drift = self._test()
            how = "exact only" if self._thresholds[watch.alarms] is None else "stricter"
            log.warning("%s: too many semantic hits were wrong; its cache is %s from now on", prefix, how)

    def report(self) -> dict[str, int]:
        """Return how many namespaces are stricter than set, and how many are exact only."""
        alarms = [
            watch.alarms
            for tenant in self._tenants.values()
            for watch in tenant.watches.values()
            if watch.alarms
        ]
        off = sum(self._thresholds[count] is None for count in alarms)
        return {"stricter": len(alarms) - off, "exact_only": off}

    def _tenant(self, name: str) -> _Tenant:
        known = self._tenants.get(name) or _Tenant()
        _put(self._tenants, name, known, TENANTS)
        return known

    def _test(self) -> LossDrift:
        return LossDrift(budget=self._max_error, alpha=ALPHA)


def _put(known: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Set as the most recent, and forget the least recent beyond a number."""
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
