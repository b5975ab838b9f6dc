"""What state a gateway is in: for readiness probes and for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .gateway import Gateway


def readiness(gateway: Gateway) -> dict[str, Any]:
    """Return `status` (`loading`, `degraded` or `ready`) and the state of models, ledger and cache."""
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
        "cache": {"store": gateway.cache.name, "healthy": cache.healthy} if gateway.cache and cache else None,
    }


def gauges(gateway: Gateway) -> dict[str, tuple[str, float]]:
    """Return what is read at every scrape: metric name -> (help, value)."""
    ledger = gateway.ledger.health()
    values = {
        "smallfirst_ledger_pending": ("Entries that are not on disk yet", float(ledger.pending)),
        "smallfirst_ledger_lost": ("Entries that could not be written", float(ledger.lost)),
    }
    if gateway.cache is not None:
        stats = gateway.cache.stats()
        values |= {
            "smallfirst_cache_hits": ("Answers found in the cache", float(stats.hits)),
            "smallfirst_cache_misses": ("Look-ups that found nothing", float(stats.misses)),
            "smallfirst_cache_errors": ("Failures of the cache's store", float(stats.errors)),
            "smallfirst_cache_skipped": ("Look-ups skipped while it was down", float(stats.skipped)),
        }
    return values
