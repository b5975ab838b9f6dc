"""Several answers of the local model to one prompt."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import LOCAL, Served

from smallfirst.router.errors import InvalidRequest
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.money.usage import Meter
from smallfirst.router.settings import default_local_model
from smallfirst.router.wire import ChatRequest, Usage

STORY: Any = [{"role": "user", "content": "Tell me a very short story about a cat."}]


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.parse({"messages": STORY, "max_tokens": 12, "n": 3, **fields})


def texts(body: dict[str, Any]) -> list[str]:
    assert [choice["index"] for choice in body["choices"]] == list(range(len(body["choices"])))
    return [choice["message"]["content"] for choice in body["choices"]]


async def streamed(local_model: LocalModel, asked: ChatRequest) -> tuple[list[str], list[dict[str, Any]]]:
    stream = await local_model.stream(asked)
    chunks = [json.loads(chunk) async for chunk in stream]
    assert len({chunk["id"] for chunk in chunks}) == 1
    found = ["", "", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            found[choice["index"]] += choice["delta"].get("content") or ""
    return found, chunks


async def test_several_answers_come_as_choices(local_model: LocalModel) -> None:
    alone = await local_model.complete(request(n=1))
    reply = await local_model.complete(request(seed=1))
    assert len(set(texts(reply.body))) > 1
    assert reply.usage is not None
    assert alone.usage is not None
    assert reply.usage.input_tokens == alone.usage.input_tokens
    assert 12 < reply.usage.output_tokens <= 3 * 12
    assert Usage.from_wire(reply.body["usage"]) == reply.usage


async def test_a_seed_gives_the_same_answers_again_and_streamed(local_model: LocalModel) -> None:
    first = await local_model.complete(request(seed=7))
    again = await local_model.complete(request(seed=7))
    assert texts(first.body) == texts(again.body)
    found, chunks = await streamed(local_model, request(seed=7, stream=True))
    assert found == texts(first.body)
    finished = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(finished) == [0, 1, 2]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == first.body["usage"]["completion_tokens"]


async def test_without_chance_all_answers_are_the_same(local_model: LocalModel) -> None:
    capital = [{"role": "user", "content": "What is the capital of France?"}]
    reply = await local_model.complete(request(messages=capital, temperature=0))
    assert len(set(texts(reply.body))) == 1


async def test_several_are_as_sure_as_the_least_sure_of_them(local_model: LocalModel) -> None:
    several = await local_model.complete(request(seed=3, max_tokens=8, logprobs=True))
    told = [[token["logprob"] for token in each["logprobs"]["content"]] for each in several.body["choices"]]
    assert several.confidence is not None
    least = min(sum(logprobs) / len(logprobs) for logprobs in told)
    assert several.confidence.mean_logprob == pytest.approx(least, abs=0.01)


@pytest.mark.parametrize("streams", [False, True])
async def test_what_they_took_is_counted_once(local_model: LocalModel, streams: bool) -> None:
    meter = Meter()
    asked = replace(request(seed=4, stream=streams), meter=meter)
    if streams:
        _, chunks = await streamed(local_model, asked)
        usage = Usage.from_wire(chunks[-1]["usage"])
    else:
        usage = (await local_model.complete(asked)).usage
    assert usage is not None
    assert (meter.input_tokens, meter.output_tokens) == (usage.input_tokens, usage.output_tokens)
    assert meter.cached_tokens == usage.cached_tokens


@pytest.mark.parametrize("streams", [False, True])
async def test_more_answers_than_may_wait_are_one_request(models_dir: Path, streams: bool) -> None:
    settings = default_local_model().model_copy(update={"parallel": 1, "max_queue": 1})
    model = LocalModel(settings, models_dir=models_dir)
    asked = request(max_tokens=2, stream=streams)
    try:
        if streams:
            found, _ = await streamed(model, asked)
        else:
            found = texts((await model.complete(asked)).body)
    finally:
        await model.aclose()
    assert all(found)


async def test_what_no_answer_fits_is_refused_for_all(local_model: LocalModel) -> None:
    long = [{"role": "user", "content": "word " * 6000}]
    with pytest.raises(InvalidRequest, match="room for"):
        await local_model.complete(request(messages=long))
    assert not local_model.busy


async def test_a_stream_that_is_closed_frees_all_of_them(local_model: LocalModel) -> None:
    stream = await local_model.stream(request(max_tokens=500, stream=True))
    await anext(aiter(stream))
    assert local_model.busy
    await stream.aclose()
    assert not local_model.busy
    assert [chunk async for chunk in stream] == []


@pytest.mark.parametrize("streams", [False, True])
def test_the_openai_client_gets_them_without_a_cloud(
    served: Served, cloud: LoopbackCloud, streams: bool
) -> None:
    asked: Any = {"model": LOCAL, "messages": STORY, "n": 2, "max_tokens": 12, "seed": 5}
    with openai.OpenAI(base_url=served.base_url, api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**asked)
        found = [choice.message.content for choice in whole.choices]
        if streams:
            again = ["", ""]
            for chunk in client.chat.completions.create(**asked, stream=True):
                for choice in chunk.choices:
                    again[choice.index] += choice.delta.content or ""
            assert again == found
    assert len(set(found)) == 2
    assert cloud.requests == []
