"""`smallfirst bench`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec

from ..settings import Settings
from .bench_cache import cache
from .bench_gateway import gateway
from .bench_ledger import ledger
from .bench_local import local
from .bench_soak import soak


@click.group()
def bench() -> None:
    """Measure the speed of the gateway, of its cache and of its local models."""


bench.add_command(cache)
bench.add_command(gateway)
bench.add_command(ledger)
bench.add_command(local)
bench.add_command(soak)


@bench.command()
@click.option(
    "--requests", default=2000, show_default=True, type=click.IntRange(min=10), help="How many decisions."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def decision(load: Callable[[], Settings], requests: int, as_json: bool) -> None:
    """Time a decision (parse, features, score, decide) for conversations of about 500 tokens, on one core."""
    result = measure_decisions(load(), requests)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    click.echo(
        f"decision: median {result['median_ms']:.3f} ms, p99 {result['p99_ms']:.3f} ms, "
        f"{result['per_second']:.0f}/s on one core "
        f"({result['requests']} conversations of {result['tokens_median']:.0f} tokens at the median"
        f"{'' if result['compiled'] else '; scoring is not compiled here: no C compiler at installation'})"
    )


def measure_decisions(settings: Settings, requests: int) -> dict[str, Any]:
    """Return the time of a decision in milliseconds, from the body's bytes to the plan.

    Every conversation is a different one, so that no cache of the program's own can help.
    """
    from ..health import ModelHealth
    from ..hints import read_hints
    from ..routing import Routing
    from ..scoring import Scorer
    from ..scoring.arithmetic import COMPILED
    from ..wire import ChatRequest

    routing = Routing(settings, Scorer.load(), ModelHealth())
    target = routing.target("auto")
    times: list[float] = []
    tokens: list[int] = []
    for at, body in enumerate(_conversations(requests + 50)):
        begun = time.perf_counter()
        request = ChatRequest.parse(body)
        plan = routing.plan(request, read_hints(request), target)
        if at >= 50:  # the first ones warm the processor's caches
            times.append((time.perf_counter() - begun) * 1000)
            tokens.append(plan.input_tokens)
    return {
        "requests": requests,
        "tokens_median": statistics.median(tokens),
        "median_ms": statistics.median(times),
        "p99_ms": statistics.quantiles(times, n=100)[98],
        "per_second": 1000 / statistics.fmean(times),
        "compiled": COMPILED,
    }


_TOPICS = (
    "the delivery of order {n}, which was due on Monday and has still not arrived at the warehouse",
    "a failing test in module {n}: the parser drops the last field when the line ends without a break",
    "the quarterly figures of region {n}, where revenue rose by 12 percent while costs stayed flat",
    "a flight to Lisbon in week {n}, with one stop at most and a return before the weekend",
)


def _conversations(count: int) -> Iterator[bytes]:
    """Yield different agent-like conversations of about 500 tokens as JSON bodies: system, tools, turns, a result."""
    for at in range(count):
        topic = _TOPICS[at % len(_TOPICS)].format(n=at)
        rows = [
            {"id": at * 7 + row, "status": "open", "amount": round(19.9 * row + at, 2)} for row in range(4)
        ]
        yield msgspec.json.encode(
            {
                "model": "auto",
                "messages": [
                    {"role": "system", "content": _SYSTEM},
                    {"role": "user", "content": f"Please look into {topic}. What do we know so far?"},
                    {"role": "assistant", "content": None, "tool_calls": [_call(at)]},
                    {
                        "role": "tool",
                        "tool_call_id": f"call_{at}",
                        "content": msgspec.json.encode(rows).decode(),
                    },
                    {"role": "assistant", "content": f"I found four open records about {topic}."},
                    {
                        "role": "user",
                        "content": f"Summarise them in two sentences and say what to do next ({at}).",
                    },
                ],
                "tools": [_TOOL],
            }
        )


_SYSTEM = (
    "You are a careful assistant of a small company. Use the tools when facts are missing, never invent numbers, "
    "and answer in plain words. Ask back when a request can be read in two ways. Keep answers short; write lists "
    "only when asked. Dates are written as day, month, year; amounts carry their currency. Anything about refunds "
    "above one hundred euros goes to a person. Do not repeat the customer's data when it is not needed for the "
    "answer. If a tool fails, say so and offer another way; do not call the same tool twice with the same "
    "arguments. Close every answer with the one thing that the customer should do next, in one sentence, and name "
    "the order or the ticket that it is about, so that it can be found again."
)

_TOOL = {
    "type": "function",
    "function": {
        "name": "search_records",
        "description": "Search the company's records and return the best matches with their status and amount.",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What to look for"},
                "status": {"type": "string", "enum": ["open", "closed", "any"]},
                "limit": {"type": "integer", "minimum": 1, "maximum": 20},
            },
            "required": ["query"],
        },
    },
}


def _call(at: int) -> dict[str, Any]:
    arguments = msgspec.json.encode({"query": f"record {at}", "status": "open", "limit": 4}).decode()
    return {
        "id": f"call_{at}",
        "type": "function",
        "function": {"name": "search_records", "arguments": arguments},
    }
