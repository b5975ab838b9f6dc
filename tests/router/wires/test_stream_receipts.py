"""Where a stream says what it cost, and that clients read it as before."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import DONE, LoopbackCloud
from fixtures.serving import CLOUD, EASY, MakeSettings, Served
from fixtures.wired import chunk, chunks_of

from smallfirst.router.gateway import Gateway
from smallfirst.router.models.sse import SSEParser

USER: Any = {"role": "user", "content": EASY}
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [USER], "stream_options": {"include_usage": True}},
    "/completions": {"prompt": EASY, "stream_options": {"include_usage": True}},
    "/responses": {"input": EASY},
    "/messages": {"model": "auto", "messages": [USER], "max_tokens": 50},
}
# gpt-4.1's prices: of 20 tokens 8 were cached, and 5 were written.
COST = (12 * 2 + 8 * 0.5 + 5 * 8) / 1e6


def post(served: Served, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(served.base_url + path, json=body, timeout=30)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(data) for data in SSEParser().feed(response.content) if data != b"[DONE]"]


def receipts(response: httpx.Response) -> list[dict[str, Any]]:
    """What the events say that is not in any client's book; of responses it is within the response."""
    within = [event.get("response", event) for event in events(response)]
    return [one["smallfirst"] for one in within if "smallfirst" in one]


@pytest.fixture
def client(cloud_served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=cloud_served.base_url, api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("path", BODIES)
def test_the_end_of_a_stream_says_what_the_headers_of_a_whole_answer_say(
    cloud_served: Served, path: str
) -> None:
    whole = post(cloud_served, path, BODIES[path]).headers
    response = post(cloud_served, path, {**BODIES[path], "stream": True})
    assert "x-smallfirst-cost-usd" not in response.headers
    (receipt,) = receipts(response)
    assert receipt["request_id"] == response.headers["x-smallfirst-request-id"]
    assert receipt["cost_usd"] == pytest.approx(COST)
    assert receipt["cost_usd"] == pytest.approx(float(whole["x-smallfirst-cost-usd"]))
    assert receipt["saved_usd"] == pytest.approx(float(whole["x-smallfirst-saved-usd"]))
    told = {name: receipt[name] for name in ("route", "model", "reason", "cache", "attempts")}
    assert told == {
        "route": "cloud",
        "model": CLOUD,
        "reason": whole["x-smallfirst-reason"],
        "cache": "off",
        "attempts": 1,
    }


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_who_does_not_ask_for_the_usage_gets_no_chunk_without_choices(
    cloud_served: Served, path: str
) -> None:
    body = {**BODIES[path], "stream": True}
    del body["stream_options"]
    found = events(post(cloud_served, path, body))
    assert all(event["choices"] and "smallfirst" not in event for event in found)


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_that_breaks_has_no_receipt(cloud_served: Served, cloud: LoopbackCloud, path: str) -> None:
    usage = chunk(usage=lc.USAGE)
    cloud.enqueue(lc.events(*chunks_of({"content": "Paris"})[:3], usage, b"data: {broken\n\n"))
    response = post(cloud_served, path, {**BODIES[path], "stream": True})
    assert receipts(response) == []


def test_what_came_with_a_count_is_shown_where_the_stream_breaks_right_after(
    cloud_served: Served, cloud: LoopbackCloud
) -> None:
    counted = [chunk({"delta": {"content": word}}, usage=lc.USAGE) for word in ("Par", "is")]
    cloud.enqueue(lc.events(*counted, b"data: {broken\n\n"))
    *found, error = events(
        post(cloud_served, "/chat/completions", {**BODIES["/chat/completions"], "stream": True})
    )
    assert [one["choices"][0]["delta"]["content"] for one in found] == ["Par", "is"]
    assert "error" in error


def test_the_usage_comes_once_and_last(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    said = chunks_of({"content": "Paris."})
    last = json.loads(said[-1].removeprefix(b"data: ")) | {"usage": lc.USAGE}
    # Some servers put it on the last chunk with a choice, some on every chunk.
    on_last = [*said[:-1], b"data: " + json.dumps(last).encode() + b"\n\n"]
    on_each = [b'data: {"usage": ' + json.dumps(lc.USAGE).encode() + b"," + one[7:] for one in said]
    for sent in (on_last, on_each):
        cloud.enqueue(lc.events(*sent, DONE))
        stream = client.chat.completions.create(
            model="auto", messages=[USER], stream=True, stream_options={"include_usage": True}
        )
        found: list[Any] = list(stream)
        assert len(found) == len(sent)
        assert found[-1].smallfirst["cost_usd"] == pytest.approx(COST)
        assert found[-1].choices[0].finish_reason == "stop"
        assert "".join(one.choices[0].delta.content or "" for one in found) == "Paris."


def test_where_the_cloud_counts_nothing_the_last_chunk_has_our_estimate(
    client: openai.OpenAI, cloud: LoopbackCloud
) -> None:
    cloud.usage = None
    stream = client.chat.completions.create(
        model="auto", messages=[USER], stream=True, stream_options={"include_usage": True}
    )
    *_, last = stream
    found: Any = last
    assert (found.choices, found.model, found.object) == ([], CLOUD, "chat.completion.chunk")
    assert found.id == "chatcmpl-loopback"
    assert found.usage.completion_tokens > 0
    assert found.smallfirst["cost_usd"] > 0


def test_an_answer_from_the_cache_says_that_it_cost_nothing(
    serve: Callable[[Gateway], Served], make_settings: MakeSettings
) -> None:
    served = serve(Gateway(make_settings(local=False)))
    for path, body in BODIES.items():
        post(served, path, {**body, "max_tokens": 50} if path == "/completions" else body)
        (receipt,) = receipts(post(served, path, {**body, "stream": True}))
        assert receipt["cache"] == "exact", path
        assert receipt["cost_usd"] == 0
        assert receipt["saved_usd"] > 0


def test_the_openai_client_reads_it_and_its_helpers_do_not_mind(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.stream(model="auto", messages=[USER], stream_options=options) as stream:
        completion: Any = stream.get_final_completion()
    assert completion.choices[0].message.content == "Paris is the answer."
    assert completion.usage.total_tokens == 25
    with client.responses.stream(model="auto", input=EASY) as responding:
        response: Any = responding.get_final_response()
    assert response.output_text == "Paris is the answer."
    assert response.smallfirst["cost_usd"] == pytest.approx(COST)
    completing = client.completions.create(model="auto", prompt=EASY, stream=True, stream_options=options)
    *_, last = completing
    told: Any = last
    assert told.smallfirst["cost_usd"] == pytest.approx(COST)


def test_the_anthropic_client_reads_it_and_its_helper_does_not_mind(cloud_served: Served) -> None:
    with (
        anthropic.Anthropic(base_url=cloud_served.root, api_key="none", max_retries=0) as client,
        client.messages.stream(model="auto", max_tokens=50, messages=[USER]) as stream,
    ):
        seen: list[Any] = list(stream)
        message = stream.get_final_message()
    (delta,) = [event for event in seen if event.type == "message_delta"]
    assert delta.smallfirst["cost_usd"] == pytest.approx(COST)
    assert message.stop_reason == "end_turn"
