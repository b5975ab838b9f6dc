"""The proxy over real HTTP: the openai client, curl, and whatever else is sent."""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeSettings, Served
from pydantic import SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import Key, Limits, ServerSettings

USER = {"role": "user", "content": EASY}
ServeGateway = Callable[[Gateway], Served]


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.base_url, api_key="none", max_retries=0) as made:
        yield made


def post(served: Served, body: Any, path: str = "/chat/completions", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(served.base_url + path, content=content, headers=named, timeout=30)


# --- the openai client --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "model", "route"), [(EASY, LOCAL, "local"), (HARD, CLOUD, "cloud")])
def test_the_openai_client_gets_answers_of_both_tiers(
    client: openai.OpenAI, prompt: str, model: str, route: str
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": prompt}]
    )
    reply = raw.parse()
    assert reply.model == model
    assert "Paris" in (reply.choices[0].message.content or "")
    assert reply.usage is not None
    assert reply.usage.total_tokens > 0
    named = ("route", "model", "cache", "attempts")
    assert [raw.headers[f"x-smallfirst-{name}"] for name in named] == [route, model, "miss", "1"]
    for name in ("request-id", "reason", "score", "cost-usd", "saved-usd", "overhead-ms"):
        assert raw.headers[f"x-smallfirst-{name}"]


@pytest.mark.parametrize(("prompt", "model"), [(EASY, LOCAL), (HARD, CLOUD)])
def test_the_openai_client_streams_from_both_tiers(client: openai.OpenAI, prompt: str, model: str) -> None:
    stream = client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert "Paris" in text
    assert {chunk.model for chunk in chunks} == {model}
    assert chunks[-1].usage is not None
    assert [choice.finish_reason for choice in chunks[-2].choices] == ["stop"]


def test_the_openai_client_lists_the_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[:2] == ["auto", "auto/balanced"]
    assert {LOCAL, CLOUD, "auto/private"} <= set(names)


def test_the_openai_client_parses_structured_output_of_the_local_model(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=LOCAL,
        messages=[{"role": "user", "content": 'Is "I love it" positive or negative?'}],
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "sentiment",
                "schema": {
                    "type": "object",
                    "properties": {"label": {"type": "string", "enum": ["positive", "negative"]}},
                    "required": ["label"],
                    "additionalProperties": False,
                },
            },
        },
    )
    assert json.loads(reply.choices[0].message.content or "")["label"] in ("positive", "negative")


def test_the_openai_client_gets_tool_calls_through_the_cloud(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=CLOUD,
        messages=[{"role": "user", "content": "Weather in Paris?"}],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        tool_choice="required",
    )
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"


def test_the_openai_client_sees_errors_as_its_own(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])
    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    cloud.enqueue(lc.status(429, {"message": "slow down", "code": "rate_limit_exceeded"}, retry_after="9"))
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model=CLOUD, messages=[{"role": "user", "content": "Hi"}])
    assert limited.value.response.headers["retry-after"] == "9"


def test_a_stream_that_breaks_is_an_error_to_the_openai_client(
    client: openai.OpenAI, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.cut(after=2))
    stream = client.chat.completions.create(
        model=CLOUD, messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    with pytest.raises(openai.APIError, match=r"ended before|broke"):
        list(stream)


# --- curl -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "model"), [(EASY, LOCAL), (HARD, CLOUD)])
@pytest.mark.parametrize("streamed", [False, True])
def test_curl_gets_answers_of_both_tiers(served: Served, prompt: str, model: str, streamed: bool) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    body = json.dumps(
        {"model": "auto", "messages": [{"role": "user", "content": prompt}], "stream": streamed}
    )
    command = [curl, "-sSN", f"{served.base_url}/chat/completions", "-d", body]
    command += ["-H", "content-type: application/json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    if not streamed:
        assert json.loads(said)["model"] == model
        return
    events = [line.removeprefix("data: ") for line in said.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    assert {json.loads(event)["model"] for event in events[:-1]} == {model}


# --- a stream's wire ------------------------------------------------------------------------------------------------


def test_a_broken_stream_ends_with_an_error_event_and_without_done(
    served: Served, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.cut(after=2))
    reply = post(served, {"model": CLOUD, "messages": [USER], "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-smallfirst-route"] == "cloud"
    assert "[DONE]" not in reply.text
    last = json.loads(reply.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "stream_broken"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_leaves_stops_the_cloud(served: Served, cloud: LoopbackCloud, streamed: bool) -> None:
    cloud.enqueue(lc.hang(after=2) if streamed else lc.hang())
    body = json.dumps({"model": CLOUD, "messages": [USER], "stream": streamed}).encode()
    url = httpx.URL(served.base_url)
    with socket.create_connection((url.host, url.port)) as connection:
        headers = f"host: {url.netloc.decode()}\r\ncontent-length: {len(body)}"
        head = f"POST /v1/chat/completions HTTP/1.1\r\n{headers}\r\n\r\n"
        connection.sendall(head.encode() + body)
        if streamed:
            connection.recv(200)
        else:
            while not cloud.requests:
                pass
    assert cloud.disconnected.wait(5)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{broken", 400, None),
        (b"", 400, None),
        ({"model": "auto"}, 400, "messages"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [USER], "temperature": "hot"}, 400, "temperature"),
        (
            {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
            400,
            "messages[0].content[0].type",
        ),
        ({"messages": [USER], "model": "gpt-9"}, 404, "model"),
        ({"messages": [USER], "model": LOCAL, "n": 129}, 400, "n"),
        ({"messages": [USER], "model": LOCAL, "top_logprobs": 21}, 400, "top_logprobs"),
    ],
)
@pytest.mark.parametrize("path", ["/chat/completions", "/route"])
def test_bad_input_is_refused_in_openais_shape(
    served: Served, body: Any, status: int, param: str | None, path: str
) -> None:
    reply = post(served, body, path)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error"
    assert param is None or param in error["message"] or status == 404


def test_a_body_over_the_limit_is_refused(serve: ServeGateway, make_settings: MakeSettings) -> None:
    served = serve(Gateway(make_settings(local=False, limits=Limits(max_body_bytes=2000))))
    body = {"messages": [{"role": "user", "content": "x" * 3000}]}
    reply = post(served, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")

    def pieces() -> Any:
        yield from [b"x" * 500] * 10

    chunked = httpx.post(f"{served.base_url}/chat/completions", content=pieces())
    assert chunked.status_code == 413


def test_unknown_paths_and_methods_are_refused_in_openais_shape(served: Served) -> None:
    missing = httpx.get(f"{served.base_url}/nothing")
    wrong = httpx.get(f"{served.base_url}/chat/completions")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "invalid_request_error")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "Method not allowed" in wrong.json()["error"]["message"]


def test_nothing_of_a_prompt_is_logged(served: Served, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    post(served, {"messages": [{"role": "user", "content": "hunter2 secret"}], "temperature": 9})
    post(
        served, {"messages": [{"role": "user", "content": "hunter2 secret"}], "model": LOCAL, "max_tokens": 3}
    )
    written = capfd.readouterr()
    assert "hunter2" not in caplog.text + written.out + written.err


# --- keys -----------------------------------------------------------------------------------------------------------


def test_with_keys_only_their_bearers_are_served(serve: ServeGateway, make_settings: MakeSettings) -> None:
    keys = (Key(key=SecretStr("k-one"), tenant="one"), Key(key=SecretStr("k-two"), tenant="two"))
    served = serve(Gateway(make_settings(local=False, server=ServerSettings(keys=keys))))
    body = {"messages": [USER], "metadata": {"tenant": "two"}}
    assert post(served, body).status_code == 401
    refused = post(served, body, authorization="Bearer k-three")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "k-three" not in refused.text
    first = post(served, body, authorization="Bearer k-one")
    other = post(served, body, authorization="Bearer k-two")
    # The key decides whose request it is, whatever the body says: the second must not see the first's answer.
    assert [reply.headers["x-smallfirst-cache"] for reply in (first, other)] == ["miss", "miss"]
    assert httpx.get(f"{served.root}/metrics").status_code == 401
    assert httpx.get(f"{served.root}/health").status_code == 200


# --- the other pages --------------------------------------------------------------------------------------------------


def test_route_shows_the_decision_and_runs_nothing(served: Served, cloud: LoopbackCloud) -> None:
    decision = post(served, {"messages": [{"role": "user", "content": HARD}]}, "/route").json()
    assert (decision["model"], decision["route"], decision["policy"]) == (CLOUD, "cloud", "balanced")
    assert set(decision["score"]["success"]) == {LOCAL, CLOUD}
    assert decision["reason"]
    assert cloud.requests == []


def test_health_and_readiness(served: Served) -> None:
    assert httpx.get(f"{served.root}/health").json() == {"status": "ok"}
    ready = httpx.get(f"{served.root}/health/ready")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert ready.json()["models"] == {LOCAL: "ready", CLOUD: "ready"}
    assert ready.json()["ledger"] == {"healthy": True, "pending": 0, "lost": 0, "error": None}


def test_a_ledger_that_cannot_be_written_fails_no_request_and_shows(
    serve: ServeGateway, make_settings: MakeSettings, tmp_path: Any
) -> None:
    settings = make_settings(local=False)
    settings.ledger.path.mkdir()
    served = serve(Gateway(settings))
    assert post(served, {"messages": [USER]}).status_code == 200
    ready = httpx.get(f"{served.root}/health/ready").json()
    assert ready["status"] == "degraded"
    assert ready["ledger"]["healthy"] is False
    assert ready["ledger"]["pending"] >= 1


def test_metrics_count_requests(served: Served) -> None:
    post(served, {"messages": [USER], "model": CLOUD})
    text = httpx.get(f"{served.root}/metrics").text
    assert f'smallfirst_requests_total{{model="{CLOUD}",route="cloud",status="ok"}} 1.0' in text
    assert f'smallfirst_tokens_total{{model="{CLOUD}",type="output"}} 5.0' in text
    assert "smallfirst_ledger_lost_total 0.0" in text


def test_many_requests_at_once_are_all_answered(served: Served, local_model: LocalModel) -> None:
    def ask(at: int) -> int:
        model = LOCAL if at % 4 == 0 else CLOUD
        body = {"model": model, "messages": [{"role": "user", "content": f"Say {at}."}], "max_tokens": 8}
        return post(served, body).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(48))) == {200}
