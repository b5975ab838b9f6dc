"""`smallfirst eval cache` on traffic: the replay beside what others do, its money, and what other bounds would do."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from smallfirst.router.cache import Cache, MemoryCache, open_cache
from smallfirst.router.cache.key import key_prefix
from smallfirst.router.cache.recall import Keeps, Recall, SameAnswer
from smallfirst.router.money.expected import FIRST_GUESS
from smallfirst.router.money.prices import PriceList
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.settings import CacheSettings, CloudModelSettings
from smallfirst.router.training.files import DataError
from smallfirst.router.wire import Usage

from .cache_page import traffic_page
from .cache_ways import (
    EXACT_ONLY,
    FIXED,
    TRIED_COSINES,
    TRIED_ERRORS,
    AtLeast,
    Cosine,
    Parts,
    Remembering,
    RememberingKeeps,
    cosine_name,
    last_text,
    provenance,
    threshold_of,
)
from .traffic import Came, Clock, Cost, Event, read_traffic, replayed, replayed_without_rules, summary

PRICE_MODEL = "gpt-4.1"
DEFAULT_TENANT = "default"
# Seconds that Redis may take. A gateway skips it much sooner, and then for a second or more, which is most of a replay.
PATIENCE = 5.0
# Of a replay that is compared with, beside its name.
COMPARED = (
    "exact_hits", "exact_wrong", "semantic_hits", "wrong_hits", "wrong_share", "wrong_share_95",
    "wrong_share_upper_95", "servable", "servable_hit", "servable_hit_share", "bypassed", "hit_share", "saved_usd",
    "saved_right_usd",
)  # fmt: skip


async def traffic_report(
    path: Path,
    parts: Parts,
    *,
    max_error: float,
    url: str | None = None,
    limit: int | None = None,
    price_model: str = PRICE_MODEL,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Evaluate the cache on a traffic file.

    Args:
        path: See `traffic.read_traffic`.
        parts: What decides.
        max_error: Share of semantic hits that may be wrong.
        url: Of a Redis to replay with, under a tenant of its own that is deleted afterwards; default: in this process.
            What is compared with is always replayed in this process.
        limit: At most so many events, the first ones.
        price_model: What the answers are priced as, by the price list.
        progress: Told of each step.

    Returns:
        The figures of `traffic.summary`; `max_error, threshold, store, priced_as`, and of its semantic hits
        `provenance`; `baselines` by name; `frontier`,
        what other bounds and fixed thresholds would do; `page` for `evals.page`.

    Raises:
        DataError: The file is missing or broken, Redis does not answer, or the price list does not know the model.
    """
    tenant = DEFAULT_TENANT if url is None else f"eval-cache-{uuid.uuid4().hex[:12]}"
    events = read_traffic(path, limit=limit, tenant=tenant)
    cost = _cost(price_model, parts.embedding)
    replays = _Replays(events, RememberingKeeps(parts.volatility), parts.embedding, cost)
    progress(f"{len(events)} events: replayed")
    settings = CacheSettings.model_validate({"max_cache_error": max_error, "url": url, "timeout": PATIENCE})
    came, store = await _through(events, parts, settings, tenant)
    progress("baselines and other bounds")
    report = {
        "data": path.name,
        "max_error": max_error,
        "threshold": threshold_of(parts.equivalence, max_error),
        "store": store,
        **provenance(parts.equivalence, _given(events, came)),
        "priced_as": {"model": price_model, "prices": PriceList().source},
        **summary(events, came, cost),
        "baselines": await replays.baselines(),
        "frontier": await replays.frontier(Remembering(parts.equivalence)),
    }
    return report | {"page": traffic_page(report)}


async def _through(
    events: Sequence[Event], parts: Parts, settings: CacheSettings, tenant: str
) -> tuple[list[Came], dict[str, Any]]:
    """Replay through the store of the settings; returns what came of it, and the store in words and numbers."""
    clock = Clock()
    shared = settings.url is not None
    cache = await _redis(settings, tenant) if shared else MemoryCache(settings.max_bytes, clock=clock)
    try:
        recall = Recall(
            cache, settings, equivalence=parts.equivalence, volatility=parts.volatility, clock=clock
        )
        came = await replayed(events, recall, clock)
        described = _described(cache)
        if shared:
            await cache.delete(tenant)
    except RedisError as exc:
        raise DataError(
            f"--url: Redis failed, and may hold entries of tenant {tenant} for an hour: {exc}"
        ) from exc
    finally:
        await cache.aclose()
    return came, described


class _Replays:
    """Replays of the same events by other ways, each in a store of its own in this process."""

    def __init__(
        self, events: Sequence[Event], volatility: Keeps, embedding: TokenEmbedding, cost: Cost
    ) -> None:
        self._events = events
        self._volatility = volatility
        self._cost = cost
        self._embedded = functools.cache(lambda text: embedding.embed([text])[0])
        self._cosine = Remembering(Cosine(embedding, 0.0))

    async def baselines(self) -> dict[str, dict[str, Any]]:
        """Return the figures of `exact_only`, `cosine_…` (a fixed threshold in the judge's place, all else the same)
        and `cosine_…_no_rules` (a fixed threshold on the last messages alone).
        """
        found = {EXACT_ONLY: await self._replay(self._cosine, None)}
        for least in FIXED:
            found[cosine_name(least)] = await self._replay(self._cosine, least)
        for least in FIXED:
            found[cosine_name(least, rules=False)] = self._without_rules(least)
        return {name: {key: of[key] for key in COMPARED} for name, of in found.items()}

    async def frontier(self, judge: SameAnswer) -> dict[str, list[dict[str, Any]]]:
        """Return what other bounds and fixed thresholds would do; bounds that cannot be shown are left out."""
        bounds = [(error, threshold_of(judge, error)) for error in TRIED_ERRORS]
        return {
            "max_cache_error": [
                {"max_error": error, **_point(least, await self._replay(judge, least))}
                for error, least in bounds
                if least is not None
            ],
            "cosine": [_point(least, await self._replay(self._cosine, least)) for least in TRIED_COSINES],
            "cosine_no_rules": [_point(least, self._without_rules(least)) for least in TRIED_COSINES],
        }

    async def _replay(self, judge: SameAnswer, least: float | None) -> dict[str, Any]:
        clock = Clock()
        # What may be wrong has no say here but whether there are semantic hits at all.
        settings = CacheSettings(max_cache_error=0.0 if least is None else 0.5)
        recall = Recall(
            MemoryCache(settings.max_bytes, clock=clock),
            settings,
            equivalence=AtLeast(judge, least),
            volatility=self._volatility,
            clock=clock,
        )
        return self._summary(await replayed(self._events, recall, clock))

    def _without_rules(self, least: float) -> dict[str, Any]:
        return self._summary(replayed_without_rules(self._events, self._embedded, least))

    def _summary(self, came: Sequence[Came]) -> dict[str, Any]:
        return summary(self._events, came, self._cost)


def _given(events: Sequence[Event], came: Sequence[Came]) -> list[tuple[str, str]]:
    """Return the texts of each semantic hit, with that of the event whose answer it got first."""
    by_seq = {event.seq: event for event in events}
    return [
        (last_text(by_seq[one.source].request), last_text(event.request))
        for event, one in zip(events, came, strict=True)
        if one.state == "semantic" and one.source is not None
    ]


def _point(least: float, of: dict[str, Any]) -> dict[str, Any]:
    kept = ("semantic_hits", "wrong_hits", "wrong_share", "servable_hit", "servable_hit_share")
    return {"threshold": least, **{name: of[name] for name in kept}}


async def _redis(settings: CacheSettings, tenant: str) -> Cache:
    """Return a Redis that answers.

    Raises:
        DataError: It does not.
    """
    cache = open_cache(settings)
    assert cache is not None
    await cache.start()
    probe = f"{key_prefix(tenant, '')}probe"
    await cache.set(probe, b"1", ttl=60)
    if (await cache.find(probe)).value is None:
        await cache.aclose()
        raise DataError("--url: Redis does not answer, or keeps nothing.")
    await cache.remove(probe)
    return cache


def _described(cache: Cache) -> dict[str, Any]:
    stats = cache.stats()
    return {
        "name": cache.name,
        "finds_similar": cache.finds_similar,
        "errors": stats.errors,
        "skipped": stats.skipped,
        "entries": stats.entries,
        "bytes": stats.bytes,
    }


def _cost(name: str, embedding: TokenEmbedding) -> Cost:
    """Return prices of events, by the price list and the embedding's tokenizer.

    Raises:
        DataError: The list does not know the model.
    """
    prices, model = PriceList(), CloudModelSettings(kind="openai", name=name)
    if prices.price(model, Usage(input_tokens=1, output_tokens=1)) is None:
        raise DataError(f"--price-model: the price list ({prices.source}) has no model '{name}'.")

    def cost(event: Event) -> float:
        if event.key not in known:
            usage = Usage(
                input_tokens=_prompt_tokens(event, embedding), output_tokens=_answer_tokens(event, embedding)
            )
            known[event.key] = prices.price(model, usage) or 0.0
        return known[event.key]

    known: dict[str, float] = {}
    return cost


def _prompt_tokens(event: Event, embedding: TokenEmbedding) -> int:
    """Return how long an event's request is: messages, tools and schema."""
    body = event.request.body
    rest = [str(body[name]) for name in ("tools", "response_format") if body.get(name)]
    return len(embedding.ids("\n".join([event.request.text, *rest])))


def _answer_tokens(event: Event, embedding: TokenEmbedding) -> int:
    """Return how long an event's answer is: as what is right, else a rough figure by task."""
    if event.expected:
        return len(embedding.ids(event.expected))
    return FIRST_GUESS["chat" if event.task == "chat" else "knowledge"]
