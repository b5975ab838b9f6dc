"""Answers of odd servers: what can be read is read, and the rest is an error in every wire, never half an answer."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import DONE, Exchange, LoopbackCloud
from fixtures.serving import CLOUD, EASY, MakeSettings, Served
from fixtures.wired import choice, chunk

from smallfirst.router.errors import StreamBroken, UpstreamError
from smallfirst.router.gateway import Gateway
from smallfirst.router.wires.parts import PartReader, parts_of
from smallfirst.router.wires.upstream import choices_of

ASKED: dict[str, dict[str, Any]] = {
    "/responses": {"input": EASY},
    "/messages": {"model": "auto", "messages": [{"role": "user", "content": EASY}], "max_tokens": 50},
    "/completions": {"prompt": EASY},
}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def read(*deltas: dict[str, Any], finish: str = "stop", **last: Any) -> list[tuple[str, str, str]]:
    reader = PartReader()
    for delta in deltas:
        reader.feed(json.dumps({"choices": [{"delta": delta}]}).encode())
    reader.feed(json.dumps({"choices": [{"delta": {}, "finish_reason": finish, **last}]}).encode())
    reader.finish()
    return [(part.kind, part.name, part.text) for part in reader.parts]


def whole(message: Any, finish: str = "stop", **fields: Any) -> list[tuple[str, str, str]]:
    body = {"choices": [{"index": 0, "message": message, "finish_reason": finish, **fields}]}
    return [(part.kind, part.name, part.text) for part in parts_of(choices_of(body)[0])]


def call(at: int, arguments: str = "", name: str | None = None, **fields: Any) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {"tool_calls": [{"index": at, **fields, "function": {**named, "arguments": arguments}}]}


def post(served: Served, path: str, **fields: Any) -> httpx.Response:
    return httpx.post(served.base_url + path, json={**ASKED[path], **fields}, timeout=30)


def body_of(message: Any, **fields: Any) -> bytes:
    choices = [{**choice({}), "message": message, **fields}]
    return json.dumps({"id": "c", "object": "chat.completion", "model": CLOUD, "choices": choices}).encode()


def entries(served: Served) -> float:
    """Return how many requests the gateway has noted."""
    lines = httpx.get(served.root + "/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("smallfirst_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in counted)


# --- calls ----------------------------------------------------------------------------------------------------------


def test_an_empty_piece_of_a_whole_call_opens_no_other() -> None:
    pieces = (call(0, "{}", "f", id="a"), call(1, '{"x":', "g", id="b"), call(0, ""), call(1, "1}"))
    assert read(*pieces) == [("call", "f", "{}"), ("call", "g", '{"x":1}')]


def test_a_call_opens_once_its_name_is_known() -> None:
    reader = PartReader()
    assert reader.feed(json.dumps({"choices": [{"delta": call(0, '{"x"', id="a")}]}).encode()) == []
    steps = reader.feed(json.dumps({"choices": [{"delta": call(0, ":1}", "f")}]}).encode())
    assert [(step.does, step.part.name) for step in steps[:1]] == [("open", "f")]
    assert reader.parts[0].text == '{"x":1}'


@pytest.mark.parametrize("odd", [{**CALL, "function": {"arguments": "{}"}}, {"id": "a", "type": "custom"}])
def test_a_call_that_names_no_function_is_an_error(odd: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError):
        whole({"tool_calls": [odd]}, "tool_calls")
    with pytest.raises(StreamBroken):
        read({"tool_calls": [{"index": 0, **odd}]}, finish="tool_calls")


def test_a_call_in_the_older_form_is_a_call() -> None:
    function = {"name": "f", "arguments": "{}"}
    assert whole({"content": None, "function_call": function}, "function_call") == [("call", "f", "{}")]
    pieces = [{"function_call": {"name": "f"}}, {"function_call": {"arguments": "{}"}}]
    assert read(*pieces, finish="function_call") == [("call", "f", "{}")]


# --- other fields ---------------------------------------------------------------------------------------------------


def test_a_content_of_parts_is_their_text() -> None:
    parts = [
        {"type": "text", "text": "A"},
        {"type": "thinking", "thinking": []},
        {"type": "text", "text": "B"},
    ]
    assert whole({"content": parts}) == read({"content": parts}) == [("text", "", "AB")]


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource"])
def test_an_unknown_reason_to_stop_is_no_whole_answer(reason: str) -> None:
    with pytest.raises(UpstreamError):
        whole({"content": "Hi"}, reason)
    with pytest.raises(StreamBroken):
        read({"content": "Hi"}, finish=reason)


def test_logprobs_of_the_last_chunk_belong_to_the_text() -> None:
    reader = PartReader()
    reader.feed(json.dumps({"choices": [{"delta": {"content": "Hi"}}]}).encode())
    last = {"delta": {}, "finish_reason": "stop", "logprobs": {"content": [{"token": "Hi", "logprob": -0.5}]}}
    reader.feed(json.dumps({"choices": [last]}).encode())
    assert [entry["token"] for entry in reader.parts[0].logprobs] == ["Hi"]


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ({"content": None, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}, {}),
        ({"content": None, "tool_calls": [{**CALL, "id": 7}]}, {}),
        ({"content": "Hi"}, {"logprobs": {"content": [{"token": "Hi"}]}}),
        (None, {}),
    ],
    ids=["arguments", "id", "logprobs", "message"],
)
def test_what_cannot_be_read_is_the_upstreams_fault(
    cloud_served: Served, cloud: LoopbackCloud, path: str, message: Any, fields: dict[str, Any]
) -> None:
    cloud.enqueue(lc.raw(body_of(message, **fields)))
    assert post(cloud_served, path).status_code == 502


def test_arguments_that_are_an_object_end_a_stream_with_an_error_and_an_entry(
    cloud_served: Served, cloud: LoopbackCloud
) -> None:
    odd = {"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}}
    cloud.enqueue(lc.events(chunk({"delta": {"tool_calls": [odd]}}), DONE))
    before = entries(cloud_served)
    assert "event: error" in post(cloud_served, "/messages", stream=True).text
    assert entries(cloud_served) == before + 1


def test_an_answer_from_the_cache_has_counts_where_the_cloud_sent_none(
    serve: Callable[[Gateway], Served], make_settings: MakeSettings, cloud: LoopbackCloud
) -> None:
    served = serve(Gateway(make_settings(local=False)))
    cloud.enqueue(lc.raw(body_of({"role": "assistant", "content": "Paris is the answer."})))
    first, second = post(served, "/responses"), post(served, "/responses")
    assert second.headers["x-smallfirst-cache"] == "exact"
    assert second.json()["usage"] == first.json()["usage"]
    assert second.json()["usage"]["output_tokens"] > 0


def test_when_one_of_several_prompts_fails_the_others_are_stopped(
    cloud_served: Served, cloud: LoopbackCloud
) -> None:
    async def by_prompt(exchange: Exchange) -> bool:
        while len(exchange.cloud.requests) < 2:
            await asyncio.sleep(0.01)
        if exchange.request.body["messages"][0]["content"] == "One":
            return await exchange.whole(400, b'{"error": {"message": "No."}}')
        await asyncio.Event().wait()
        return False

    cloud.enqueue(by_prompt, by_prompt)
    assert post(cloud_served, "/completions", prompt=["One", "Two"]).status_code == 400
    assert cloud.disconnected.wait(10)


# --- requests that are odd ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", ["x", [1], 5])
@pytest.mark.parametrize("path", ASKED)
def test_metadata_that_are_no_object_are_refused(cloud_served: Served, path: str, metadata: Any) -> None:
    assert post(cloud_served, path, metadata=metadata).status_code == 400


@pytest.mark.parametrize("privacy", [[], {}, 1, None])
def test_moderation_stays_in_the_house_where_privacy_cannot_be_read(
    cloud_served: Served, cloud: LoopbackCloud, privacy: Any
) -> None:
    body = {"input": "A text.", "metadata": {"privacy": privacy}}
    assert httpx.post(cloud_served.base_url + "/moderations", json=body).status_code == 400
    assert cloud.requests == []


def test_hints_do_not_leave_the_house_with_a_moderation(cloud_served: Served, cloud: LoopbackCloud) -> None:
    cloud.enqueue(lc.raw(b'{"results": []}'), lc.raw(b'{"results": []}'))
    for metadata in ({"privacy": "any", "own": "x"}, {"agent": "a"}):
        body = {"input": "A text.", "metadata": metadata}
        assert httpx.post(cloud_served.base_url + "/moderations", json=body).status_code == 200
    sent = [request.body for request in cloud.requests]
    assert sent == [{"input": "A text.", "metadata": {"own": "x"}}, {"input": "A text."}]


def test_a_stream_that_is_null_is_none(cloud_served: Served, cloud: LoopbackCloud) -> None:
    body = {"messages": [{"role": "user", "content": EASY}], "stream": None}
    reply = httpx.post(cloud_served.base_url + "/chat/completions", json=body)
    assert (reply.status_code, reply.json()["object"]) == (200, "chat.completion")


def test_an_error_names_the_field_as_the_wire_does(cloud_served: Served) -> None:
    form = {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}
    reply = post(cloud_served, "/responses", text=form, metadata={"privacy": "local"})
    assert reply.status_code == 400
    assert "response_format" not in reply.text
    temperature = post(cloud_served, "/responses", temperature=9).json()["error"]
    assert temperature["param"] == "temperature"


def test_an_unknown_path_of_messages_is_refused_in_their_form(cloud_served: Served) -> None:
    reply = httpx.post(cloud_served.base_url + "/messages/batches", json={})
    assert (reply.status_code, reply.json()["type"]) == (404, "error")
