"""`smallfirst bench local`: the real small model, and a real HTTP server beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.loopback_cloud import LoopbackCloud, cut, events, raw

from smallfirst.router.cli.bench_local import Load, Peer, ask, local, measure_local
from smallfirst.router.errors import ModelUnavailable, SettingsError, StreamBroken
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import Settings, default_local_model

MODELS = raw(b'{"data": [{"id": "served"}, {"id": "another"}]}')
FIGURES = {
    "concurrency",
    "tokens_per_s",
    "ttft_ms_p50",
    "latency_ms_p50",
    "latency_ms_p95",
    "requests",
    "output_tokens",
    "prompt_tokens_p50",
}


def settings() -> Settings:
    return Settings(models=(default_local_model(),))


def check_runs(runs: list[dict[str, Any]], *, levels: list[int], requests: list[int]) -> None:
    assert [run["concurrency"] for run in runs] == levels
    assert [run["requests"] for run in runs] == requests
    for run in runs:
        assert set(run) == FIGURES
        assert run["tokens_per_s"] > 0
        assert 0 < run["ttft_ms_p50"] <= run["latency_ms_p95"]
        assert 0 < run["latency_ms_p50"] <= run["latency_ms_p95"]


async def test_every_level_is_measured_in_every_round(local_model: LocalModel) -> None:
    told: list[str] = []
    result = await measure_local(
        local_model,
        concurrencies=(1, 3),
        requests_per_level=2,
        reply_tokens=3,
        rounds=2,
        first_tokens=1,
        progress=told.append,
    )
    assert set(result) == {"model", "runs", "cold_ttft_ms", "warm_prefix_ttft_ms"}
    assert result["model"] == local_model.name
    assert result["cold_ttft_ms"] > 0
    assert result["warm_prefix_ttft_ms"] > 0
    check_runs(result["runs"], levels=[1, 3], requests=[4, 12])
    for run in result["runs"]:
        assert run["output_tokens"] == 3 * run["requests"]
        assert 180 <= run["prompt_tokens_p50"] <= 220
    assert len(told) == 4
    assert json.loads(json.dumps(result)) == result


async def test_a_peer_gets_as_many_requests_and_is_compared(
    local_model: LocalModel, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(MODELS)
    peer = Peer("loopback", cloud.base_url)
    result = await measure_local(
        local_model,
        concurrencies=(2,),
        requests_per_level=1,
        reply_tokens=2,
        first_tokens=2,
        peers=[peer],
    )
    theirs = result["peers"]["loopback"]
    assert set(theirs) == {"runs", "cold_ttft_ms", "warm_prefix_ttft_ms", "ratio"}
    check_runs(theirs["runs"], levels=[2], requests=[4])
    assert theirs["ratio"] == {
        "2": result["runs"][0]["tokens_per_s"] / theirs["runs"][0]["tokens_per_s"],
    }
    asked = [received.body for received in cloud.requests[1:]]
    assert {body["model"] for body in asked} == {"served"}
    # One to warm up, two pairs, and the level.
    assert [body["max_tokens"] for body in asked] == [2] + [1] * 4 + [2] * 4


async def test_prompts_share_what_they_should_and_nothing_else() -> None:
    load = Load(64)
    pairs = [load.pair() for _ in range(2)]
    requests = [load.warm_up, *load.requests(5), *load.requests(5), *pairs[0], *pairs[1]]
    systems = [request["messages"][0]["content"] for request in requests]
    assert len({request["messages"][1]["content"] for request in requests}) == len(requests)
    assert len(set(systems[:11])) == 1
    assert systems[11] == systems[12]
    assert systems[13] == systems[14]
    assert len({*systems, Load(64).warm_up["messages"][0]["content"]}) == 4


async def test_without_usage_the_chunks_are_counted(cloud: LoopbackCloud) -> None:
    cloud.usage = None
    cloud.answer_text = "one two three"
    cloud.enqueue(MODELS)
    peer = Peer("loopback", cloud.base_url)
    await peer.start()
    answer = await ask(peer, Load(64).warm_up)
    await peer.aclose()
    assert (answer.prompt_tokens, answer.output_tokens) == (0, 3)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (cut(after=2), ModelUnavailable),
        (raw(b"{}", code=500), ModelUnavailable),
        (events(b'data: {"choices": []}\n\n', b"data: [DONE]\n\n"), StreamBroken),
    ],
)
async def test_an_answer_that_is_not_whole_does_not_count(
    cloud: LoopbackCloud, behaviour: Any, error: type[Exception]
) -> None:
    cloud.enqueue(MODELS, behaviour)
    peer = Peer("loopback", cloud.base_url)
    await peer.start()
    with pytest.raises(error, match="loopback"):
        await ask(peer, Load(64).warm_up)
    await peer.aclose()


async def test_a_peer_that_is_not_there_is_named() -> None:
    peer = Peer("nobody", "http://127.0.0.1:9/v1")
    with pytest.raises(ModelUnavailable, match=r"'nobody' at http://127\.0\.0\.1:9/v1"):
        await peer.start()
    await peer.aclose()


def test_the_command_prints_one_object_last(model_path: Path) -> None:
    options = [
        "--gguf",
        str(model_path),
        "--threads",
        "1",
        "--concurrency",
        "1",
        "--reply-tokens",
        "2",
        "--json",
    ]
    said = CliRunner().invoke(local, options, obj=settings, catch_exceptions=False)
    result = json.loads(said.stdout)
    assert set(result) == {"model", "threads", "runs", "cold_ttft_ms", "warm_prefix_ttft_ms"}
    assert (result["model"], result["threads"]) == (model_path.stem, 1)
    check_runs(result["runs"], levels=[1], requests=[8])
    assert "1 at a time" in said.stderr


def test_help_names_the_options() -> None:
    said = CliRunner().invoke(local, ["--help"])
    assert said.exit_code == 0
    for option in ("--gguf", "--model", "--threads", "--concurrency", "--reply-tokens", "--rounds", "--peer"):
        assert option in said.stdout


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "either --gguf or --model"),
        (["--model", "m", "--concurrency", "1,0"], "whole numbers from 1 on"),
        (["--model", "m", "--peer", "http://127.0.0.1:9/v1"], "NAME=http://HOST:PORT/v1"),
        (["--model", "m", "--peer", "a=http://x/v1", "--peer", "a=http://y/v1"], "the same name"),
    ],
)
def test_wrong_options_are_explained(options: list[str], problem: str) -> None:
    said = CliRunner().invoke(local, options, obj=settings)
    assert said.exit_code == 2
    assert problem in said.stderr


def test_a_model_that_the_settings_do_not_have_is_named() -> None:
    with pytest.raises(SettingsError, match="no local model is named 'other'"):
        CliRunner().invoke(local, ["--model", "other"], obj=settings, catch_exceptions=False)
