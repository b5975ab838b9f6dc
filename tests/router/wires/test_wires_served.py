"""What all wires have in common, seen on a running gateway."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import DONE, LoopbackCloud
from fixtures.serving import CLOUD, EASY, LOCAL, MakeSettings, Served
from fixtures.wired import TOOL_CALL, chunks_of
from pydantic import SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.models.sse import SSEParser
from smallfirst.router.settings import Key, ServerSettings

USER = {"role": "user", "content": EASY}
# The same question in every wire.
ASKED: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [USER], "max_completion_tokens": 50},
    "/responses": {"input": EASY, "max_output_tokens": 50},
    "/messages": {"model": "auto", "messages": [USER], "max_tokens": 50},
    "/completions": {"prompt": EASY, "max_tokens": 50},
}
COMPLETE = {"response.completed", "response.incomplete", "message_stop", "message_delta", "[DONE]"}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: dict[str, Any] = {
    "/chat/completions": {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    "/responses": {"type": "function", "name": "weather", "parameters": WEATHER},
    "/messages": {"name": "weather", "input_schema": WEATHER},
}


def post(served: Served, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(served.base_url + path, json=body, headers=headers, timeout=30)


def text_of(path: str, body: dict[str, Any]) -> str:
    if path == "/responses":
        body = body["output"][0]
    if path in ("/messages", "/responses"):
        return str(body["content"][0]["text"])
    choice = body["choices"][0]
    return str(choice["text"] if path == "/completions" else choice["message"]["content"])


def names(response: httpx.Response) -> list[str]:
    """Return what the events of a stream are called."""
    found = []
    for data in SSEParser().feed(response.content):
        event = {"type": "[DONE]"} if data == b"[DONE]" else json.loads(data)
        found.append(event.get("type") or ("error" if "error" in event else "chunk"))
    return found


def test_an_answer_that_one_wire_got_is_recalled_by_the_others(
    serve: Callable[[Gateway], Served], make_settings: MakeSettings, cloud: LoopbackCloud
) -> None:
    served = serve(Gateway(make_settings(local=False)))
    seen = []
    for path, body in ASKED.items():
        whole = post(served, path, body)
        streamed = post(served, path, {**body, "stream": True})
        assert text_of(path, whole.json()) == "Paris is the answer."
        assert names(streamed)[-1] in COMPLETE
        seen += [reply.headers["x-smallfirst-cache"] for reply in (whole, streamed)]
    assert seen == ["miss"] + ["exact"] * 7
    assert len(cloud.requests) == 1


@pytest.mark.parametrize("path", ASKED)
def test_hints_are_read_in_every_wire(served: Served, cloud: LoopbackCloud, path: str) -> None:
    body = {**ASKED[path], "metadata": {"privacy": "local"}, "model": "auto/quality"}
    reply = post(served, path, body)
    assert reply.headers["x-smallfirst-route"] == "local"
    assert (
        post(served, path, body, **{"x-smallfirst-cache": "bypass"}).headers["x-smallfirst-cache"] == "bypass"
    )
    assert cloud.requests == []


@pytest.mark.parametrize("path", ASKED)
def test_the_other_key_header_works_in_every_wire(
    serve: Callable[[Gateway], Served], make_settings: MakeSettings, path: str
) -> None:
    keys = (Key(key=SecretStr("k-one"), tenant="one"),)
    served = serve(Gateway(make_settings(local=False, server=ServerSettings(keys=keys))))
    assert post(served, path, ASKED[path], **{"x-api-key": "k-one"}).status_code == 200
    assert post(served, path, ASKED[path], authorization="Bearer k-one").status_code == 200
    refused = post(served, path, ASKED[path], **{"x-api-key": "k-two"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    assert refused.json().get("type") == ("error" if path == "/messages" else None)


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize(
    "behaviour",
    [
        lc.cut(after=2),
        lc.events(*chunks_of({"content": "Paris"})[:3], b'data: {"error": {"message": "overloaded"}}\n\n'),
        lc.events(*chunks_of({"content": "Paris"})[:2], b"data: {broken\n\n"),
        lc.events(*chunks_of({"content": "Paris"})[:2]),
    ],
    ids=["cut", "error event", "no JSON", "no end"],
)
def test_a_stream_that_fails_never_looks_complete(
    cloud_served: Served, cloud: LoopbackCloud, path: str, behaviour: lc.Behaviour
) -> None:
    cloud.enqueue(behaviour)
    reply = post(cloud_served, path, {**ASKED[path], "stream": True})
    found = names(reply)
    assert found[-1] == "error"
    assert not COMPLETE & {*found}


@pytest.mark.parametrize("path", TOOLS)
def test_a_call_that_is_cut_is_an_error_and_no_text(
    cloud_served: Served, cloud: LoopbackCloud, path: str
) -> None:
    cloud.enqueue(lc.events(*chunks_of({"tool_calls": [TOOL_CALL]})[:4], end=False))
    reply = post(cloud_served, path, {**ASKED[path], "stream": True, "tools": [TOOLS[path]]})
    found = names(reply)
    assert found[-1] == "error"
    assert not COMPLETE & {*found}
    assert not {"response.output_text.delta", "response.function_call_arguments.done"} & {*found}
    assert '"text_delta"' not in reply.text
    assert "cit" in reply.text


@pytest.mark.parametrize("path", TOOLS)
def test_an_end_without_a_reason_completes_no_call(
    cloud_served: Served, cloud: LoopbackCloud, path: str
) -> None:
    cloud.enqueue(lc.events(*chunks_of({"tool_calls": [TOOL_CALL]})[:4], DONE))
    reply = post(cloud_served, path, {**ASKED[path], "stream": True, "tools": [TOOLS[path]]})
    if path == "/chat/completions":
        # Passed on as it came: the client sees for itself that no reason was given.
        assert '"finish_reason":"' not in reply.text.replace(" ", "")
    else:
        assert names(reply)[-1] == "error"


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize(("body", "status"), [(b"{broken", 400), (b"[]", 400), (b"{}", 400)])
def test_a_broken_body_is_refused_in_the_wires_own_form(
    cloud_served: Served, path: str, body: bytes, status: int
) -> None:
    reply = httpx.post(cloud_served.base_url + path, content=body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert ("param" in error) == (path != "/messages")


@pytest.mark.parametrize("path", ASKED)
def test_another_method_is_refused_in_the_wires_own_form(cloud_served: Served, path: str) -> None:
    reply = httpx.put(cloud_served.base_url + path)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert ("param" in reply.json()["error"]) == (path != "/messages")
    assert CLOUD not in reply.text


def test_models_say_where_they_run_and_how_much_they_take(served: Served) -> None:
    found = {model["id"]: model for model in httpx.get(f"{served.base_url}/models").json()["data"]}
    told = {
        name: (found[name]["owned_by"], found[name]["tier"], found[name]["context_window"])
        for name in (LOCAL, CLOUD, "auto", "auto/private")
    }
    assert told == {
        LOCAL: ("local", "local", 4096),
        CLOUD: ("cloud", "cloud", 128_000),
        "auto": ("smallfirst", None, 128_000),
        # What asks for privacy is never answered by the cloud.
        "auto/private": ("smallfirst", None, 4096),
    }
    assert all((model["object"], model["created"]) == ("model", 0) for model in found.values())
    assert httpx.get(f"{served.base_url}/models/auto/private").json() == found["auto/private"]
