"""The local model's process: killed, unloaded, shared by many requests; adapters, embeddings, labels, confidence."""

import asyncio
import json
import math
import os
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.adapter import write_adapter

from smallfirst.router.errors import InvalidRequest, ModelFileError, ModelUnavailable, RequestError
from smallfirst.router.models.local.memory import MemoryBudget
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import LocalModelSettings, default_local_model
from smallfirst.router.wire import ChatRequest, Reply

LABELS = ["positive", "negative", "neutral"]
LABEL_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "l",
        "schema": {"type": "object", "properties": {"label": {"enum": LABELS}}, "required": ["label"]},
    },
}

MakeModel = Callable[..., LocalModel]


def request(text: str = "What is the capital of France?", **fields: Any) -> ChatRequest:
    message = {"role": "user", "content": text}
    return ChatRequest.parse({"messages": [message], "max_tokens": 16, "model": "smollm2-135m", **fields})


def text(reply: Reply) -> str:
    content: str = reply.body["choices"][0]["message"]["content"]
    return content


@pytest.fixture
async def make_model(model_path: Path, tmp_path: Path) -> AsyncIterator[MakeModel]:
    """Makes models of one's own, for tests that end them."""
    made: list[LocalModel] = []

    def make(*, budget: MemoryBudget | None = None, **fields: Any) -> LocalModel:
        settings = default_local_model().model_dump() | {"source": f"file:{model_path}", **fields}
        made.append(LocalModel(LocalModelSettings(**settings), models_dir=tmp_path, budget=budget))
        return made[-1]

    yield make
    for model in made:
        await model.aclose()


# --- the process --------------------------------------------------------------------------------------------------


async def test_a_killed_process_fails_its_answers_and_is_started_again(make_model: MakeModel) -> None:
    model = make_model()
    await model.start()
    running = [
        asyncio.create_task(model.complete(request("Tell a story.", max_tokens=2000))) for _ in range(3)
    ]
    await asyncio.sleep(0.5)
    assert model.pid is not None
    os.kill(model.pid, signal.SIGKILL)
    failures = await asyncio.gather(*running, return_exceptions=True)
    for failure in failures:
        assert isinstance(failure, ModelUnavailable)
        assert failure.code == "local_model_crashed"
        assert "SIGKILL" in failure.message
    assert text(await model.complete(request()))


async def test_a_stream_whose_process_is_killed_ends_with_an_error(make_model: MakeModel) -> None:
    model = make_model()
    stream = await model.stream(request("Tell a story.", max_tokens=2000, stream=True))
    chunks = aiter(stream)
    for _ in range(3):
        await anext(chunks)
    assert model.pid is not None
    os.kill(model.pid, signal.SIGKILL)
    with pytest.raises(ModelUnavailable):
        async for _ in chunks:
            pass


async def test_closing_ends_the_process(make_model: MakeModel) -> None:
    model = make_model()
    await model.start()
    pid = model.pid
    assert pid is not None
    await model.aclose()
    assert not model.loaded
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_interrupts_do_not_end_it(make_model: MakeModel) -> None:
    model = make_model()
    await model.start()
    assert model.pid is not None
    for ending in (signal.SIGINT, signal.SIGTERM):
        os.kill(model.pid, ending)
    assert text(await model.complete(request()))


async def test_one_that_ends_while_it_is_loaded_is_a_clear_error(
    make_model: MakeModel, tmp_path: Path
) -> None:
    file = tmp_path / "odd.gguf"
    whole = Path(default_path(make_model)).read_bytes()
    # Another architecture's name of the same length, in the header.
    file.write_bytes(whole[:4096].replace(b"llama", b"xlama") + whole[4096:])
    model = make_model(source=f"file:{file}")
    with pytest.raises(ModelFileError, match=r"odd\.gguf"):
        await model.start()


def default_path(make: MakeModel) -> str:
    return str(make()._settings.source).removeprefix("file:")


def resident(pid: int | None) -> int:
    """MiB that a process has in memory; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) // 1024 if found else 0


async def test_many_requests_with_cancellations_and_bad_ones_leave_nothing_behind(
    make_model: MakeModel,
) -> None:
    model = make_model(max_queue=1000, context_tokens=512)
    await model.start()
    chance = random.Random(0)
    bad = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "nothing"}}}

    async def one(at: int) -> str:
        kind = chance.random()
        if kind < 0.1:
            asked = request("x", response_format=bad)
        elif kind < 0.2:
            asked = request("word " * 2000)
        elif kind < 0.4:
            asked = request(f"Is {at} good?", response_format=LABEL_FORMAT)
        else:
            asked = request(f"Say {at}.", max_tokens=chance.randint(1, 8))
        call = asyncio.create_task(model.complete(asked))
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.05)
            call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            return "cancelled"
        except RequestError as exc:
            return exc.code or "error"
        return "ok"

    gate = asyncio.Semaphore(24)

    async def gated(at: int) -> str:
        async with gate:
            return await one(at)

    count = int(os.environ.get("SMALLFIRST_STRESS", "100"))
    warm = await asyncio.gather(*(gated(at) for at in range(count // 4)))
    before = resident(model.pid)
    outcomes = Counter([*warm, *await asyncio.gather(*(gated(at) for at in range(count // 4, count)))])
    assert set(outcomes) <= {"ok", "cancelled", "invalid_schema", "context_length_exceeded"}
    assert outcomes["ok"] > count // 4
    assert not model.busy
    grown = resident(model.pid) - before
    print(dict(outcomes), "grown by", grown, "MiB of", before)
    assert grown < 40
    assert text(await model.complete(request()))


# --- several models -----------------------------------------------------------------------------------------------


async def test_models_that_do_not_fit_take_turns(make_model: MakeModel) -> None:
    budget = MemoryBudget(400_000_000)
    first, second = make_model(name="a", budget=budget), make_model(name="b", budget=budget)
    assert text(await first.complete(request()))
    assert (first.loaded, second.loaded) == (True, False)
    assert text(await second.complete(request()))
    assert (first.loaded, second.loaded) == (False, True)
    assert text(await first.complete(request()))


async def test_a_busy_model_is_not_unloaded(make_model: MakeModel) -> None:
    budget = MemoryBudget(400_000_000)
    first, second = make_model(name="a", budget=budget), make_model(name="b", budget=budget)
    stream = await first.stream(request("Tell a story.", max_tokens=2000, stream=True))
    await anext(aiter(stream))
    with pytest.raises(ModelUnavailable) as caught:
        await second.complete(request())
    assert caught.value.code == "no_memory"
    await stream.aclose()


# --- adapters -----------------------------------------------------------------------------------------------------


async def test_an_adapter_is_chosen_by_the_models_name(make_model: MakeModel, tmp_path: Path) -> None:
    adapters = {
        "none": {"source": f"file:{write_adapter(tmp_path / 'none.gguf', strength=0)}"},
        "odd": {"source": f"file:{write_adapter(tmp_path / 'odd.gguf', strength=0.5)}"},
    }
    model = make_model(adapters=adapters)
    asked = [request(model=name) for name in ("smollm2-135m", "smollm2-135m+none", "smollm2-135m+odd")]
    # All at once, so that batches of several adapters are due at the same time.
    plain, none, odd = await asyncio.gather(*(model.complete(one) for one in asked))
    assert text(plain) == text(none) != text(odd)
    assert [reply.body["model"] for reply in (plain, none, odd)] == [one.fields.model for one in asked]
    again = await model.complete(request())
    assert text(again) == text(plain)


async def test_an_adapter_for_another_model_is_a_clear_error(make_model: MakeModel, tmp_path: Path) -> None:
    wrong = write_adapter(tmp_path / "wrong.gguf", strength=1, width=64)
    model = make_model(adapters={"wrong": {"source": f"file:{wrong}"}})
    with pytest.raises(ModelFileError, match=r"wrong\.gguf cannot be loaded as an adapter"):
        await model.start()


# --- embeddings ---------------------------------------------------------------------------------------------------


async def test_embeddings_put_what_is_alike_together(local_model: LocalModel) -> None:
    texts = ["A cat sat on the mat.", "A kitten lay on the rug.", "def main(): return 0"]
    vectors, tokens = await local_model.embed(texts)
    assert tokens > 10
    assert [math.fsum(x * x for x in vector) for vector in vectors] == pytest.approx([1, 1, 1], abs=1e-5)

    def alike(a: int, b: int) -> float:
        return math.fsum(x * y for x, y in zip(vectors[a], vectors[b], strict=True))

    assert alike(0, 1) > alike(0, 2)


@pytest.mark.parametrize(("texts", "param"), [(["a", ""], "input[1]"), (["word " * 1000], "input[0]")])
async def test_a_text_that_cannot_be_embedded_is_named(
    local_model: LocalModel, texts: list[str], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await local_model.embed(texts)
    assert caught.value.param == param


# --- labels -------------------------------------------------------------------------------------------------------


async def test_labels_have_probabilities(local_model: LocalModel) -> None:
    reply = await local_model.complete(request("I love this, it is wonderful!", response_format=LABEL_FORMAT))
    known = reply.body["classification"]
    assert known["method"] == "model"
    assert sorted(known["probabilities"]) == sorted(LABELS)
    assert math.fsum(known["probabilities"].values()) == pytest.approx(1)
    best = max(known["probabilities"], key=lambda label: known["probabilities"][label])
    assert json.loads(text(reply)) == {"label": best}
    assert reply.confidence is not None
    assert reply.confidence.value == pytest.approx(known["probabilities"][best])


async def test_labels_of_several_tokens_that_begin_alike_are_told_apart(local_model: LocalModel) -> None:
    labels = [f"card_{kind}" for kind in ("arrival", "arrival_estimate", "linking", "payment_fee_charged")]
    schema = {"type": "string", "enum": labels}
    form = {"type": "json_schema", "json_schema": {"name": "l", "schema": schema}}
    reply = await local_model.complete(request("Where is my card?", response_format=form))
    assert json.loads(text(reply)) in labels
    assert len(set(reply.body["classification"]["probabilities"].values())) == len(labels)


# --- confidence ---------------------------------------------------------------------------------------------------


async def test_logprobs_are_given_as_openai_does(local_model: LocalModel) -> None:
    reply = await local_model.complete(request(logprobs=True, top_logprobs=3))
    content = reply.body["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == text(reply)
    for entry in content:
        assert entry["bytes"] == list(entry["token"].encode())
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["logprob"] == pytest.approx(entry["logprob"])
        assert entry["logprob"] <= 0
    mean = math.fsum(entry["logprob"] for entry in content) / len(content)
    assert reply.confidence is not None
    assert reply.confidence.mean_logprob == pytest.approx(mean)
    assert reply.confidence.min_logprob == min(entry["logprob"] for entry in content)


async def test_confidence_is_known_while_streaming(local_model: LocalModel) -> None:
    stream = await local_model.stream(request(stream=True))
    seen = []
    async for _ in stream:
        seen.append(stream.confidence.tokens if stream.confidence else 0)
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert seen[-1] > 3


# --- batching -----------------------------------------------------------------------------------------------------


async def test_a_shared_beginning_is_computed_once(make_model: MakeModel) -> None:
    model = make_model()
    system = {"role": "system", "content": "You answer questions about trains. " * 20}
    asked = [
        ChatRequest.parse(
            {"messages": [system, {"role": "user", "content": f"Question {at}?"}], "max_tokens": 4}
        )
        for at in range(4)
    ]
    replies = await asyncio.gather(*(model.complete(one) for one in asked))
    cached = [reply.body["usage"]["prompt_tokens_details"]["cached_tokens"] for reply in replies]
    assert sum(tokens < 100 for tokens in cached) == 1
    assert sum(tokens > 100 for tokens in cached) == 3


async def test_a_long_prompt_does_not_stall_others(make_model: MakeModel) -> None:
    model = make_model(context_tokens=2048)
    stream = await model.stream(request("Tell a long story.", max_tokens=1000, stream=True))
    chunks = aiter(stream)
    for _ in range(3):
        await anext(chunks)
    long = asyncio.create_task(model.complete(request("word " * 1500, max_tokens=1)))
    between = 0
    while not long.done():
        await anext(chunks)
        between += 1
    await stream.aclose()
    assert between > 10
    assert (await long).usage is not None


async def test_more_at_once_than_there_is_memory_for_are_all_answered(make_model: MakeModel) -> None:
    model = make_model(context_tokens=256, parallel=8)
    asked = [request(f"Tell story number {at}.", max_tokens=120) for at in range(8)]
    replies = await asyncio.gather(*(model.complete(one) for one in asked))
    assert all(text(reply) for reply in replies)


async def test_special_tokens_in_a_message_stay_text(local_model: LocalModel) -> None:
    plain = await local_model.count_tokens(request("a"))
    marked = await local_model.count_tokens(request("a" + "<|im_end|>" * 10))
    # One token each if they ended the turn; some each as text.
    assert marked - plain >= 30


@pytest.mark.parametrize("value", [10**30, "\ud800"])
async def test_what_cannot_be_passed_on_is_refused_and_others_go_on(
    local_model: LocalModel, value: Any
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "title": value}}}
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [tool], "max_tokens": 4}
    with pytest.raises(InvalidRequest) as caught:
        await local_model.complete(ChatRequest.parse(body))
    assert caught.value.code == "invalid_value"
    assert text(await local_model.complete(request(unknown=10**30)))


async def test_a_middling_prompt_after_a_long_one_finds_room(make_model: MakeModel) -> None:
    model = make_model(context_tokens=256)
    system = {"role": "system", "content": "You answer questions about trains and ships."}
    for length in (190, 130):
        user = {"role": "user", "content": f"{length} " + "word " * length}
        reply = await model.complete(ChatRequest.parse({"messages": [system, user], "max_tokens": 8}))
        assert reply.usage is not None
