"""`smallfirst bench gateway`: real processes, tiny counts, no figure judged."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from smallfirst.evals.bench.figures import figures
from smallfirst.evals.bench.load import Outcome, Plan, Spread, payloads, run
from smallfirst.evals.bench.machine import BenchError, Cores, Process, on_core
from smallfirst.evals.bench.measure import QUICK, Measured, Reading, Readings
from smallfirst.evals.bench.page import END, START, markdown, write
from smallfirst.evals.bench.targets import targets
from smallfirst.evals.bench.upstream import MODEL, Wish
from smallfirst.router.cli.bench import bench
from smallfirst.router.cli.bench_gateway import NAMES

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="pins processes: needs Linux")

ROOT = Path(__file__).parent.parent.parent
UPSTREAM = (sys.executable, "-m", "smallfirst.evals.bench.upstream")


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """The port of a pretended model."""
    process = Process(UPSTREAM, core=Cores.found().others, log=None)
    try:
        yield int(process.first_line())
    finally:
        process.stop()


def plan(port: int, **fields: Any) -> Plan:
    return Plan(**{"port": port, "model": MODEL, "text": "Hello.", "warm": 0.0, "seconds": 0.2, **fields})


def ask(port: int, text: str, **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": text}]
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return httpx.post(url, json={"model": MODEL, "messages": messages, **body}, trust_env=False)


# --- upstream -------------------------------------------------------------------------------------------------


def test_the_upstream_answers_as_a_chat_completion(upstream: int) -> None:
    body = ask(upstream, "Hello.").json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"].endswith(".")
    assert body["usage"]["total_tokens"] == 60


def test_the_upstream_streams_as_many_chunks_as_the_prompt_says(upstream: int) -> None:
    options = {"include_usage": True}
    answer = ask(upstream, Wish(chunks=7, gap=0.001).mark, stream=True, stream_options=options)
    events = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
    chunks = [json.loads(event) for event in events[:-1]]
    texts = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["delta"].get("content")]
    assert events[-1] == "[DONE]"
    assert len(texts) == 7
    assert chunks[-1]["usage"]["total_tokens"] == 60


def test_the_upstream_waits_as_long_as_the_prompt_says(upstream: int) -> None:
    assert ask(upstream, Wish(wait=0.05).mark).elapsed.total_seconds() >= 0.05


def test_a_wish_is_read_from_a_body_as_it_was_written() -> None:
    wish = Wish(wait=0.05, chunks=3, gap=0.002)
    assert Wish.read(json.dumps({"content": f"Well, {wish.mark}"}).encode()) == wish
    assert Wish.read(b"{}") == Wish()


# --- clients --------------------------------------------------------------------------------------------------


def test_no_two_requests_are_the_same_and_all_have_the_length_they_say() -> None:
    made = payloads(plan(1))
    one, two = next(made), next(made)
    head, _, body = one.partition(b"\r\n\r\n")
    assert one != two
    assert len(one) == len(two)
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["messages"][0]["content"] == "Hello. #000000001"


def test_the_closed_loop_sends_as_many_requests_as_it_is_told(upstream: int) -> None:
    outcome = run(plan(upstream, connections=4, requests=50))
    assert (outcome.asked, outcome.answered, outcome.failed) == (50, 50, 0)
    assert outcome.connections == 4
    assert outcome.latency is not None


def test_a_fixed_rate_sends_as_many_requests_as_are_due(upstream: int) -> None:
    outcome = run(plan(upstream, rate=200.0, warm=0.1))
    assert (outcome.asked, outcome.failed) == (60, 0)
    assert outcome.answered == 40


def test_a_fixed_rate_counts_from_when_requests_were_due(upstream: int) -> None:
    outcome = run(plan(upstream, rate=50.0, text=Wish(wait=0.03).mark))
    assert outcome.answered == 10
    assert outcome.latency is not None
    assert outcome.latency.p50 >= 30


def test_streams_are_timed_to_their_first_chunk(upstream: int) -> None:
    outcome = run(plan(upstream, requests=3, stream=True, text=Wish(chunks=5, gap=0.002).mark))
    assert outcome.chunks == 3 * (5 + 2)  # the end of the answer and `[DONE]` are events as well
    assert outcome.first is not None
    assert outcome.latency is not None
    assert outcome.first.p50 + 4 * 2 <= outcome.latency.p50


async def test_answers_that_are_not_good_are_counted_and_the_first_is_quoted(unused_tcp_port: int) -> None:
    import asyncio

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            body = b'{"error": "no"}'
            writer.write(b"HTTP/1.1 401 No\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", unused_tcp_port):
        outcome = await asyncio.to_thread(run, plan(unused_tcp_port, requests=3))
    assert (outcome.asked, outcome.answered, outcome.failed) == (3, 0, 3)
    assert outcome.failure == '{"error": "no"}'


# --- processes ------------------------------------------------------------------------------------------------


def test_a_process_is_on_the_core_it_was_given_and_this_one_stays_where_it_was() -> None:
    before, core = os.sched_getaffinity(0), Cores.found().gateway
    argv = (
        sys.executable,
        "-c",
        "import os, time; print(*os.sched_getaffinity(0), flush=True); time.sleep(60)",
    )
    process = Process(argv, core=core, log=None)
    try:
        assert process.first_line() == str(core)
        assert process.rss_bytes() > 1_000_000
        assert os.sched_getaffinity(0) == before
    finally:
        process.stop()


def test_a_process_that_ended_is_noticed_with_what_it_said(tmp_path: Path) -> None:
    argv = (sys.executable, "-c", "raise SystemExit('out of paper')")
    process = Process(argv, core=Cores.found().gateway, log=tmp_path / "log")
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(BenchError, match="out of paper"):
            process.check()
    finally:
        process.stop()


def test_a_core_is_given_back_after_an_error() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), on_core(Cores.found().gateway):
        raise KeyError
    assert os.sched_getaffinity(0) == before


# --- figures --------------------------------------------------------------------------------------------------


def reading(
    per_second: float, p50: float, *, first: float | None = None, direct: float | None = None
) -> Reading:
    outcome = Outcome(
        answered=round(per_second),
        asked=round(per_second),
        failed=0,
        failure=None,
        seconds=1.0,
        latency=Spread(p50, p50 + 1, p50 + 2),
        first=None if first is None else Spread(first, first, first),
        late=None,
        chunks=500,
        connections=1,
        cpu_seconds=0.1,
    )
    straight = None if direct is None else reading(1, direct).outcome
    return Reading(outcome, 0.5, 0.2, straight)


def measured(**by_name: Readings) -> Measured:
    return Measured({name: "1.0" for name in by_name if name != "direct"}, by_name, {}, 0.0)


def chosen(*names: str) -> list[Any]:
    return [target for target in targets() if target.name in names]


def test_ratios_are_made_within_rounds_and_their_median_is_taken() -> None:
    ours, theirs = Readings(), Readings()
    ours.by_kind["throughput"] = [reading(100, 1), reading(50, 1), reading(90, 1)]
    theirs.by_kind["throughput"] = [reading(10, 1), reading(10, 1), reading(10, 1)]
    found = figures(
        measured(direct=Readings(), smallfirst=ours, litellm=theirs), chosen("smallfirst", "litellm"), QUICK
    )
    assert found["ratios"] == {"litellm": {"throughput": 9.0, "low": 5.0, "high": 10.0}}
    assert found["goals"]["times_litellm"]["held"] is False


def test_added_latency_is_what_remains_after_the_same_load_on_the_upstream() -> None:
    ours = Readings()
    ours.by_kind["paced"] = [reading(100, 1.0, direct=0.25)]
    found = figures(measured(direct=Readings(), smallfirst=ours), chosen("smallfirst"), QUICK)
    assert found["targets"]["smallfirst"]["paced"] == {
        "per_second": 100.0,
        "added_p50_ms": 0.75,
        "added_p95_ms": 0.75,
        "added_p99_ms": 0.75,
    }
    assert found["goals"]["added_p50_ms"]["held"] is True


def test_a_first_chunk_is_compared_with_the_bare_pass_through() -> None:
    ours, floor = Readings(), Readings()
    ours.by_kind["first_chunk"] = [reading(1, 1, first=1.5)]
    floor.by_kind["first_chunk"] = [reading(1, 1, first=1.25)]
    found = figures(
        measured(direct=Readings(), smallfirst=ours, floor=floor), chosen("smallfirst", "floor"), QUICK
    )
    assert found["goals"]["first_chunk_over_floor_ms"]["reached"] == 0.25


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_knows_every_server() -> None:
    assert tuple(target.name for target in targets()) == NAMES


def test_a_quick_run_measures_the_gateway_and_its_floor_and_writes_them_down(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"Before.\n\n{START}\nold\n{END}\n\nAfter.\n")
    options = ["--quick", "--only", "smallfirst", "--only", "floor", "--work", str(tmp_path), "--json"]
    done = CliRunner().invoke(bench, ["gateway", *options, "--write", str(document)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["skipped"] == {}
    assert set(result["targets"]) == {"smallfirst", "floor"}
    for one in result["targets"].values():
        assert one["throughput"]["per_second"] > 0
        assert one["throughput"]["cpu_ms"] > 0
        assert one["stream"]["chunks_per_second"] > 0
        assert one["memory"]["growth"] > 0
        assert one["start_s"] > 0
        for kind in ("single", "paced", "waiting"):
            assert all(figure is not None for figure in one[kind].values())
    assert result["ratios"]["floor"]["throughput"] > 0
    text = document.read_text()
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert "old" not in text
    assert "Preliminary: a quick run." in text
    assert markdown(result) in text


def test_a_document_without_a_place_for_figures_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("Nothing here.\n")
    with pytest.raises(BenchError, match="has no place for figures"):
        write(document, {})
    assert document.read_text() == "Nothing here.\n"


def test_the_page_has_a_place_for_figures() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    assert text.count(START) == text.count(END) == 1
