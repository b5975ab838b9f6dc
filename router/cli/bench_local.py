"""`smallfirst bench local`: throughput and latency of a local model, alone or beside other servers."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
import httpx
import msgspec

from ..errors import ModelUnavailable, StreamBroken
from ..models.base import Model
from ..models.sse import SSEParser
from ..settings import LocalModelSettings, Settings
from ..wire import ChatRequest, ReplyStream
from .options import json_option

CONCURRENCIES = (1, 2, 4, 8, 16)


def _concurrencies(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        levels = tuple(int(level) for level in value.split(","))
    except ValueError:
        levels = ()
    if not levels or min(levels) < 1:
        raise click.BadParameter("whole numbers from 1 on, with commas between them")
    return levels


def _peers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Peer, ...]:
    pairs = [value.partition("=")[::2] for value in values]
    if any(not name or not url.startswith(("http://", "https://")) for name, url in pairs):
        raise click.BadParameter("NAME=http://HOST:PORT/v1")
    if len({name for name, _ in pairs}) < len(pairs):
        raise click.BadParameter("two servers have the same name")
    return tuple(Peer(name, url) for name, url in pairs)


@click.command()
@click.option("--gguf", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A GGUF file.")
@click.option("--model", "name", help="Instead: a local model of the settings, by name.")
@click.option("--threads", type=click.IntRange(1), help="Default: the model's setting.")
@click.option(
    "--concurrency",
    "concurrencies",
    default=",".join(map(str, CONCURRENCIES)),
    show_default=True,
    callback=_concurrencies,
    help="How many requests run at a time, level by level.",
)
@click.option(
    "--reply-tokens", default=64, show_default=True, type=click.IntRange(1), help="Tokens of an answer."
)
@click.option(
    "--rounds", default=1, show_default=True, type=click.IntRange(1), help="Of every level; medians count."
)
@click.option(
    "--peer",
    "peers",
    metavar="NAME=URL",
    multiple=True,
    callback=_peers,
    help="An OpenAI-compatible server (http://HOST:PORT/v1) that gets the same load, in turns. Repeatable.",
)
@json_option
@click.pass_obj
def local(
    load: Callable[[], Settings],
    /,
    gguf: Path | None,
    name: str | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a local model's throughput and latency with streamed answers to prompts of about 200 tokens.

    The prompts share a system prompt of about 150 tokens and differ in the rest.
    """
    from ..models.local.model import LocalModel

    if (gguf is None) == (name is None):
        raise click.UsageError("Give either --gguf or --model.")
    settings = load()
    spec = settings.local_model(name or "") if gguf is None else LocalModelSettings.of_file(gguf)
    changes = {
        "threads": threads or spec.threads,
        "max_queue": max(spec.max_queue, *options["concurrencies"]),  # all of a level may wait at once
    }
    model = LocalModel(spec.model_copy(update=changes), models_dir=settings.models_dir)

    def tell(line: str) -> None:
        click.echo(line, err=True)

    async def measure() -> dict[str, Any]:
        try:
            await model.start()
            return {"threads": model.threads} | await measure_local(model, progress=tell, **options)
        finally:
            await model.aclose()

    result = asyncio.run(measure())
    click.echo(msgspec.json.encode(result).decode() if as_json else _described(result))


async def measure_local(
    model: Model,
    *,
    concurrencies: Sequence[int] = CONCURRENCIES,
    requests_per_level: int = 8,
    reply_tokens: int = 64,
    rounds: int = 1,
    first_tokens: int = 5,
    peers: Sequence[Peer] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Return throughput in generated tokens a second and latencies in milliseconds, per number of requests at a time.

    Every server gets the same requests, one server after the other within each round of each level, so that what else
    the machine does hits all alike.

    Args:
        requests_per_level: At least so many a level; every worker sends two or more in any case.
        rounds: How often each level is run; its figures are the medians.
        first_tokens: How often the first token of a lone request is timed, cold and warm.
        progress: Is told of every measured level, as one line.

    Raises:
        ModelError: A server cannot be reached, or did not finish an answer.
    """
    load = Load(reply_tokens)
    servers: list[Server] = [model, *peers]
    async with AsyncExitStack() as stack:
        for peer in peers:
            stack.push_async_callback(peer.aclose)
        for server in servers:
            await server.start()
            # The first request of all also makes buffers and pages the file in.
            await ask(server, load.warm_up)
        firsts = await _measure_first_tokens(servers, load, first_tokens)
        levels: list[list[dict[str, Any]]] = [[] for _ in servers]
        for concurrency in concurrencies:
            count = max(2, -(-requests_per_level // concurrency)) * concurrency
            measured: list[list[dict[str, Any]]] = [[] for _ in servers]
            for turn in range(rounds):
                requests = load.requests(count)
                for server, runs in zip(servers, measured, strict=True):
                    runs.append(await _measure_level(server, concurrency, requests))
                    speed = f"{runs[-1]['tokens_per_s']:.1f} tokens/s"
                    progress(f"{server.name}: {concurrency} at a time, round {turn + 1} of {rounds}: {speed}")
            for level, runs in zip(levels, measured, strict=True):
                level.append({"concurrency": concurrency} | _median(runs))
    figures: list[dict[str, Any]] = [
        {"runs": runs} | first for runs, first in zip(levels, firsts, strict=True)
    ]
    result: dict[str, Any] = {"model": model.name} | figures[0]
    if peers:
        result["peers"] = {
            peer.name: theirs | {"ratio": _ratio(result["runs"], theirs["runs"])}
            for peer, theirs in zip(peers, figures[1:], strict=True)
        }
    return result


async def _measure_first_tokens(servers: Sequence[Server], load: Load, times: int) -> list[dict[str, float]]:
    """Return per server the median milliseconds to the first token with a new prefix, and with the one just used."""
    cold: list[list[float]] = [[] for _ in servers]
    warm: list[list[float]] = [[] for _ in servers]
    for _ in range(times):
        new, same = load.pair()
        for at, server in enumerate(servers):
            cold[at].append((await ask(server, new)).ttft_ms)
            warm[at].append((await ask(server, same)).ttft_ms)
    return [
        {"cold_ttft_ms": statistics.median(first), "warm_prefix_ttft_ms": statistics.median(again)}
        for first, again in zip(cold, warm, strict=True)
    ]


async def _measure_level(
    server: Server, concurrency: int, requests: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    waiting = iter(requests)

    async def work() -> list[Answer]:
        return [await ask(server, request) for request in waiting]

    begun = time.perf_counter()
    done = await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds = time.perf_counter() - begun
    answers = [answer for part in done for answer in part]
    latencies = [answer.latency_ms for answer in answers]
    tokens = sum(answer.output_tokens for answer in answers)
    return {
        "tokens_per_s": tokens / seconds,
        "ttft_ms_p50": statistics.median(answer.ttft_ms for answer in answers),
        "latency_ms_p50": statistics.median(latencies),
        "latency_ms_p95": statistics.quantiles(latencies, n=20, method="inclusive")[18],
        "requests": len(answers),
        "output_tokens": tokens,
        "prompt_tokens_p50": statistics.median(answer.prompt_tokens for answer in answers),
    }


def _median(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one level's figures of all its rounds: the median of each, but the sum of what was counted."""
    return {
        name: sum(run[name] for run in rounds)
        if name in ("requests", "output_tokens")
        else statistics.median(run[name] for run in rounds)
        for name in rounds[0]
    }


def _ratio(own: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return by concurrency how many times the peer's throughput ours is."""
    return {
        str(mine["concurrency"]): mine["tokens_per_s"] / other["tokens_per_s"]
        for mine, other in zip(own, theirs, strict=True)
    }


class Load:
    """Chat requests of about 200 tokens, of which about 150 are the system prompt.

    No two objects make the same prompts: a server that ran a measurement before cannot know them.
    """

    def __init__(self, reply_tokens: int) -> None:
        self._reply_tokens = reply_tokens
        self._mark = secrets.token_hex(3)
        self._numbers = itertools.count(1)
        self.warm_up = self._request(self._mark)

    def requests(self, count: int) -> list[dict[str, Any]]:
        """Return new requests, which share their system prompt with all others that this method makes."""
        return [self._request(self._mark) for _ in range(count)]

    def pair(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return two requests for one token each, which share a system prompt that no other request has."""
        mark = f"{self._mark}-{next(self._numbers)}"
        return self._request(mark) | {"max_tokens": 1}, self._request(mark) | {"max_tokens": 1}

    def _request(self, mark: str) -> dict[str, Any]:
        # What differs comes first: all that follows it must be read anew.
        number = next(self._numbers)
        return {
            "messages": [
                {"role": "system", "content": f"You are desk {mark}. {_SYSTEM}"},
                {"role": "user", "content": f"Case {number}: {_TOPICS[number % len(_TOPICS)]} {_TASK}"},
            ],
            "max_tokens": self._reply_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


_SYSTEM = (
    "You write for a small travel magazine that people read on trains. Use plain words and whole sentences, and tell "
    "things in the order in which they happened. Never invent prices, times or names; where a fact is missing, "
    "describe what can be seen, heard and smelled instead. Dates are written as day, month and year, and distances in "
    "kilometres. Every text has a beginning that draws the reader in, a long middle part with at least five scenes, "
    "and an end that looks back. Do not use headings, lists or tables, do not speak to the reader, and do not talk "
    "about yourself. Texts are long: eight hundred words at least."
)

_TOPICS = (
    "a night train from the northern coast to the mountains, in the last week of winter.",
    "an old ferry on a wide river, whose captain knows everybody in the villages.",
    "a market in a harbour town, from the first boats until the evening.",
    "a walk of four days through forests and over two passes, in autumn rain.",
)

_TASK = "Write the whole story of it for the next issue, with all its scenes and the people in them. Begin at once."


@dataclass(frozen=True, slots=True)
class Answer:
    """What one streamed answer took.

    Attributes:
        ttft_ms: Milliseconds from the request to the first text.
        latency_ms: Milliseconds from the request to the end.
        prompt_tokens: 0 where the server does not say.
    """

    ttft_ms: float
    latency_ms: float
    prompt_tokens: int
    output_tokens: int


class Server(Protocol):
    """The part of a `Model` that is measured."""

    @property
    def name(self) -> str:
        """What it is called in the result."""
        ...

    async def start(self) -> None:
        """Load or connect."""
        ...

    async def stream(self, request: ChatRequest) -> ReplyStream:
        """Start an answer."""
        ...


class Peer:
    """An OpenAI-compatible server. Leaner than `CloudModel`, so that the client takes little of its processor.

    Args:
        name: What it is called in the result.
        base_url: With the path up to `/v1`.
    """

    def __init__(self, name: str, base_url: str) -> None:
        self.name = name
        self._base_url = base_url
        self._model = ""
        # A connection for each request: servers close idle ones between their turns. Nothing is timed out but the
        # connecting; and no proxy of the environment, which would be measured too.
        self._http = httpx.AsyncClient(
            base_url=base_url,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx.Timeout(None, connect=5.0),
            trust_env=False,
        )

    async def start(self) -> None:
        """Connect, and ask for the name of its model: the first where it has several.

        Raises:
            ModelUnavailable: It cannot be reached, or does not answer as it should.
        """
        try:
            answer = await self._http.get("models")
            self._model = answer.raise_for_status().json()["data"][0]["id"]
        except (httpx.HTTPError, LookupError, TypeError, ValueError) as exc:
            raise self._unavailable(exc) from exc

    async def aclose(self) -> None:
        """Disconnect."""
        await self._http.aclose()

    async def stream(self, request: ChatRequest) -> ReplyStream:
        """Start an answer. What goes wrong is raised as `ModelUnavailable` when it is read."""
        return ReplyStream(self._chunks(request.body | {"model": self._model}))

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        parser = SSEParser()
        try:
            async with self._http.stream("POST", "chat/completions", json=body) as response:
                response.raise_for_status()
                async for piece in response.aiter_bytes():
                    for event in parser.feed(piece):
                        if event != b"[DONE]":
                            yield event
        except httpx.HTTPError as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, exc: Exception) -> ModelUnavailable:
        return ModelUnavailable(f"'{self.name}' at {self._base_url}: {exc or type(exc).__name__}")


async def ask(server: Server, body: dict[str, Any]) -> Answer:
    """Send one request and read its answer to the end.

    Raises:
        ModelError: The server failed, or the stream ended before the answer did.
    """
    request = ChatRequest.parse(body)
    first = finish = usage = None
    texts = 0
    begun = time.perf_counter()
    async for raw in await server.stream(request):
        chunk = _decode(raw)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            if choice.delta.content:
                first = first or time.perf_counter()
                texts += 1
    ended = time.perf_counter()
    if finish is None:
        raise StreamBroken(f"'{server.name}' ended a stream before its answer was finished.")
    if usage is None:
        # llama-cpp-python's server reports none in streams: one chunk a token, and at the limit we know the count.
        usage = _Usage(0, body["max_tokens"] if finish == "length" else texts)
    ttft = (first or ended) - begun
    return Answer(ttft * 1000, (ended - begun) * 1000, usage.prompt_tokens, usage.completion_tokens)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


def _described(result: dict[str, Any]) -> str:
    lines = [
        f"{result['model']}, {result['threads']} threads",
        f"{'':20} {'at a time':>9} {'tokens/s':>9} {'first token':>12} {'answer p50':>11} {'answer p95':>11}",
    ]
    for name, figures in {result["model"]: result, **result.get("peers", {})}.items():
        for run in figures["runs"]:
            ratio = figures.get("ratio", {}).get(str(run["concurrency"]))
            lines.append(
                f"{name:20} {run['concurrency']:9} {run['tokens_per_s']:9.1f} {run['ttft_ms_p50']:9.0f} ms "
                f"{run['latency_ms_p50']:8.0f} ms {run['latency_ms_p95']:8.0f} ms"
                + (f"   we: {ratio:.2f} times" if ratio else "")
            )
        lines.append(
            f"{name:20} first token of a lone request: {figures['cold_ttft_ms']:.0f} ms with a new system prompt, "
            f"{figures['warm_prefix_ttft_ms']:.0f} ms with the one just used"
        )
    return "\n".join(lines)
