"""`smallfirst bench cache`: what a look-up and an addition cost as the cache grows, and what is found."""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import click
import msgspec
import numpy as np

from ..cache.base import CachedReply, Found, Place
from ..cache.memory import MemoryCache
from ..cache.recall import Asked, Recall, Recalled
from ..cache.redis import RedisCache
from ..scoring.embedding import FloatArray, IdArray, TokenEmbedding
from ..semantic.equivalence import Equivalence
from ..semantic.volatility import Volatility
from ..settings import CacheSettings
from ..wire import ChatRequest

SIZES = (1_000, 10_000, 100_000)

# Of an answer: 300 words.
_ANSWER_LETTERS = 1500

_LOOKUPS, _SEARCHES, _ADDITIONS = 1000, 500, 1000
_TTL = 4 * 3600.0

# Long enough to see what a store takes when it is slow, instead of skipping it.
_TIMEOUT = 5.0

_CHUNK = 20_000

# Additions at once while filling; those that are timed come one after the other.
_WRITERS = 8


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds a call."""

    median_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> Spread:
        """Summarise times."""
        return cls(statistics.median(seconds) * 1000, statistics.quantiles(seconds, n=100)[98] * 1000)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a size costs.

    Attributes:
        entries: All in one partition, the hardest case: most have a conversation's few.
        bytes: By which the store grew: this process's resident memory, or what Redis counts; None where unknown.
        exact_hit, exact_miss, search, add: Of the store alone.
        look_up: All that is done for a request that is like others but equal to none: it is read, its answer judged to
            keep or not, the nearest searched and judged.
        recall: Share of searches that find the truly nearest entry (among as many as a request is compared with).
        failed: Calls that the store did not answer.
    """

    entries: int
    exact_hit: Spread
    exact_miss: Spread
    search: Spread
    look_up: Spread
    add: Spread
    bytes: int | None
    recall: float
    failed: int


def _sizes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in value.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter("whole numbers from 1 on, with commas between them")
    return sizes


@click.command()
@click.option("--url", help="redis://…; default: the store in this process.")
@click.option(
    "--sizes",
    default=",".join(map(str, SIZES)),
    show_default=True,
    callback=_sizes,
    help="Entries, size by size.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def cache(url: str | None, sizes: tuple[int, ...], as_json: bool) -> None:
    """Time the cache's store as it grows: equal requests, similar ones, additions; memory, and what is found.

    What is put into Redis is removed at the end.
    """
    embedding = TokenEmbedding.load()
    texts = Texts(embedding, max(sizes) + _ADDITIONS)
    judges = Equivalence.load(embedding), Always(Volatility.load(embedding))
    if not as_json:
        click.echo("milliseconds (median / p99)")
    rows = asyncio.run(_measured(url, texts, judges, sizes, tell=_ignore if as_json else _tell))
    if as_json:
        store = "redis" if url else "memory"
        click.echo(msgspec.json.encode({"store": store, "sizes": [asdict(row) for row in rows]}))


def _tell(row: Measured) -> None:
    spreads = {
        "exact hit": row.exact_hit,
        "exact miss": row.exact_miss,
        "search": row.search,
        "whole look-up": row.look_up,
        "add": row.add,
    }
    times = "  ".join(f"{name} {one.median_ms:.3f} / {one.p99_ms:.3f}" for name, one in spreads.items())
    memory = "" if row.bytes is None else f"  {row.bytes / 1e6:,.0f} MB"
    failed = f"  {row.failed} calls failed" if row.failed else ""
    click.echo(f"{row.entries:>9,} entries: {times}{memory}  nearest found {row.recall:.1%}{failed}")


def _ignore(row: Measured) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Always:
    """Judges whether an answer keeps, and then says that it does: made-up texts would often be refused."""

    volatility: Volatility

    def keeps(self, text: str) -> bool:
        """Return True, as late as the judge would."""
        self.volatility.keeps(text)
        return True


Judges = tuple[Equivalence, Always]


class Texts:
    """Made-up texts as token ids, and their vectors: variations on some topics, frequent words more often.

    Args:
        count: How many; a topic has about 200 of them.
    """

    def __init__(self, embedding: TokenEmbedding, count: int, *, length: int = 14, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._tokenizer = embedding.tokenizer
        self._vectors = embedding.vectors
        # The first tokens are single bytes; the others stand roughly by how frequent they are.
        self._words = np.arange(300, len(embedding.vectors))
        self._share = 1 / np.arange(1, len(self._words) + 1)
        self._share /= self._share.sum()
        topics = self._draw(rng, (max(8, count // 200), length))
        self._ids = topics[rng.integers(len(topics), size=count)]
        changed = rng.random(self._ids.shape) < 0.4
        self._ids[changed] = self._draw(rng, int(changed.sum()))

    def vector(self, at: int) -> FloatArray:
        """Return the vector of a text."""
        row: FloatArray = self._embed(self._ids[at : at + 1])[0]
        return row

    def embed(self, start: int, end: int) -> FloatArray:
        """Return the vectors of some texts, shape (texts, dimensions)."""
        return self._embed(self._ids[start:end])

    def text(self, at: int) -> str:
        """Return a text in words."""
        return self._tokenizer.decode(self._ids[at].tolist())

    def reworded(self, count: int, among: int, *, seed: int = 1) -> tuple[list[str], FloatArray]:
        """Return texts that differ in two words from one of the first texts each, and their vectors."""
        rng = np.random.default_rng(seed)
        ids = self._ids[rng.integers(among, size=count)]
        for row in ids:
            row[rng.choice(len(row), 2, replace=False)] = rng.choice(self._words, 2)
        return self._tokenizer.decode_batch(ids.tolist()), self._embed(ids)

    def nearest(self, queries: FloatArray, among: int) -> list[int]:
        """Return which of the first texts is truly nearest to each query."""
        best = np.full(len(queries), -2.0)
        at = np.zeros(len(queries), np.int64)
        for start in range(0, among, _CHUNK):
            cosines = queries @ self.embed(start, min(start + _CHUNK, among)).T
            top = cosines.max(1)
            at = np.where(top > best, cosines.argmax(1) + start, at)
            best = np.maximum(best, top)
        return [int(one) for one in at]

    def _draw(self, rng: np.random.Generator, shape: int | tuple[int, int]) -> IdArray:
        return rng.choice(self._words, shape, p=self._share).astype(np.int32)

    def _embed(self, ids: IdArray) -> FloatArray:
        means = self._vectors[ids].mean(1)
        rows: FloatArray = means / np.linalg.norm(means, axis=1, keepdims=True)
        return rows


async def _measured(
    url: str | None, texts: Texts, judges: Judges, sizes: Sequence[int], *, tell: Callable[[Measured], None]
) -> list[Measured]:
    """Measure one store after the other. All stay till the end: memory that one frees would hide what another takes.

    Args:
        tell: Is told of every size as soon as it is measured.
    """
    rows = []
    async with AsyncExitStack() as stack:
        for size in sizes:
            bench = _Bench(RedisCache(url, timeout=_TIMEOUT) if url else MemoryCache(1 << 50), texts, judges)
            stack.push_async_callback(bench.aclose)
            rows.append(await bench.measure(size))
            tell(rows[-1])
    return rows


class _Bench:
    """One store, filled with texts that all stand in one partition."""

    def __init__(self, store: MemoryCache | RedisCache, texts: Texts, judges: Judges) -> None:
        self._store = store
        self._texts = texts
        self._tenant = f"smallfirst-bench-{secrets.token_hex(8)}"
        settings = CacheSettings(timeout=_TIMEOUT)
        self._recall = Recall(store, settings, equivalence=judges[0], volatility=judges[1])
        identity = self._read("any").identity
        self._prefix, self._partition = identity.prefix, identity.partition

    async def measure(self, size: int) -> Measured:
        """Fill the store and time it."""
        asked, queries = self._texts.reworded(_SEARCHES, size)
        truth = self._texts.nearest(queries, size)
        before = await self._bytes()
        await self._fill(size)
        held = await self._bytes()
        rng = np.random.default_rng(2)
        keys = [self._key(int(at)) for at in rng.integers(size, size=_LOOKUPS)]
        hits, hit_times = await _timed(keys, self._store.find)
        _, miss_times = await _timed([f"{key}x" for key in keys], self._store.find)
        found, search_times = await _timed(list(queries), self._search)
        _, look_up_times = await _timed(asked, self._look_up)
        _, add_times = await _timed(range(size, size + _ADDITIONS), self._add)
        nearest = [{neighbour.key for neighbour in one.nearest} for one in found]
        stats = self._store.stats()
        return Measured(
            size,
            Spread.of(hit_times),
            Spread.of(miss_times),
            Spread.of(search_times),
            Spread.of(look_up_times),
            Spread.of(add_times),
            None if held is None or before is None else held - before,
            statistics.fmean(self._key(at) in keys for at, keys in zip(truth, nearest, strict=True)),
            stats.errors + stats.skipped + sum(hit.value is None for hit in hits),
        )

    async def aclose(self) -> None:
        """Remove what was put into the store."""
        try:
            await self._store.delete(self._tenant)
        finally:
            await self._store.aclose()

    async def _fill(self, size: int) -> None:
        with click.progressbar(length=size, label=f"{size:,} entries", file=sys.stderr) as bar:
            left: Iterator[int] = iter(range(size))

            async def write() -> None:
                for at in left:
                    await self._add(at)
                    bar.update(1)
                    await asyncio.sleep(0)

            await asyncio.gather(*(write() for _ in range(_WRITERS)))

    async def _add(self, at: int) -> None:
        place = Place(self._partition, self._texts.vector(at))
        await self._store.set(self._key(at), self._value(at), ttl=_TTL, place=place)

    async def _search(self, vector: FloatArray) -> Found:
        place = Place(self._partition, vector)
        return await self._store.find(f"{self._prefix}none", lambda: place)

    async def _look_up(self, text: str) -> Recalled:
        return await self._recall.look_up(self._read(text))

    def _read(self, text: str) -> Asked:
        messages = [{"role": "user", "content": text}]
        return self._recall.read(
            ChatRequest.parse({"messages": messages}, tenant=self._tenant), target="bench"
        )

    def _value(self, at: int) -> bytes:
        message = {"role": "assistant", "content": "x" * _ANSWER_LETTERS}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return CachedReply(body, "bench", "cloud", 0.0, 0.0, asked=self._texts.text(at)).encode()

    async def _bytes(self) -> int | None:
        if isinstance(self._store, RedisCache):
            return await self._store.used_bytes()
        return _resident_bytes()

    def _key(self, at: int) -> str:
        return f"{self._prefix}{at:040x}"


def _resident_bytes() -> int | None:
    """Return what this process has in memory; None where the system is not Linux, which tells."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return None
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _timed(items: Sequence[T], call: Callable[[T], Awaitable[R]]) -> tuple[list[R], list[float]]:
    """Make calls one after the other; return their results and the seconds that each took."""
    results: list[R] = []
    times: list[float] = []
    for item in items:
        begun = time.perf_counter()
        results.append(await call(item))
        times.append(time.perf_counter() - begun)
    return results, times
