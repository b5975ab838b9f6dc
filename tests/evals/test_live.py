"""Live runs against real HTTP servers: what a line says, what is asked again, and what ends a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.loopback_cloud import LoopbackCloud, hang_up, raw, status
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, Served

from smallfirst.evals.checkers import Answer
from smallfirst.evals.live import Ask, Server, run_suite
from smallfirst.evals.suites import Example
from smallfirst.router.errors import ModelUnavailable, SmallfirstError
from smallfirst.router.settings import Price, Retries
from smallfirst.router.training.files import DataError

NO_LIST = status(404)
MODELS = raw(b'{"data": [{"id": "m", "owned_by": "me"}]}')
SECRET = "a prompt that nobody may keep"


def example(name: str = "1", text: str = SECRET, *, answer: str | None = "Paris", **body: Any) -> Example:
    def check(given: Answer) -> bool:
        return answer is not None and answer in given.content

    request = {"messages": [{"role": "user", "content": text}], **body}
    return Example("t", name, "s", request, check if answer is not None else None)


def ask(**fields: Any) -> Ask:
    return Ask(**{"model": "m", "max_tokens": {"t": 64}, "concurrency": 1, **fields})


def server(url: str, *, tries: int = 0, **fields: Any) -> Server:
    return Server(url, retries=Retries(max=tries, base_delay=0), **fields)


async def run(
    url: str, out: Path, *examples: Example, how: Ask | None = None, **fields: Any
) -> list[dict[str, Any]]:
    async with server(url, **fields) as open_server:
        return await run_suite(open_server, how or ask(), examples, out)


def asked(cloud: LoopbackCloud) -> list[dict[str, Any]]:
    return [request.body for request in cloud.requests if request.path.endswith("/chat/completions")]


async def test_a_line_says_what_came_of_a_row_and_holds_no_text(cloud: LoopbackCloud, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    (line,) = await run(cloud.base_url, out, example(), how=ask(price=Price(input=1, output=10)))
    assert json.loads(out.read_text()) == line
    assert line.pop("latency_ms") > 0
    assert len(line.pop("key")) == 24
    assert line == {
        "task": "t", "subset": "s", "id": "1", "model": "m", "outcome": "right", "answered_by": "m",
        "route": None, "reason": None, "cost_usd": pytest.approx((20 * 1 + 5 * 10) / 1e6),
        "input_tokens": 20, "output_tokens": 5, "finish_reason": "stop",
    }  # fmt: skip
    assert "Paris" not in out.read_text()
    assert SECRET not in out.read_text()


async def test_a_request_has_temperature_0_the_tasks_limit_and_no_stream(
    cloud: LoopbackCloud, tmp_path: Path
) -> None:
    rows = [example("1", stream=True, temperature=1), example("2", max_completion_tokens=9)]
    await run(cloud.base_url, tmp_path / "o", *rows, api_key="sk-x")
    bodies = {"max_completion_tokens" in body: body for body in asked(cloud)}
    messages = [{"role": "user", "content": SECRET}]
    assert bodies == {
        False: {"messages": messages, "model": "m", "temperature": 0, "max_tokens": 64},
        True: {"messages": messages, "model": "m", "temperature": 0, "max_completion_tokens": 9},
    }
    assert {request.headers["authorization"] for request in cloud.requests} == {"Bearer sk-x"}


async def test_without_a_price_or_without_usage_the_cost_is_unknown_and_not_0(
    cloud: LoopbackCloud, tmp_path: Path
) -> None:
    (line,) = await run(cloud.base_url, tmp_path / "o", example())
    assert line["cost_usd"] is None
    cloud.usage = None
    (line,) = await run(cloud.base_url, tmp_path / "p", example(), how=ask(price=Price(input=1, output=1)))
    assert (line["cost_usd"], line["input_tokens"]) == (None, None)


async def test_what_cannot_be_checked_is_unscored(cloud: LoopbackCloud, tmp_path: Path) -> None:
    (line,) = await run(cloud.base_url, tmp_path / "o", example(answer=None))
    assert line["outcome"] == "unscored"


async def test_a_refused_request_is_wrong_and_a_failing_server_says_nothing_of_the_row(
    cloud: LoopbackCloud, tmp_path: Path
) -> None:
    cloud.enqueue(NO_LIST, status(400, {"message": "too long", "code": "context_length_exceeded"}))
    (line,) = await run(cloud.base_url, tmp_path / "o", example())
    assert (line["outcome"], line["error"]) == ("wrong", "context_length_exceeded")
    for failing in (status(503), status(429), raw(b"{}"), raw(b"no json"), hang_up()):
        cloud.enqueue(NO_LIST, failing)
        (line,) = await run(cloud.base_url, tmp_path / "p", example())
        assert line["outcome"] == "error"


async def test_a_failing_server_is_asked_again(cloud: LoopbackCloud, tmp_path: Path) -> None:
    cloud.enqueue(MODELS, status(503), hang_up())
    (line,) = await run(cloud.base_url, tmp_path / "o", example(), tries=2)
    assert line["outcome"] == "right"


async def test_a_parameter_that_newer_models_refuse_is_said_in_their_way(
    cloud: LoopbackCloud, tmp_path: Path
) -> None:
    refusals = [
        status(400, {"message": "no", "param": param, "code": "unsupported_parameter"})
        for param in ("max_tokens", "temperature")
    ]
    cloud.enqueue(MODELS, *refusals)
    lines = await run(cloud.base_url, tmp_path / "o", example("1"), example("2"))
    assert [line["outcome"] for line in lines] == ["right", "right"]
    assert [
        body.keys() & {"max_tokens", "max_completion_tokens", "temperature"} for body in asked(cloud)
    ] == [
        {"max_tokens", "temperature"},
        {"max_completion_tokens", "temperature"},
        {"max_completion_tokens"},
        {"max_completion_tokens"},
    ]


async def test_a_second_run_asks_only_for_what_is_missing_or_failed(
    cloud: LoopbackCloud, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    cloud.enqueue(MODELS, status(500))
    (failed,) = await run(cloud.base_url, out, example("1"))
    await run(cloud.base_url, out, example("2"))
    cloud.requests.clear()
    lines = await run(cloud.base_url, out, example("1"), example("2"), example("3"))
    assert len(asked(cloud)) == 2
    assert [(line["id"], line["outcome"]) for line in lines] == [
        ("1", "right"),
        ("2", "right"),
        ("3", "right"),
    ]
    assert failed["outcome"] == "error"


async def test_another_limit_or_model_or_changed_row_is_another_question(
    cloud: LoopbackCloud, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    for how in (ask(), ask(), ask(model="other"), ask(max_tokens={"t": 9})):
        await run(cloud.base_url, out, example(), how=how)
    await run(cloud.base_url, out, example(text="another text"))
    assert len(asked(cloud)) == 4


async def test_a_file_that_an_interrupt_cut_off_is_gone_on_with(cloud: LoopbackCloud, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    await run(cloud.base_url, out, example("1"), example("2"))
    whole = out.read_text()
    out.write_text(whole[:-20])
    assert len(await run(cloud.base_url, out, example("1"), example("2"))) == 2
    assert [len(json.loads(line)["key"]) for line in out.read_text().splitlines()] == [24, 24]
    assert len(asked(cloud)) == 3
    out.write_text(whole[:5])
    assert len(await run(cloud.base_url, out, example("1"), example("2"))) == 2
    assert len(out.read_text().splitlines()) == 2


async def test_a_run_with_every_answer_at_hand_needs_no_server(cloud: LoopbackCloud, tmp_path: Path) -> None:
    first = await run(cloud.base_url, tmp_path / "o", example())
    assert await run("http://127.0.0.1:9/v1", tmp_path / "o", example()) == first


async def test_another_file_is_neither_appended_to_nor_mended(cloud: LoopbackCloud, tmp_path: Path) -> None:
    out = tmp_path / "notes.jsonl"
    for text, message in (
        ('{"mine": 1}\n', "line 1: not a line of"),
        ("my notes", "its last line is not one"),
    ):
        out.write_text(text)
        with pytest.raises(DataError, match=message):
            await run(cloud.base_url, out, example())
        assert out.read_text() == text
    with pytest.raises(DataError, match="cannot be written"):
        await run(cloud.base_url, tmp_path / "none" / "o.jsonl", example())


async def test_a_wrong_key_or_model_and_a_server_that_is_not_there_end_the_run(
    cloud: LoopbackCloud, tmp_path: Path
) -> None:
    for refusals in ((status(401),), (MODELS, status(404, {"message": "no model m"}))):
        cloud.enqueue(*refusals)
        with pytest.raises(SmallfirstError, match="refuses requests with status 40"):
            await run(cloud.base_url, tmp_path / "o", example())
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        await run("http://me:secret@127.0.0.1:9/v1", tmp_path / "o", example())
    assert Server("http://me:secret@127.0.0.1:9/v1").shown == "http://127.0.0.1:9/v1"


async def test_a_gateways_own_word_on_route_model_and_cost_counts_and_its_cache_is_passed_by(
    served: Served, cloud: LoopbackCloud, tmp_path: Path
) -> None:
    rows = [example("1", EASY), example("2", HARD)]
    how = ask(model="auto", price=Price(input=99, output=99))
    for name in ("o", "p"):
        easy, hard = await run(served.base_url, tmp_path / name, *rows, how=how)
        assert (easy["route"], easy["answered_by"], easy["cost_usd"]) == ("local", LOCAL, 0.0)
        assert (hard["route"], hard["answered_by"]) == ("cloud", CLOUD)
        assert 0 < hard["cost_usd"] < 0.001
        assert easy["outcome"] == "right"
    assert len(asked(cloud)) == 2, "what the first run got from the cloud was not kept for the second"


async def test_a_gateways_cache_may_be_used(served: Served, cloud: LoopbackCloud, tmp_path: Path) -> None:
    how = ask(model="auto", use_cache=True)
    routes = [
        (await run(served.base_url, tmp_path / name, example(text=HARD), how=how))[0]["route"]
        for name in ("o", "p")
    ]
    assert routes == ["cloud", "cache"]


async def test_progress_tells_of_kept_lines_and_of_new_ones(cloud: LoopbackCloud, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    await run(cloud.base_url, out, example("1"))
    told: list[Any] = []
    note: Callable[[Any], None] = lambda line: told.append(line["id"])  # noqa: E731
    async with server(cloud.base_url) as open_server:
        await run_suite(open_server, ask(), [example("1"), example("2")], out, progress=note)
    assert told == ["1", "2"]
