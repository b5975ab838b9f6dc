"""What state a gateway is in: for readiness probes and for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .metrics import Labelled

if TYPE_CHECKING:
    from .cache import CacheStats
    from .gateway import Gateway
    from .reuse import Reuse


def readiness(gateway: Gateway) -> dict[str, Any]:
    """Return `status` (`loading`, `degraded` or `ready`), the state of models, ledger and cache, and drift alarms.

    An alarm does not change the status: requests are served as well as before.
    """
    ledger = gateway.ledger.health()
    cache = gateway.cache.stats() if gateway.cache is not None else None
    states = {
        name: state if gateway.health.available(name) else "down"
        for name, state in gateway.model_states.items()
    }
    healthy = ledger.healthy and (cache is None or cache.healthy)
    status = "ready" if healthy and set(states.values()) <= {"ready"} else "degraded"
    if "loading" in states.values():
        status = "loading"
    return {
        "status": status,
        "models": states,
        "ledger": {
            "healthy": ledger.healthy,
            "pending": ledger.pending,
            "lost": ledger.lost,
            "error": ledger.last_error,
        },
        "cache": _cache(gateway.reuse, cache) if gateway.reuse and cache else None,
        "drift": gateway.drift.report(),
    }


def _cache(reuse: Reuse, stats: CacheStats) -> dict[str, Any]:
    recall = reuse.recall
    return {
        "store": recall.cache.name,
        "healthy": stats.healthy,
        "semantic": "on" if recall.similar else "off",
        "namespaces": recall.evidence.report(),
    }


def gauges(gateway: Gateway) -> Mapping[str, tuple[str, float | Labelled]]:
    """Return what is read at every scrape: metric name -> (help, value, or values by labels)."""
    ledger = gateway.ledger.health()
    shadows: Labelled = {(("result", result),): float(n) for result, n in gateway.shadow.results.items()}
    values: dict[str, tuple[str, float | Labelled]] = {
        "smallfirst_ledger_pending": ("Entries that are not on disk yet", float(ledger.pending)),
        "smallfirst_ledger_lost": ("Entries that could not be written", float(ledger.lost)),
        "smallfirst_feedback": ("Ratings of answers that were taken", float(gateway.ratings.taken)),
        "smallfirst_shadow": ("Comparisons of local answers with the baseline's, by result", shadows),
        **gateway.drift.gauges(),
    }
    if gateway.reuse is not None:
        recall, stats = gateway.reuse.recall, gateway.reuse.recall.cache.stats()
        checks: Labelled = {(("result", result),): float(n) for result, n in gateway.reuse.checks.items()}
        found: Labelled = {(("result", state),): float(n) for state, n in gateway.reuse.found.items()}
        alarms: Labelled = {(("state", state),): float(n) for state, n in recall.evidence.report().items()}
        values |= {
            "smallfirst_cache_lookups": ("Requests by what the cache had for them", found),
            "smallfirst_cache_refreshed": (
                "Stale answers that were asked again",
                float(gateway.reuse.refreshed),
            ),
            "smallfirst_cache_errors": ("Failures of the cache's store", float(stats.errors)),
            "smallfirst_cache_skipped": ("Look-ups skipped while it was down", float(stats.skipped)),
            "smallfirst_cache_damaged": ("Entries that could not be read", float(recall.damaged)),
            "smallfirst_cache_semantic": (
                "1 where answers are given to similar requests, too",
                float(recall.similar),
            ),
            "smallfirst_cache_checks": (
                "Answers to similar requests that were asked again, by result",
                checks,
            ),
            "smallfirst_cache_namespaces": ("Namespaces where too many such answers were wrong", alarms),
        }
    return values
