"""What a local answer takes of the machine: processor seconds, shared out among the answers of a batch."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from fixtures.local_model import cpu_seconds_of

from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.money.usage import Meter
from smallfirst.router.wire import ChatRequest

LABELS = {
    "type": "json_schema",
    "json_schema": {"name": "l", "schema": {"enum": ["positive", "negative"]}},
}
STORY = "Tell a long story of a fox and a raven."


def metered(text: str, **fields: Any) -> tuple[ChatRequest, Meter]:
    meter = Meter()
    body = {"messages": [{"role": "user", "content": text}], "model": "smollm2-135m", **fields}
    return replace(ChatRequest.parse(body), meter=meter), meter


@pytest.fixture
async def model(local_model: LocalModel) -> LocalModel:
    """The model, done with what it does once in the background after it was loaded."""
    request, _ = metered("Great!", response_format=LABELS)
    await local_model.complete(request)
    return local_model


async def test_the_shares_of_concurrent_answers_add_up_to_what_the_process_used(model: LocalModel) -> None:
    asked = [metered(f"{STORY} {at}", max_tokens=8 * at) for at in range(1, 7)]
    before = cpu_seconds_of(model.pid)
    await asyncio.gather(*(model.complete(request) for request, _ in asked))
    used = cpu_seconds_of(model.pid) - before
    assert sum(meter.cpu_seconds or 0.0 for _, meter in asked) == pytest.approx(used, rel=0.25, abs=0.05)


async def test_an_answer_is_told_its_tokens_as_they_were_counted(model: LocalModel) -> None:
    request, meter = metered("What is the capital of France?", max_tokens=12)
    reply = await model.complete(request)
    assert reply.usage is not None
    assert meter.counted is not None
    assert meter.counted == msgspec.structs.replace(
        reply.usage, estimated=True, cpu_seconds=meter.cpu_seconds
    )


async def test_of_two_answers_in_one_batch_the_longer_has_taken_more(model: LocalModel) -> None:
    (short, little), (long, much) = (
        metered(STORY, max_tokens=4, seed=1),
        metered(STORY, max_tokens=80, seed=1),
    )
    await asyncio.gather(model.complete(short), model.complete(long))
    assert 0 < (little.cpu_seconds or 0) < (much.cpu_seconds or 0)


async def test_a_stream_that_is_closed_has_taken_what_it_took_until_then(model: LocalModel) -> None:
    request, meter = metered(STORY, max_tokens=1000, stream=True)
    stream = await model.stream(request)
    chunks = aiter(stream)
    while meter.output_tokens < 8:
        await anext(chunks)
    await stream.aclose()
    counted = meter.counted
    assert counted is not None
    assert 8 <= counted.output_tokens < 1000
    assert (counted.cpu_seconds or 0) > 0


async def test_an_answer_in_one_piece_that_is_given_up_has_taken_what_it_took_until_then(
    model: LocalModel,
) -> None:
    request, meter = metered(STORY, max_tokens=1000)
    answering = asyncio.create_task(model.complete(request))
    while meter.output_tokens < 8:
        await asyncio.sleep(0.01)
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert meter.counted is not None
    assert 8 <= meter.output_tokens < 1000


async def test_labels_are_metered_too(model: LocalModel) -> None:
    request, meter = metered("I like it.", response_format=LABELS)
    await model.complete(request)
    assert (meter.cpu_seconds or 0) > 0


async def test_several_answers_to_one_request_share_its_meter(model: LocalModel) -> None:
    request, meter = metered(STORY, max_tokens=8, n=3, seed=1)
    reply = await model.complete(request)
    assert reply.usage is not None
    assert meter.output_tokens >= reply.usage.output_tokens > 8
