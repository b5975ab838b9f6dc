"""What holds for every request and every stream, whatever the wire."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from fixtures.loopback_cloud import DONE
from fixtures.wired import TOOL_CALL, choice, chunks_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallfirst.router.answer import Answer, Receipt
from smallfirst.router.errors import RequestError, StreamBroken
from smallfirst.router.models.cloud import CloudModel
from smallfirst.router.models.sse import SSEParser
from smallfirst.router.settings import CloudModelSettings
from smallfirst.router.wire import ChatFields, ChatRequest, Usage
from smallfirst.router.wires import completions, messages, responses
from smallfirst.router.wires.base import Call
from smallfirst.router.wires.chat import ChatCall
from smallfirst.router.wires.message_fields import MessagesFields
from smallfirst.router.wires.response_fields import ResponseFields
from smallfirst.router.wires.response_store import MemoryResponses

# The machine may be busy: how long something takes is no part of these properties.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

RECEIPT = Receipt("req_1", "cloud", "big", "", None, "miss", None, None, 0.0, 1)
USAGE = Usage(20, 5, 8)

words = st.text(min_size=1, max_size=12)
names = st.text("abcdefgh_", min_size=1, max_size=8)
arguments = st.dictionaries(names, st.integers(-9, 9) | words | st.booleans(), max_size=3)


def chat_call(body: dict[str, Any]) -> Call:
    return ChatCall(ChatRequest.parse({"messages": [{"role": "user", "content": "Hi"}], **body}))


def completion_call(body: dict[str, Any]) -> Call:
    return completions.parse({"prompt": "Hi", **body}, headers={})[0]


def response_call(body: dict[str, Any]) -> Call:
    store = MemoryResponses(0, 1.0)
    parsing = responses.parse({"input": "Hi", **body}, headers={}, tenant_of=lambda _: "a", store=store)
    # A store in memory makes nobody wait, so no event loop is needed.
    try:
        parsing.send(None)
    except StopIteration as done:
        call: Call = done.value
        return call
    raise AssertionError("it waited")


def message_call(body: dict[str, Any]) -> Call:
    messages_ = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return messages.parse({"model": "auto", **messages_, **body}, headers={})


MakeCall = Callable[[dict[str, Any]], Call]
CALLS: list[MakeCall] = [chat_call, completion_call, response_call, message_call]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
unknown = st.dictionaries(names.map(lambda name: f"x_{name}"), json_values, max_size=4)


@pytest.mark.parametrize("make", CALLS)
@unhurried
@given(extra=unknown)
def test_fields_that_nobody_knows_survive_to_the_upstream(make: MakeCall, extra: dict[str, Any]) -> None:
    sent = make(extra).request.upstream_body("m")
    assert {name: sent[name] for name in extra} == extra


FIELDS: dict[MakeCall, Any] = {
    chat_call: ChatFields,
    completion_call: completions.CompletionFields,
    response_call: ResponseFields,
    message_call: MessagesFields,
}
blocks = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["text", "image", "tool_use", "tool_result", "message", "function_call", "function"]
        )
    },
    optional=dict.fromkeys(("text", "content", "role", "name", "id", "call_id", "source"), json_values),
)


@pytest.mark.parametrize("make", CALLS)
@unhurried
@given(data=st.data())
def test_no_body_can_make_parsing_fail_in_another_way(make: MakeCall, data: st.DataObject) -> None:
    some = st.sampled_from(FIELDS[make].__struct_fields__)
    given_ = data.draw(st.dictionaries(some, json_values | blocks | st.lists(blocks, max_size=3), max_size=4))
    with contextlib.suppress(RequestError):
        make(given_)


# --- wire -> chat -> wire -----------------------------------------------------------------------------------------

# A conversation in no wire's form: who says what, and rounds of calls with their results.
results = st.tuples(words, st.booleans())
rounds = st.lists(st.tuples(names, arguments, results), min_size=1, max_size=3)
turns = st.lists(
    st.tuples(st.just("user"), words)
    | st.tuples(st.just("assistant"), words)
    | st.tuples(st.just("calls"), rounds),
    min_size=1,
    max_size=5,
)


def numbered(turns_: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the turns with an id for every call."""
    count = 0
    for kind, said in turns_:
        if kind != "calls":
            yield kind, said
            continue
        yield "calls", [(f"call_{count + at}", *each) for at, each in enumerate(said)]
        count += len(said)


def as_anthropic(turns_: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for kind, said in numbered(turns_):
        if kind != "calls":
            found.append({"role": kind, "content": [{"type": "text", "text": said}]})
            continue
        calls = [{"type": "tool_use", "id": i, "name": name, "input": given_} for i, name, given_, _ in said]
        answers = [
            {"type": "tool_result", "tool_use_id": i, "content": text, "is_error": failed}
            for i, _, _, (text, failed) in said
        ]
        found += [{"role": "assistant", "content": calls}, {"role": "user", "content": answers}]
    return found


def as_items(turns_: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for kind, said in numbered(turns_):
        if kind != "calls":
            found.append({"role": kind, "content": said})
            continue
        for i, name, given_, _ in said:
            made = json.dumps(given_)
            found.append({"type": "function_call", "call_id": i, "name": name, "arguments": made})
        for i, _, _, (text, failed) in said:
            output = f"Error: {text}" if failed else text
            found.append({"type": "function_call_output", "call_id": i, "output": output})
    return found


def meaning(chat: list[dict[str, Any]]) -> list[Any]:
    """Return what a conversation says, by whom, in order."""
    found: list[Any] = []
    for message in chat:
        if message["content"]:
            found.append((message["role"], message.get("tool_call_id"), message["content"]))
        for each in message.get("tool_calls") or ():
            function = each["function"]
            found.append(("call", each["id"], function["name"], json.loads(function["arguments"])))
    return found


def expected(turns_: list[Any]) -> list[Any]:
    found: list[Any] = []
    for kind, said in numbered(turns_):
        if kind != "calls":
            found.append((kind, None, said))
            continue
        found += [("call", i, name, given_) for i, name, given_, _ in said]
        found += [("tool", i, f"Error: {text}" if failed else text) for i, _, _, (text, failed) in said]
    return found


@unhurried
@given(turns_=turns)
def test_a_conversation_keeps_its_meaning(turns_: list[Any]) -> None:
    for call in (
        message_call({"messages": as_anthropic(turns_)}),
        response_call({"input": as_items(turns_)}),
    ):
        assert meaning(call.request.body["messages"]) == expected(turns_)


calls = st.lists(st.tuples(names, arguments), max_size=3)


@unhurried
@given(text=st.text(max_size=20), thought=st.text(max_size=9), made=calls)
def test_an_answer_that_is_sent_back_means_what_it_meant(
    text: str, thought: str, made: list[tuple[str, dict[str, Any]]]
) -> None:
    tool_calls = [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": json.dumps(given_)}}
        for at, (name, given_) in enumerate(made)
    ]
    message = {"content": text, "reasoning_content": thought, "tool_calls": tool_calls}
    answer = Answer({"choices": [choice(message, "tool_calls" if made else "stop")]}, RECEIPT, USAGE)
    user = {"role": "user", "content": "Hi"}
    content = message_call({"thinking": {"type": "adaptive"}}).reply(answer)["content"]
    by_messages = message_call({"messages": [user, {"role": "assistant", "content": content}]})
    by_items = response_call({"input": [user, *response_call({}).reply(answer)["output"]]})
    for call in (by_messages, by_items):
        back = call.request.body["messages"][1:]
        assert meaning(back) == meaning([{"role": "assistant", **message}])
        assert "".join(each.get("reasoning_content", "") for each in back) == thought


# --- streams ------------------------------------------------------------------------------------------------------

# All that makes an event another one each time it is written.
ANSWER: dict[str, Any] = {
    "reasoning_content": "Ich überlege …",
    "content": "Schön: 東京 🗼 ist's.",
    "tool_calls": [
        {**TOOL_CALL, "id": f"call_{at}", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}
        for at in range(2)
    ],
}
UPSTREAM = b"".join(chunks_of(ANSWER, "tool_calls", usage=USAGE.to_wire())) + DONE
TEXT_ALONE = b"".join(chunks_of({"content": ANSWER["content"]}, usage=USAGE.to_wire())) + DONE


def upstream_of(make: MakeCall) -> bytes:
    return TEXT_ALONE if make is completion_call else UPSTREAM


def streaming(make: MakeCall) -> Call:
    """A request for a stream that says what was used, where that is to be asked for."""
    options = {"stream_options": {"include_usage": True}} if make in (chat_call, completion_call) else {}
    return make({"stream": True, **options})


def translated(call: Call, pieces: list[bytes]) -> bytes:
    parser, events = SSEParser(), call.events(RECEIPT, Usage(20))
    sent = []
    for piece in pieces:
        sent += [events.feed(data) for data in parser.feed(piece) if data != b"[DONE]"]
    return b"".join([*sent, events.end(USAGE, RECEIPT)])


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("make", CALLS)
@unhurried
@given(data=st.data())
def test_a_stream_gives_the_same_events_wherever_it_is_cut(make: MakeCall, data: st.DataObject) -> None:
    upstream = upstream_of(make)
    places = data.draw(st.lists(st.integers(0, len(upstream)), max_size=12))
    call = streaming(make)
    assert events_of(translated(call, cut_at(upstream, places))) == events_of(translated(call, [upstream]))


@pytest.mark.parametrize("make", CALLS)
@unhurried
@given(data=st.data())
def test_a_stream_that_breaks_shows_all_that_came_and_never_looks_complete(
    make: MakeCall, data: st.DataObject
) -> None:
    chunks = list(SSEParser().feed(upstream_of(make)))[:-1]
    chunks = chunks[: data.draw(st.integers(0, len(chunks)))]
    if data.draw(st.booleans()):
        # Some servers say with every chunk what was used until then.
        chunks = [msgspec.json.encode({**json.loads(one), "usage": USAGE.to_wire()}) for one in chunks]
    whole, broken = (streaming(make).events(RECEIPT, Usage(20)) for _ in range(2))
    fed = [b"data: " + one + b"\n\n" if make is chat_call else whole.feed(one) for one in chunks]
    shown = events_of(b"".join(fed))
    found = events_of(b"".join([*map(broken.feed, chunks), broken.error(StreamBroken("It broke."))]))
    assert found[: len(shown)] == shown
    assert "error" in found[-1]
    ends = {"done", "response.completed", "response.incomplete", "message_delta", "message_stop"}
    assert not any(one.get("type") in ends or "smallfirst" in one for one in found)


@pytest.mark.parametrize("make", CALLS)
def test_the_receipt_comes_once_at_the_end(make: MakeCall) -> None:
    found = events_of(translated(streaming(make), [upstream_of(make)]))
    having = [at for at, one in enumerate(found) if "smallfirst" in {**one, **one.get("response", {})}]
    assert having == [len(found) - (1 if make is response_call else 2)]


@pytest.mark.parametrize("make", CALLS)
def test_a_stream_gives_the_same_events_byte_by_byte(make: MakeCall) -> None:
    upstream = upstream_of(make)
    call = streaming(make)
    single = [upstream[at : at + 1] for at in range(len(upstream))]
    assert events_of(translated(call, single)) == events_of(translated(call, [upstream]))


class Cut:
    """Both an upstream and its response: a stream that arrives in given pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.status = 200
        self.headers = {"content-type": "text/event-stream"}
        self._pieces = iter(pieces)

    async def send(self, *_: object) -> "Cut":
        return self

    async def piece(self, _: object) -> bytes | None:
        return next(self._pieces, None)

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    def settle(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("make", CALLS)
async def test_the_cloud_model_passes_on_the_same_events_wherever_its_bytes_are_cut(
    make: MakeCall,
) -> None:
    upstream = upstream_of(make)

    async def through(size: int) -> list[dict[str, Any]]:
        pieces = [upstream[at : at + size] for at in range(0, len(upstream), size)]
        settings = CloudModelSettings(name="gpt-4.1", kind="openai")
        model = CloudModel(settings, upstream=Cut(pieces))
        call = streaming(make)
        events = call.events(RECEIPT, Usage(20))
        sent = [events.feed(chunk) async for chunk in await model.stream(call.request)]
        await model.aclose()
        return events_of(b"".join([*sent, events.end(USAGE, RECEIPT)]))

    whole = await through(len(upstream))
    assert whole == events_of(translated(streaming(make), [upstream]))
    for size in (1, 2, 3, 7, 64):
        assert await through(size) == whole


def events_of(sent: bytes) -> list[dict[str, Any]]:
    """Return the events, without the dates that they were made at."""
    found = []
    for data in SSEParser().feed(sent):
        if data == b"[DONE]":
            found.append({"type": "done"})
            continue
        event = json.loads(data)
        for dated in (event, event.get("response", {})):
            for name in ("created", "created_at", "completed_at"):
                dated.pop(name, None)
        found.append(event)
    return found
