"""What state a gateway is in: for readiness probes and for metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .metrics import Labelled
from .models.cloud import CloudModel
from .models.local.model import LocalModel
from .models.local.protocol import Stats

if TYPE_CHECKING:
    from .cache import CacheStats
    from .gateway import Gateway
    from .reuse import Reuse


def readiness(gateway: Gateway) -> dict[str, Any]:
    """Return `status` (`loading`, `degraded` or `ready`), the state of models, ledger, cache, keys and limits, and
    drift alarms.

    An alarm does not change the status: requests are served as well as before. Anybody may read this, so why
    something failed is left to the log: the words may name files and servers.
    """
    ledger = gateway.ledger.health()
    cache = gateway.cache.stats() if gateway.cache is not None else None
    states = {
        name: state.partition(":")[0] if gateway.health.available(name) else "down"
        for name, state in gateway.model_states.items()
    }
    access = None if gateway.access is None else gateway.access()
    healthy = ledger.healthy and (cache is None or cache.healthy)
    healthy = healthy and (access is None or (access.keys and access.limits))
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
            "error": None if ledger.last_error is None else "it cannot be written; the log says why",
        },
        "cache": _cache(gateway.reuse, cache) if gateway.reuse and cache else None,
        "keys": None if access is None else {"healthy": access.keys},
        "limits": None if access is None else {"store": access.limiter, "healthy": access.limits},
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
    """Return what is read at every scrape: metric name -> (help, value, or values by labels).

    Nothing is waited for: local models say by themselves what they do, and this reads what they said last.
    """
    ledger = gateway.ledger.health()
    values: dict[str, tuple[str, float | Labelled]] = {
        "smallfirst_ledger_healthy": (
            "1 where the last write of the ledger succeeded",
            float(ledger.healthy),
        ),
        "smallfirst_ledger_pending": ("Entries that are not on disk yet", float(ledger.pending)),
        "smallfirst_ledger_lost_total": ("Entries that could not be written", float(ledger.lost)),
        "smallfirst_feedback_total": ("Ratings of answers that were taken", float(gateway.ratings.taken)),
        "smallfirst_shadow_total": (
            "Comparisons of local answers with the baseline's, by result",
            _by("result", gateway.shadow.results),
        ),
        "smallfirst_model_up": (
            "1 where a model is asked, 0 while it rests",
            {(("model", name),): float(gateway.health.available(name)) for name in gateway.models},
        ),
        "smallfirst_retries_refused_total": (
            "Retries and hedges that were not made, as too many of a model's requests were asked twice",
            _by(
                "model",
                {name: m.budget.refused for name, m in gateway.models.items() if isinstance(m, CloudModel)},
            ),
        ),
        **_access(gateway),
        **_load(gateway),
        **gateway.drift.gauges(),
        **_local({name: m for name, m in gateway.models.items() if isinstance(m, LocalModel)}),
    }
    return values if gateway.reuse is None else values | _reuse(gateway.reuse)


def _access(gateway: Gateway) -> dict[str, tuple[str, float | Labelled]]:
    if gateway.access is None:
        return {}
    access = gateway.access()
    return {
        "smallfirst_keys_healthy": (
            "1 where the store of keys could be read last; else no key that is revoked is noticed",
            float(access.keys),
        ),
        "smallfirst_limits_healthy": ("1 where the store of keys' limits answers", float(access.limits)),
    }


def _load(gateway: Gateway) -> dict[str, tuple[str, float | Labelled]]:
    if gateway.load is None:
        return {}
    load = gateway.load()
    connections = (
        {}
        if load.connections is None
        else {"smallfirst_connections": ("Connections of clients", float(load.connections))}
    )
    return {
        **connections,
        "smallfirst_server_in_flight": ("Requests of all endpoints being answered", float(load.in_flight)),
        "smallfirst_server_held_bytes": ("Bodies of requests being answered", float(load.held_bytes)),
        "smallfirst_queue_delay_seconds": ("How long work stood in the process's queue last", load.delay),
        "smallfirst_shed_share": ("Share of requests that are refused for that now", load.share),
        "smallfirst_shed_total": (
            "Requests refused as the process had more to do than it can, by reason",
            _by("reason", load.shed),
        ),
        "smallfirst_slow_clients_total": (
            "Clients cut off as they were too slow, by what they were slow with",
            _by("part", load.cut),
        ),
    }


def _reuse(reuse: Reuse) -> dict[str, tuple[str, float | Labelled]]:
    recall, stats = reuse.recall, reuse.recall.cache.stats()
    return {
        "smallfirst_cache_healthy": ("1 where the cache's store answers", float(stats.healthy)),
        "smallfirst_cache_lookups_total": (
            "Requests by what the cache had for them",
            _by("result", reuse.found),
        ),
        "smallfirst_cache_refreshed_total": ("Stale answers that were asked again", float(reuse.refreshed)),
        "smallfirst_cache_errors_total": ("Failures of the cache's store", float(stats.errors)),
        "smallfirst_cache_skipped_total": ("Look-ups skipped while it was down", float(stats.skipped)),
        "smallfirst_cache_damaged_total": ("Entries that could not be read", float(recall.damaged)),
        "smallfirst_cache_semantic": (
            "1 where answers are given to similar requests, too",
            float(recall.similar),
        ),
        "smallfirst_cache_checks_total": (
            "Answers to similar requests that were asked again, by result",
            _by("result", reuse.checks),
        ),
        "smallfirst_cache_namespaces": (
            "Namespaces by whether too many such answers were wrong there",
            _by("state", recall.evidence.report()),
        ),
    }


# What an engine says of itself: metric -> (help, what of its statistics).
_ENGINE: tuple[tuple[str, str, Callable[[Stats], int]], ...] = (
    ("queue", "Sequences that wait to join a local model's batch", lambda stats: stats.waiting),
    ("busy", "Sequences in a local model's batch", lambda stats: stats.active),
    ("kv_tokens", "Room for tokens in a local model's memory", lambda stats: stats.cells),
    (
        "kv_tokens_used",
        "Of that room, what is taken; beginnings that are kept for reuse included",
        lambda stats: stats.cells_used,
    ),
    (
        "kv_tokens_kept",
        "Of what is taken, beginnings that are kept for reuse and given up where room is short",
        lambda stats: stats.cells_kept,
    ),
)


def _local(models: Mapping[str, LocalModel]) -> dict[str, tuple[str, float | Labelled]]:
    """Return what local models do; those that are not loaded have no values but that."""
    loaded = {name: stats for name, model in models.items() if (stats := model.stats) is not None}
    if not models:
        return {}
    values: dict[str, tuple[str, float | Labelled]] = {
        "smallfirst_local_loaded": (
            "1 where a local model is in memory",
            _by("model", {name: model.loaded for name, model in models.items()}),
        ),
        "smallfirst_local_outstanding": (
            "Jobs that a local model has and that are not done",
            _by("model", {name: model.outstanding for name, model in models.items()}),
        ),
    }
    if not loaded:
        return values
    for metric, words, of in _ENGINE:
        each = _by("model", {name: of(stats) for name, stats in loaded.items()})
        values[f"smallfirst_local_{metric}"] = (words, each)
    tokens: Labelled = {
        (("model", name), ("type", kind)): float(count)
        for name, stats in loaded.items()
        for kind, count in (("read", stats.tokens_read), ("made", stats.tokens_made))
    }
    memory = {name: _resident_bytes(models[name].pid) for name in loaded}
    return {
        **values,
        "smallfirst_local_tokens_total": (
            "Tokens that a local model computed since it was loaded: read of prompts, made of replies",
            tokens,
        ),
        "smallfirst_local_memory_bytes": (
            "Resident memory of a local model's process (Linux only)",
            _by("model", {name: size for name, size in memory.items() if size is not None}),
        ),
    }


def _by(label: str, counts: Mapping[Any, float]) -> Labelled:
    return {((label, str(value)),): float(count) for value, count in counts.items()}


def _resident_bytes(pid: int | None) -> float | None:
    """Return a process's resident memory as the kernel tells it; None where it does not (no `/proc`), or is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    return float(pages) * os.sysconf("SC_PAGE_SIZE")
