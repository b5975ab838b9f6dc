"""What became of semantic hits: where too many turn out wrong, a namespace's cache gets stricter, then exact only."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..drift.loss import LossDrift

log = logging.getLogger("smallfirst.cache")

# P(a false alarm, ever) of a namespace.
ALPHA = 0.01
# After the first alarm, hits must be so many times less likely to be wrong than the operator allows.
STRICTER = 5.0
# Namespaces of each tenant, so that none can push out what is known of another, and tenants.
NAMESPACES, TENANTS = 1_000, 10_000
# Hits that may still be rated, of all tenants.
HITS = 20_000


@dataclass(slots=True)
class _Watch:
    """One namespace: its test, and how many alarms it had."""

    drift: LossDrift
    alarms: int = 0


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
        # By tenant, then by the prefix of a namespace.
        self._tenants: OrderedDict[str, OrderedDict[str, _Watch]] = OrderedDict()
        self._hits: OrderedDict[tuple[str, str], str] = OrderedDict()
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
        watches = self._tenants.get(tenant)
        watch = None if watches is None else watches.get(prefix)
        return self._thresholds[0 if watch is None else watch.alarms]

    def remember(self, tenant: str, request_id: str, prefix: str) -> None:
        """Note a semantic hit, that may be rated later."""
        self._hits[tenant, request_id] = prefix
        if len(self._hits) > HITS:
            self._hits.popitem(last=False)

    def rated(self, tenant: str, request_id: str, score: float) -> None:
        """Take a rating in [0, 1]; it counts once, and only where that request was a semantic hit."""
        prefix = self._hits.pop((tenant, request_id), None)
        if prefix is not None:
            self.observe(tenant, prefix, wrong=1.0 - score)

    def observe(self, tenant: str, prefix: str, *, wrong: float) -> None:
        """Take how wrong a hit of a namespace was: 0 (the same answer) to 1."""
        self.taken["wrong" if wrong > 0.5 else "right"] += 1
        watch = self._watch(tenant, prefix)
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
            watch.alarms for watches in self._tenants.values() for watch in watches.values() if watch.alarms
        ]
        off = sum(self._thresholds[count] is None for count in alarms)
        return {"stricter": len(alarms) - off, "exact_only": off}

    def _watch(self, tenant: str, prefix: str) -> _Watch:
        """Return the watch of a namespace; the least recent go, of those that had no alarm."""
        watches = self._tenants.setdefault(tenant, OrderedDict())
        self._tenants.move_to_end(tenant)
        watch = watches.setdefault(prefix, _Watch(self._test()))
        watches.move_to_end(prefix)
        if len(watches) > NAMESPACES:
            calm = next(
                (name for name, known in watches.items() if not known.alarms and known is not watch), None
            )
            if calm is not None:
                del watches[calm]
        if len(self._tenants) > TENANTS:
            calm = next((name for name, known in self._tenants.items() if not _alarmed(known)), None)
            if calm is not None:
                del self._tenants[calm]
        return watch

    def _test(self) -> LossDrift:
        return LossDrift(budget=self._max_error, alpha=ALPHA)


def _alarmed(watches: Mapping[str, _Watch]) -> bool:
    return any(watch.alarms for watch in watches.values())
