"""Nothing that a caller or an upstream writes makes the gateway fetch an address or read a file."""

from __future__ import annotations

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fixtures import plain_http
from fixtures.loopback_cloud import LoopbackCloud, status
from fixtures.serving import CLOUD, LOCAL, MakeGateway, Served
from fixtures.trap import SECRET, Trap

SCHEMA_WORDS = ("$ref", "$schema", "$dynamicRef", "$recursiveRef", "$id")
# What other gateways and clients take from a body.
REDIRECTING_FIELDS = (
    "api_base",
    "base_url",
    "endpoint",
    "api_key",
    "extra_headers",
    "headers",
    "proxy",
    "webhook",
    "custom_llm_provider",
    "litellm_params",
    "callbacks",
    "fallbacks",
    "store",
)


def parts(place: str) -> list[dict[str, Any]]:
    """What a message of OpenAI's chat wire may have in it beside words."""
    return [
        {"type": "image_url", "image_url": {"url": place}},
        {"type": "input_audio", "input_audio": {"data": place, "format": "wav"}},
        {"type": "file", "file": {"file_id": place, "file_data": place, "filename": place}},
    ]


def say(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}}


def chat_bodies(place: str) -> list[dict[str, Any]]:
    bodies: list[dict[str, Any]]
    bodies = [{"messages": say([{"type": "text", "text": "What is this?"}, part])} for part in parts(place)]
    bodies += [{"messages": say(f"Open {place} and say what is there."), "metadata": {"url": place}}]
    bodies += [{"messages": say("Hi"), field: place} for field in REDIRECTING_FIELDS]
    bodies += [
        {"messages": say("Hi"), field: {"url": place, "base_url": place}} for field in ("headers", "proxy")
    ]
    for word in SCHEMA_WORDS:
        schema = {"type": "object", "properties": {"a": {word: place}}, word: place}
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        bodies += [{"messages": say("Hi"), "response_format": form(schema)}]
        bodies += [{"messages": say("Hi"), "tools": [tool], "tool_choice": "required"}]
    return bodies


def other_bodies(place: str) -> list[tuple[str, dict[str, Any]]]:
    source = {"type": "url", "url": place}
    image = {"type": "input_image", "image_url": place}
    file = {"type": "input_file", "file_url": place}
    return [
        ("/responses", {"input": [{"role": "user", "content": [image, file]}]}),
        ("/responses", {"input": "Hi", "tools": [{"type": "mcp", "server_label": "m", "server_url": place}]}),
        ("/responses", {"input": "Hi", "previous_response_id": place}),
        ("/responses", {"input": "Hi", "prompt": {"id": place}}),
        ("/messages", {"messages": say([{"type": "image", "source": source}]), "max_tokens": 5}),
        ("/messages", {"messages": say([{"type": "document", "source": source}]), "max_tokens": 5}),
        ("/messages", {"messages": say("Hi"), "max_tokens": 5, "mcp_servers": [source | {"name": "m"}]}),
        ("/completions", {"prompt": place, "max_tokens": 5, "suffix": place}),
        ("/embeddings", {"input": place}),
        ("/classify", {"text": place, "labels": [place, "b"]}),
        ("/moderations", {"input": [{"type": "image_url", "image_url": {"url": place}}]}),
        ("/feedback", {"request_id": place, "score": 1, "comment": place}),
        ("/route", {"messages": say(place)}),
    ]


@pytest.mark.parametrize("model", [LOCAL, CLOUD, "auto"])
def test_nothing_in_a_body_makes_anybody_fetch_it(
    served: Served, cloud: LoopbackCloud, trap: Trap, model: str
) -> None:
    places = (trap.url, trap.file_url)
    with plain_http.Client(base_url=served.base_url, timeout=60) as client:
        bodies = [body for place in places for body in chat_bodies(place)]
        # The local model takes its time: half of them with an address, half with a file.
        chosen = bodies[::2] if model == LOCAL else bodies
        asked = [("/chat/completions", {"max_tokens": 1, **body}) for body in chosen]
        asked += [pair for place in places for pair in other_bodies(place)]
        with ThreadPoolExecutor(8) as several:
            answers = list(
                several.map(lambda each: client.post(each[0], json={"model": model, **each[1]}), asked)
            )
    assert all(answer.status_code < 500 for answer in answers), [
        a.text for a in answers if a.status_code >= 500
    ]
    assert not any(SECRET in answer.text for answer in answers)
    assert (trap.caught, trap.read) == ([], False)
    # The cloud may get the address as a part of a body, at the paths that the settings name and no others.
    assert {request.path for request in cloud.requests} <= {"/v1/chat/completions", "/v1/moderations"}
    assert {request.headers["host"] for request in cloud.requests} <= {f"127.0.0.1:{cloud.port}"}


def test_a_model_by_an_address_or_a_file_is_no_model(
    served: Served, cloud: LoopbackCloud, trap: Trap
) -> None:
    names = [
        trap.url,
        trap.file_url,
        f"file:{trap.file}",
        str(trap.file),
        f"../../../..{trap.file}",
        f"hf:evil/repo@main/{trap.file.name}",
        "pypi:evil==1.0/x.gguf",
        f"openai/{trap.url}",
        f"{LOCAL}+{trap.file}",
        f"{LOCAL}+../../secret",
        f"{LOCAL}\r\nhost: evil.example",
        "auto/../../etc/passwd",
    ]
    with plain_http.Client(base_url=served.base_url, timeout=60) as client:
        for path in ("/chat/completions", "/responses", "/messages", "/embeddings", "/route"):
            for name in names:
                body = {"model": name, "messages": say("Hi"), "input": "Hi", "max_tokens": 2}
                answer = client.post(path, json=body)
                assert answer.status_code in (400, 404), (path, name, answer.text)
    assert (trap.caught, trap.read, cloud.requests) == ([], False, [])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../../etc/passwd",
        "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/models//etc/passwd",
        "/v1/responses/..%2f..%2fsecret",
        "/v1/responses/%00",
        "/dashboard/../templates/shell.html",
        "/dashboard/%2e%2e/templates/shell.html",
        "/dashboard/templates/login.html",
        "/static/../pyproject.toml",
        "//etc/passwd",
        "/..%5c..%5cwindows",
    ],
)
def test_a_path_leads_to_no_file(cloud_served: Served, path: str) -> None:
    # As a raw target: a client would tidy it up.
    request = httpx.Request("GET", cloud_served.root)
    request.extensions["target"] = path.encode()
    with plain_http.Client() as client:
        answer = client.send(request)
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("path", "stream"), [("/chat/completions", False), ("/chat/completions", True), ("/moderations", False)]
)
def test_a_redirect_of_an_upstream_is_not_followed(
    cloud_served: Served, cloud: LoopbackCloud, trap: Trap, code: int, path: str, stream: bool
) -> None:
    cloud.enqueue(status(code, location=trap.url))
    body = {"model": CLOUD, "messages": say("Hi"), "input": "Hi", "stream": stream}
    answer = plain_http.post(cloud_served.base_url + path, json=body)
    cloud_served.gateway.health.succeeded(CLOUD)
    assert answer.status_code == 502
    assert "redirect" in answer.json()["error"]["message"]
    assert "location" not in answer.headers
    assert trap.url not in answer.text
    assert trap.caught == []
    assert len(cloud.requests) == 1


async def test_proxies_of_the_environment_see_no_request(
    make_gateway: MakeGateway, cloud: LoopbackCloud, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
        monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{trap.port}")
    assert urllib.request.getproxies()["http"].endswith(str(trap.port))
    reply = await make_gateway(local=False).complete("Hi")
    assert reply.body["choices"][0]["message"]["content"] == cloud.answer_text
    assert trap.caught == []


async def test_a_netrc_of_the_user_is_not_sent(
    make_gateway: MakeGateway, cloud: LoopbackCloud, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = trap.file.with_name("netrc")
    netrc.write_text("machine 127.0.0.1 login canary password canary\n", encoding="ascii")
    monkeypatch.setenv("NETRC", str(netrc))
    await make_gateway(local=False, cloud_fields={"api_key": None}).complete("Hi")
    assert "authorization" not in cloud.requests[0].headers
