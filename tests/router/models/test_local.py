"""The local model: real llama.cpp with the real default model."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from smallfirst.router.errors import InvalidRequest, ModelError, ModelFileError, ModelUnavailable
from smallfirst.router.models.local.engine.cores import physical_cores
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import LocalModelSettings, default_local_model
from smallfirst.router.wire import ChatRequest, Reply, ReplyStream

FRANCE = {"role": "user", "content": "What is the capital of France?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["city"],
        },
    },
}
WEATHER = {"role": "user", "content": "What is the weather in Paris?"}


def request(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return ChatRequest.parse({"messages": list(messages) or [FRANCE], "max_tokens": 40, **fields})


def text(reply: Reply) -> str:
    content: str = reply.body["choices"][0]["message"]["content"]
    return content


async def read(stream: ReplyStream) -> list[dict[str, Any]]:
    return [json.loads(chunk) async for chunk in stream]


def streamed_text(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_a_reply_has_openais_shape(local_model: LocalModel) -> None:
    reply = await local_model.complete(request())
    body = reply.body
    assert "Paris" in text(reply)
    assert (body["object"], body["model"]) == ("chat.completion", "smollm2-135m")
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == await local_model.count_tokens(request())
    assert body["usage"]["completion_tokens"] > 3


async def test_a_stream_says_the_same(local_model: LocalModel) -> None:
    whole = await local_model.complete(request())
    chunks = await read(await local_model.stream(request(stream=True)))
    assert streamed_text(chunks) == text(whole)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == whole.body["usage"]["completion_tokens"]


async def test_the_limit_of_tokens_is_kept(local_model: LocalModel) -> None:
    reply = await local_model.complete(request(max_tokens=3))
    assert reply.body["choices"][0]["finish_reason"] == "length"
    assert reply.body["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stop", ["France", ["nothing", "of France is"], "tal of Fr"])
async def test_a_stop_string_ends_the_answer_before_it(local_model: LocalModel, stop: Any) -> None:
    full = text(await local_model.complete(request()))
    found = min(full.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in full)
    reply = await local_model.complete(request(stop=stop))
    chunks = await read(await local_model.stream(request(stop=stop, stream=True)))
    assert text(reply) == streamed_text(chunks) == full[:found]
    assert reply.body["choices"][0]["finish_reason"] == "stop"


async def test_a_seed_makes_sampling_repeatable(models_dir: Path) -> None:
    story = {"role": "user", "content": "Invent a name for a cat."}
    # A model of its own: beside other prompts in memory the last digits differ, and a near tie may fall the other way.
    model = LocalModel(default_local_model(), models_dir=models_dir)
    await model.start()
    found = [text(await model.complete(request(story, temperature=1.5, seed=seed))) for seed in (1, 1, 2)]
    await model.aclose()
    assert found[0] == found[1] != found[2]


async def test_characters_of_many_bytes_are_never_cut(local_model: LocalModel) -> None:
    emoji = {"role": "user", "content": "Repeat exactly: 🎉 über naïve 東京 🎈"}
    chunks = await read(await local_model.stream(request(emoji, stream=True, temperature=1.2, seed=3)))
    assert "\ufffd" not in streamed_text(chunks[:-3])


async def test_json_follows_its_schema(local_model: LocalModel) -> None:
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["positive", "negative"]}, "score": {"type": "integer"}},
        "required": ["label", "score"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    found = json.loads(text(await local_model.complete(request(FRANCE, response_format=form))))
    assert set(found) == {"label", "score"}
    assert found["label"] in ("positive", "negative")
    assert isinstance(found["score"], int)


async def goes_on(model: LocalModel) -> bool:
    """Whether the model still answers."""
    return len(text(await model.complete(request(max_tokens=4)))) > 0


NESTED: dict[str, Any] = {"type": "string"}
for _ in range(100):
    NESTED = {"type": "array", "items": NESTED}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "http://example.com/s.json"}, "not fetched"),
        ({"$ref": "#/$defs/missing"}, "leads nowhere"),
        ({"$ref": "#"}, "back to itself"),
        ({"type": "object", "properties": {"x": {"$ref": "#/properties/x"}}}, "back to itself"),
        ({"type": "thing"}, "'type' is not valid"),
        ({"type": "object", "properties": {"a": 1}}, "'properties.a' is not valid"),
        ({"enum": []}, "empty 'enum'"),
        (NESTED, "nested deeper"),
    ],
)
async def test_what_is_no_schema_is_refused_and_the_engine_goes_on(
    local_model: LocalModel, schema: dict[str, Any], why: str
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    with pytest.raises(InvalidRequest, match=why) as caught:
        await local_model.complete(request(response_format=form))
    assert (caught.value.code, caught.value.param) == (
        "invalid_schema",
        "response_format.json_schema.schema",
    )
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    with pytest.raises(InvalidRequest, match=why) as caught:
        await local_model.complete(request(tools=[TOOL, tool]))
    assert caught.value.param == "tools[1].function.parameters"
    assert await goes_on(local_model)


@pytest.mark.parametrize(
    ("schema", "sample"),
    [
        ({"type": "string", "pattern": r"^\d{3}-\w{2}$"}, r"\d{3}-\w{2}"),
        ({"type": "integer", "minimum": 17, "maximum": 19}, "17|18|19"),
        ({"type": "string", "format": "date"}, r"\d{4}-\d\d-\d\d"),
        ({"anyOf": [{"const": "yes"}, {"const": "no"}]}, "yes|no"),
        ({"type": ["null", "boolean"]}, "None|True|False"),
    ],
)
async def test_bounds_patterns_and_formats_are_kept(
    local_model: LocalModel, schema: dict[str, Any], sample: str
) -> None:
    whole = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": whole}}
    found = json.loads(text(await local_model.complete(request(response_format=form, temperature=1.5))))
    assert set(found) == {"x"}
    assert re.fullmatch(sample, str(found["x"]))


async def test_a_recursive_schema_is_followed(local_model: LocalModel) -> None:
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
                "required": ["next"],
            }
        },
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    reply = await local_model.complete(request(response_format=form, max_tokens=300, temperature=1, seed=1))
    if reply.body["choices"][0]["finish_reason"] == "length":  # nothing makes it stop: then it nested on
        assert text(reply).startswith('{"next": {"next": {"next": ')
    else:
        jsonschema.validate(json.loads(text(reply)), schema)


async def test_what_a_grammar_cannot_hold_is_checked_afterwards(local_model: LocalModel) -> None:
    never = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "not": {}}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": never}}
    with pytest.raises(ModelError) as caught:
        await local_model.complete(request(response_format=form))
    assert (caught.value.code, caught.value.status) == ("schema_mismatch", 502)
    tool = {"type": "function", "function": {"name": "f", "parameters": never}}
    with pytest.raises(ModelError) as caught:
        await local_model.complete(request(tools=[tool], tool_choice="required"))
    assert caught.value.code == "schema_mismatch"
    assert await goes_on(local_model)


async def test_any_object_is_given_where_no_schema_is(local_model: LocalModel) -> None:
    ask = {"role": "user", "content": "Give the name and the age of Tom, who is 7, as JSON."}
    reply = await local_model.complete(request(ask, response_format={"type": "json_object"}, max_tokens=200))
    assert isinstance(json.loads(text(reply)), dict)


@pytest.mark.parametrize("limit", [{"maxLength": 1_000_000}, {"maxLength": 20}])
async def test_long_limits_and_odd_characters_are_followed(
    local_model: LocalModel, limit: dict[str, int]
) -> None:
    schema = {
        "type": "object",
        "properties": {'a"b\\c\nd': {"enum": ['x"\n\\é']}, "t": {"type": "string", **limit}},
        "required": ['a"b\\c\nd', "t"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    answer = text(await local_model.complete(request(response_format=form, max_tokens=80)))
    found = json.loads(answer)
    assert found['a"b\\c\nd'] == 'x"\n\\é'


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_required_call_parses_and_fits_its_schema(
    local_model: LocalModel, choice: Any, streamed: bool
) -> None:
    asked = request(WEATHER, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, max_tokens=80)
    if streamed:
        chunks = await read(await local_model.stream(asked))
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        reason = chunks[-2]["choices"][0]["finish_reason"]
    else:
        answered = (await local_model.complete(asked)).body["choices"][0]
        calls, reason = answered["message"]["tool_calls"], answered["finish_reason"]
    assert len(calls) == 1
    assert (calls[0]["function"]["name"], calls[0]["type"], reason) == (
        "get_weather",
        "function",
        "tool_calls",
    )
    arguments = json.loads(calls[0]["function"]["arguments"])
    assert isinstance(arguments["city"], str)
    assert set(arguments) <= {"city", "unit"}
    assert arguments.get("unit", "C") in ("C", "F")


async def test_the_same_call_is_not_made_twice_in_one_answer(local_model: LocalModel) -> None:
    reply = await local_model.complete(request(WEATHER, tools=[TOOL], tool_choice="required", max_tokens=300))
    calls = [call["function"] for call in reply.body["choices"][0]["message"]["tool_calls"]]
    assert len(calls) == len({call["arguments"] for call in calls})


async def test_tools_that_may_not_be_called_are_not(local_model: LocalModel) -> None:
    reply = await local_model.complete(request(WEATHER, tools=[TOOL], tool_choice="none"))
    assert "tool_calls" not in reply.body["choices"][0]["message"]
    assert text(reply)


async def test_a_call_that_is_cut_off_never_becomes_prose(local_model: LocalModel) -> None:
    reply = await local_model.complete(request(WEATHER, tools=[TOOL], tool_choice="required", max_tokens=6))
    answered = reply.body["choices"][0]
    assert answered["finish_reason"] == "length"
    assert not answered["message"]["content"]


async def test_an_agents_conversation_can_be_continued(local_model: LocalModel) -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    reply = await local_model.complete(
        request(
            {"role": "developer", "content": "Be brief."},
            WEATHER,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "Sunny, 21 C"},
            {"role": "user", "content": [{"type": "text", "text": "So how is it?"}]},
            tools=[TOOL],
            tool_choice="none",
        )
    )
    assert text(reply)


async def test_a_conversation_that_is_too_long_is_refused(local_model: LocalModel) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await local_model.complete(request({"role": "user", "content": "word " * 5000}))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


async def test_a_stream_that_cannot_be_made_is_refused_before_it_begins(local_model: LocalModel) -> None:
    long = request({"role": "user", "content": "word " * 5000}, stream=True)
    with pytest.raises(InvalidRequest) as caught:
        await local_model.stream(long)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("read_first", [True, False])
async def test_a_stream_that_is_closed_frees_the_engine(local_model: LocalModel, read_first: bool) -> None:
    long = {"role": "user", "content": "Count from one to one thousand."}
    stream = await local_model.stream(request(long, max_tokens=3000, stream=True))
    if read_first:
        await anext(aiter(stream))
    await stream.aclose()
    async with asyncio.timeout(10):
        assert await goes_on(local_model)


@pytest.fixture
async def small(model_path: Path, tmp_path: Path) -> AsyncIterator[LocalModel]:
    """A second model with room for one waiting request."""
    settings = default_local_model().model_copy(
        update={"source": f"file:{model_path}", "max_queue": 1, "parallel": 1}
    )
    model = LocalModel(settings, models_dir=tmp_path)
    yield model
    await model.aclose()


async def test_a_full_queue_refuses_and_says_when_to_come_back(small: LocalModel) -> None:
    long = request({"role": "user", "content": "Count to one thousand."}, max_tokens=300)
    await small.start()
    calls = [asyncio.create_task(small.complete(long)) for _ in range(4)]
    await asyncio.sleep(0.3)
    refused = [call.exception() for call in calls if call.done()]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert len(refused) >= 2
    for error in refused:
        assert isinstance(error, ModelUnavailable)
        assert error.code == "queue_full"
        assert (error.retry_after or 0) >= 1.0


async def test_closing_fails_who_waits(small: LocalModel) -> None:
    long = request({"role": "user", "content": "Count to one thousand."}, max_tokens=3000)
    await small.start()
    stream = await small.stream(long)
    await anext(aiter(stream))
    waiting = asyncio.create_task(small.complete(request()))
    await asyncio.sleep(0.05)
    await small.aclose()
    with pytest.raises(ModelUnavailable):
        await waiting


async def test_closing_never_passes_a_cut_answer_off_as_whole(small: LocalModel) -> None:
    await small.start()
    story = request(
        {"role": "user", "content": "Write a long story about a fox and a river."}, max_tokens=2000
    )
    running = asyncio.create_task(small.complete(story))
    await asyncio.sleep(0.5)
    await small.aclose()
    with pytest.raises(ModelUnavailable):
        await running


async def test_who_reads_a_waiting_stream_is_let_go_when_it_is_closed(local_model: LocalModel) -> None:
    story = request(
        {"role": "user", "content": "Write a long story about a fox."}, max_tokens=2000, stream=True
    )
    running, waiting = await local_model.stream(story), await local_model.stream(request(stream=True))
    await anext(aiter(running))
    reading = asyncio.create_task(read(waiting))
    await asyncio.sleep(0.1)
    await waiting.aclose()
    async with asyncio.timeout(10):
        await reading
    await running.aclose()


def test_one_model_serves_several_event_loops_in_turn(local_model: LocalModel) -> None:
    found = [text(asyncio.run(local_model.complete(request()))) for _ in range(2)]
    assert found[0] == found[1]


@pytest.mark.parametrize("damage", ["cut", "garbage", "text", "missing"])
async def test_a_broken_file_is_a_clear_error(model_path: Path, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "m.gguf"
    contents = {
        "cut": model_path.read_bytes()[:2_000_000],
        "garbage": b"GGUF" + bytes(5000),
        "text": b"hello",
    }
    if damage in contents:
        file.write_bytes(contents[damage])
    model = LocalModel(LocalModelSettings(name="m", kind="llama", source=f"file:{file}"), models_dir=tmp_path)
    with pytest.raises(ModelFileError, match=r"m\.gguf"):
        await model.start()
    with pytest.raises(ModelUnavailable, match=r"m\.gguf"):
        await model.complete(request())
    await model.aclose()


def test_there_is_at_least_one_core() -> None:
    assert physical_cores() >= 1
