"""A scripted day: what the report says was paid is what the providers' own books say, to a billionth of a dollar.

The gateway is the real one; its models follow a script and keep books of the tokens they served. The bill is worked out
from these books in decimals, by prices that stand here a second time. `SMALLFIRST_DAY=20000` runs the whole day (about
a minute); without it, a part that takes seconds.
"""

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from smallfirst.router.answer import AnswerStream
from smallfirst.router.errors import RequestError, StreamBroken, UpstreamError
from smallfirst.router.gateway import Gateway
from smallfirst.router.ledger.report import Report, make_report
from smallfirst.router.settings import (
    CacheSettings,
    CloudModelSettings,
    LedgerSettings,
    LocalModelSettings,
    Price,
    Settings,
    TierPrice,
)
from smallfirst.router.wire import ChatRequest, Reply, ReplyStream, Usage

REQUESTS = int(os.environ.get("SMALLFIRST_DAY", "1500"))
TENANTS = tuple(f"tenant-{at}" for at in range(5))
AGENTS = ("triage", "coder", "writer", "critic")
# US dollars a million tokens: fresh input, cached input, cache write, output, reasoning.
PRICES: dict[str, tuple[str, str, str, str, str] | None] = {
    "tiny": ("0", "0", "0", "0", "0"),
    "house": ("0.01", "0.01", "0.01", "0.03", "0.03"),
    "mini": ("0.15", "0.075", "0.15", "0.6", "0.6"),
    "big": ("2.5", "0.3125", "3.125", "10", "12.5"),
    "thinker": ("1.1", "0.55", "1.1", "4.4", "4.4"),
    "nobody-knows-its-price": None,
}
FLEX = {"thinker": ("0.55", "0.275", "0.55", "2.2", "2.2")}


@dataclass(frozen=True)
class Scene:
    """What happens to one request.

    Attributes:
        how: `whole`, `stream`, `leaves` (the caller, after two words), `breaks` (the stream does), `fails`.
        retries: How often the model had to be asked again.
    """

    number: int
    tenant: str
    agent: str
    model: str
    how: str
    usage: Usage
    retries: int

    def request(self) -> ChatRequest:
        messages = [{"role": "user", "content": str(self.number)}]
        metadata = {"agent": self.agent, "session": f"{self.tenant}-{self.number % 97}", "tags": ["day"]}
        body = {"model": self.model, "messages": messages, "temperature": 0, "metadata": metadata}
        return ChatRequest.parse(body, tenant=self.tenant)


def script(count: int) -> list[Scene]:
    """Return a day: about one request in 20 is an earlier one again."""
    rng = random.Random(20_000)
    scenes: list[Scene] = []
    for number in range(count):
        if scenes and rng.random() < 0.05:
            scenes.append(rng.choice(scenes))
            continue
        model = rng.choice(list(PRICES))
        prompt, output = rng.randint(1, 8000), rng.randint(1, 1500)
        cached = rng.randint(0, prompt) if rng.random() < 0.3 else 0
        usage = Usage(
            input_tokens=prompt,
            output_tokens=output,
            cached_tokens=cached,
            cache_write_tokens=rng.randint(0, prompt - cached)
            if model == "big" and rng.random() < 0.3
            else 0,
            reasoning_tokens=rng.randint(0, output) if model in ("big", "thinker") else 0,
            service_tier="flex" if model in FLEX and rng.random() < 0.5 else None,
        )
        how = rng.choices(("whole", "stream", "leaves", "breaks", "fails"), (50, 35, 7, 4, 4))[0]
        retries = rng.choice((1, 2)) if rng.random() < 0.05 else 0
        scenes.append(Scene(number, rng.choice(TENANTS), rng.choice(AGENTS), model, how, usage, retries))
    return scenes


@dataclass
class Books:
    """What providers served, by call: the scene and the tokens so far; and what callers saw."""

    calls: dict[int, tuple[Scene, Usage]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    retries: int = 0

    @property
    def served(self) -> list[tuple[Scene, Usage]]:
        return list(self.calls.values())


class Actor:
    """A model that plays its part and books what it served."""

    def __init__(self, name: str, scenes: dict[str, Scene], books: Books) -> None:
        self.name = name
        self._scenes = scenes
        self._books = books

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def complete(self, request: ChatRequest) -> Reply:
        scene = self._scene(request)
        self._books.calls[len(self._books.calls)] = scene, scene.usage
        self._books.retries += scene.retries
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        return Reply(self._base("chat.completion", scene.usage, choice), scene.usage, retries=scene.retries)

    async def stream(self, request: ChatRequest) -> ReplyStream:
        scene = self._scene(request)
        self._books.retries += scene.retries
        return ReplyStream(self._chunks(scene), retries=scene.retries)

    async def _chunks(self, scene: Scene) -> AsyncIterator[bytes]:
        words, call = 4, len(self._books.calls)
        for word in range(1, words + 1):
            # Each chunk says what was used so far, and that is what is billed wherever it ends.
            part = scene.usage if word == words else _part(scene.usage, word, words)
            self._books.calls[call] = scene, part
            choice = {
                "index": 0,
                "delta": {"content": "yes "},
                "finish_reason": None if word < words else "stop",
            }
            yield json.dumps(self._base("chat.completion.chunk", part, choice)).encode()
            if scene.how == "breaks" and word == 2:
                raise StreamBroken("The stream broke.")

    def _scene(self, request: ChatRequest) -> Scene:
        scene = self._scenes[request.fields.messages[-1].text]
        if scene.how == "fails":
            raise UpstreamError("No.", status=400)
        return scene

    def _base(self, kind: str, usage: Usage, choice: dict[str, Any]) -> dict[str, Any]:
        body = {"id": "x", "object": kind, "created": 1, "model": self.name, "choices": [choice]}
        return body | {"usage": usage.to_wire(), "service_tier": usage.service_tier}


def _part(usage: Usage, word: int, words: int) -> Usage:
    output = usage.output_tokens * word // words
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=output,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=min(usage.reasoning_tokens, output),
        service_tier=usage.service_tier,
    )


def bill(scene: Scene, usage: Usage) -> Decimal | None:
    """Work a bill out in decimals, by this file's own prices."""
    prices = FLEX[scene.model] if usage.service_tier == "flex" else PRICES[scene.model]
    if prices is None:
        return None
    fresh = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    shown = usage.output_tokens - usage.reasoning_tokens
    counts = (fresh, usage.cached_tokens, usage.cache_write_tokens, shown, usage.reasoning_tokens)
    return sum((Decimal(price) * n for price, n in zip(prices, counts, strict=True)), Decimal(0)) / 10**6


def settings(path: Path) -> Settings:
    def price(of: tuple[str, str, str, str, str]) -> dict[str, float]:
        names = ("input", "cached_input", "cache_write", "output", "reasoning")
        return dict(zip(names, map(float, of), strict=True))

    def model(name: str) -> LocalModelSettings | CloudModelSettings:
        own = PRICES[name]
        tiers = {"flex": TierPrice(**price(FLEX[name]))} if name in FLEX else {}
        priced = None if own is None else Price(**price(own), tiers=tiers)
        if name in ("tiny", "house"):
            return LocalModelSettings(kind="llama", name=name, source="file:/none", price=priced)
        return CloudModelSettings(kind="openai", name=name, base_url="http://127.0.0.1:1", price=priced)

    return Settings(
        models=tuple(model(name) for name in PRICES),
        ledger=LedgerSettings(path=path),
        cache=CacheSettings(max_cache_error=0.0),
    )


async def play(gateway: Gateway, scene: Scene, books: Books) -> None:
    """Ask as the scene says, and note what the caller saw."""
    try:
        if scene.how in ("whole", "fails"):
            books.seen[(await gateway.complete(scene.request())).receipt.route] += 1
            return
        stream = await gateway.stream(scene.request())
        books.seen[await _read(stream, leave=scene.how == "leaves")] += 1
    except RequestError:
        books.seen["error"] += 1


async def _read(stream: AnswerStream, *, leave: bool) -> str:
    read = 0
    async for _ in stream:
        read += 1
        if leave and read == 2 and stream.receipt.route != "cache":
            await stream.aclose()
            return "cancelled"
    return stream.receipt.route


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Books, Gateway]:
    """Run the day; some requests at once, as they come."""
    books, scenes = Books(), script(REQUESTS)
    by_number = {str(scene.number): scene for scene in scenes}

    async def run() -> Gateway:
        own = settings(tmp_path_factory.mktemp("day") / "ledger.db")
        gateway = Gateway(own, models={name: Actor(name, by_number, books) for name in PRICES})
        async with gateway:
            for begin in range(0, len(scenes), 8):
                await asyncio.gather(*(play(gateway, scene, books) for scene in scenes[begin : begin + 8]))
        return gateway

    return books, asyncio.run(run())


def report(gateway: Gateway, *by: str) -> Report:
    return make_report(gateway.ledger.store, since=None, until=None, by=by, prices="")


def test_the_total_is_what_the_providers_booked(day: tuple[Books, Gateway]) -> None:
    books, gateway = day
    bills = [bill(scene, usage) for scene, usage in books.served]
    total = report(gateway).total
    assert abs(Decimal(total.cost_usd) - sum(known for known in bills if known is not None)) < Decimal("1e-9")
    assert total.unknown_cost == bills.count(None) > 0
    assert total.requests == REQUESTS


@pytest.mark.parametrize("by", ["tenant", "agent", "model"])
def test_so_is_every_group(day: tuple[Books, Gateway], by: str) -> None:
    books, gateway = day
    booked: dict[str, Decimal] = {}
    unknown: Counter[str] = Counter()
    for scene, usage in books.served:
        group, dollars = getattr(scene, by), bill(scene, usage)
        booked[group] = booked.get(group, Decimal(0)) + (dollars or 0)
        unknown[group] += dollars is None
    rows = {row.key[by]: row for row in report(gateway, by).rows}
    for group, dollars in booked.items():
        assert abs(Decimal(rows[group].cost_usd) - dollars) < Decimal("1e-9")
        assert rows[group].unknown_cost == unknown[group]


def test_what_callers_saw_is_in_the_report(day: tuple[Books, Gateway]) -> None:
    books, gateway = day
    total, routes = report(gateway).total, {row.key["route"]: row for row in report(gateway, "route").rows}
    assert (total.errors, total.cancelled) == (books.seen["error"], books.seen["cancelled"])
    assert total.cache_hits == total.exact_hits == books.seen["cache"] > 0
    assert total.retries == books.retries > 0
    answered = {route: row.requests - row.errors - row.cancelled for route, row in routes.items()}
    assert [answered[route] for route in ("local", "cloud")] == [books.seen["local"], books.seen["cloud"]]
    assert books.seen["error"] > 0
    assert books.seen["cancelled"] > 0


def test_what_was_cut_short_was_paid_and_is_told_apart(day: tuple[Books, Gateway]) -> None:
    books, gateway = day
    cut = [
        bill(scene, usage) for scene, usage in books.served if usage.output_tokens < scene.usage.output_tokens
    ]
    abandoned = sum((dollars for dollars in cut if dollars is not None), Decimal(0))
    assert abandoned > 0
    assert abs(Decimal(report(gateway).total.abandoned_usd) - abandoned) < Decimal("1e-9")
