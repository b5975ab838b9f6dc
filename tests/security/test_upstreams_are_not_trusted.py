"""What an upstream may do to callers of the gateway, and to the gateway: answer, and nothing else."""

from __future__ import annotations

import json
import resource
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures import plain_http
from fixtures.loopback_cloud import DONE, Behaviour, Exchange, LoopbackCloud, events, raw, status, usual
from fixtures.serving import CLOUD, Served, serving
from fixtures.wired import answering, chunk
from pydantic import SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.settings import (
    Breaker,
    CacheSettings,
    CloudModelSettings,
    LedgerSettings,
    Retries,
    Settings,
)

KEY = "sk-canary-0123456789abcdef"
HEADER = "canary-of-a-header-9876"
MOST_NESTED = b"[" * 100_000 + b"]" * 100_000

HOSTILE_HEADERS = {
    "set-cookie": "session=stolen; Path=/",
    "access-control-allow-origin": "*",
    "access-control-allow-credentials": "true",
    "www-authenticate": "Basic realm=canary",
    "location": "http://evil.example/",
    "refresh": "0; url=http://evil.example/",
    "content-security-policy": "default-src *",
    "strict-transport-security": "max-age=0",
    "alt-svc": 'h2="evil.example:443"',
    "clear-site-data": '"*"',
    "link": "<http://evil.example/>; rel=preload",
    "x-smallfirst-route": "local",
    "x-anything": "canary",
}


def with_headers(code: int) -> Behaviour:
    async def behave(exchange: Exchange) -> bool:
        body = json.dumps({"error": {"message": "no"}}).encode()
        return await exchange.whole(code, body, HOSTILE_HEADERS)

    return behave


PATHS = ("/chat/completions", "/messages", "/responses", "/completions")


def body(path: str = "/chat/completions", **fields: Any) -> dict[str, Any]:
    said = {"/responses": {"input": "Hi"}, "/completions": {"prompt": "Hi"}, "/moderations": {"input": "Hi"}}
    talk = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    return {"model": CLOUD, **said.get(path, talk), **fields}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("code", [200, 400, 401, 429, 500])
def test_of_an_upstreams_headers_none_reaches_the_caller(
    cloud_served: Served, cloud: LoopbackCloud, path: str, code: int
) -> None:
    cloud.enqueue(with_headers(code))
    asked = body(path)
    answer = plain_http.post(cloud_served.base_url + path, json=asked)
    shown = {name: value for name, value in answer.headers.items() if HOSTILE_HEADERS.get(name) == value}
    assert shown == {}
    assert not set(answer.headers) & (set(HOSTILE_HEADERS) - {"x-smallfirst-route"})


def test_a_stream_brings_no_headers_either(cloud_served: Served, cloud: LoopbackCloud) -> None:
    async def behave(exchange: Exchange) -> bool:
        await exchange.head(
            200, HOSTILE_HEADERS | {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
        )
        await exchange.piece(chunk({"delta": {"content": "Hi"}, "finish_reason": "stop"}) + DONE)
        return await exchange.end_stream()

    cloud.enqueue(behave)
    answer = plain_http.post(f"{cloud_served.base_url}/chat/completions", json=body(stream=True))
    assert answer.text.endswith("data: [DONE]\n\n")
    assert not set(answer.headers) & (set(HOSTILE_HEADERS) - {"x-smallfirst-route"})


def test_cookies_of_an_upstream_do_not_travel_to_the_next_request(
    cloud_served: Served, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(with_headers(400))
    for _ in range(2):
        plain_http.post(f"{cloud_served.base_url}/chat/completions", json=body())
    assert "cookie" not in cloud.requests[1].headers


def test_of_a_callers_headers_only_those_of_the_list_go_upstream(
    cloud_served: Served, cloud: LoopbackCloud
) -> None:
    sent = {
        "authorization": "Bearer canary-caller",
        "x-api-key": "canary-caller",
        "cookie": "canary=1",
        "host": "localhost",
        "x-forwarded-host": "evil.example",
        "openai-organization": "canary",
        "x-custom": "canary",
        "expect": "",
        "te": "trailers",
        "user-agent": "canary/1.0",
        "x-request-id": "id-7",
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        "tracestate": "a=b",
    }
    plain_http.post(f"{cloud_served.base_url}/chat/completions", json=body(), headers=sent)
    (request,) = cloud.requests
    assert request.headers["authorization"] == "Bearer sk-cloud"
    passed = {name for name in request.headers if request.headers[name] == sent.get(name)}
    assert passed <= {"x-request-id", "traceparent", "tracestate"}
    assert "canary" not in json.dumps(request.headers)
    assert set(request.headers) <= {
        "host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length",
        "authorization", "x-request-id", "traceparent", "tracestate", "x-request-timeout",
    }  # fmt: skip


def echo(where: str) -> Behaviour:
    """Quote what was sent as a proxy in debug mode does."""

    async def behave(exchange: Exchange) -> bool:
        sent = f"{exchange.request.headers['authorization']} {exchange.request.headers['x-second']}"
        error: dict[str, Any] = {
            "message": f"Incorrect API key provided: {sent}.",
            "type": sent,
            "code": sent,
            "param": sent,
        }
        error |= {"innererror": {"request": {"headers": [sent, {sent: sent}]}}}
        if where == "stream":
            event = b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
            first = chunk({"delta": {"content": "Hi"}, "finish_reason": None})
            return await events(first, event)(exchange)
        if where == "text":
            return await exchange.whole(400, json.dumps({"error": error["message"]}).encode())
        return await exchange.whole(int(where), json.dumps({"error": error}).encode())

    return behave


@pytest.fixture(scope="module")
def keyed(_cloud_server: LoopbackCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway with secrets that can be told from all else, which no failure makes rest."""
    model = CloudModelSettings(
        name=CLOUD,
        kind="openai",
        base_url=_cloud_server.base_url,
        api_key=SecretStr(KEY),
        headers={"x-second": SecretStr(HEADER)},
        retries=Retries(max=0),
        breaker=Breaker(failures=1000, least_calls=1000),
    )
    settings = Settings(
        models=(model,),
        ledger=LedgerSettings(path=tmp_path_factory.mktemp("keyed") / "ledger.db", flush_interval=0.02),
        cache=CacheSettings(enabled=False),
    )
    with serving(Gateway(settings)) as served:
        yield served


@pytest.mark.parametrize("path", [*PATHS, "/moderations"])
@pytest.mark.parametrize("where", ["400", "401", "403", "404", "429", "500", "text", "stream"])
def test_an_upstream_that_quotes_our_key_tells_no_caller(
    keyed: Served, cloud: LoopbackCloud, path: str, where: str
) -> None:
    cloud.enqueue(echo(where))
    asked = body(path) | ({} if path == "/moderations" else {"stream": where == "stream"})
    answer = plain_http.post(keyed.base_url + path, json=asked)
    told = answer.text + str(dict(answer.headers))
    assert "error" in told
    assert KEY not in told
    assert HEADER not in told
    keyed.gateway.ledger.flush()
    ledger = keyed.gateway.settings.ledger.path
    kept = b"".join(file.read_bytes() for file in ledger.parent.glob("ledger.db*"))
    assert kept
    assert KEY.encode() not in kept
    assert HEADER.encode() not in kept


def test_the_words_of_a_refusal_are_passed_on_but_for_the_key(keyed: Served, cloud: LoopbackCloud) -> None:
    cloud.enqueue(echo("400"))
    error = plain_http.post(f"{keyed.base_url}/chat/completions", json=body()).json()["error"]
    assert error["message"] == "Incorrect API key provided: Bearer [redacted] [redacted]."


def test_a_short_header_is_no_secret_that_would_mangle_answers() -> None:
    from smallfirst.router.models.refusal import Secrets

    model = CloudModelSettings(name="m", kind="openai", headers={"x-version": SecretStr("1")})
    assert Secrets(model).without({"message": "1 of 11"}) == {"message": "1 of 11"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", [200, 400])
def test_json_that_is_nested_without_end_is_a_broken_answer(
    cloud_served: Served, cloud: LoopbackCloud, stream: bool, code: int
) -> None:
    nested = b'{"error": ' + MOST_NESTED + b"}"
    cloud.enqueue(events(b"data: " + nested + b"\n\n") if stream and code == 200 else raw(nested, code=code))
    answer = plain_http.post(f"{cloud_served.base_url}/chat/completions", json=body(stream=stream))
    assert answer.status_code == (502 if code == 200 else 400)
    assert answer.json()["error"]["code"] != "internal_error"


def test_an_event_over_several_lines_goes_out_as_one(cloud_served: Served, cloud: LoopbackCloud) -> None:
    written = json.dumps(
        json.loads(chunk({"delta": {"content": "Hi"}, "finish_reason": "stop"})[6:]), indent=1
    )
    event = "".join(f"data: {line}\n" for line in written.split("\n")).encode() + b"\n"
    cloud.enqueue(events(event, DONE))
    answer = plain_http.post(f"{cloud_served.base_url}/chat/completions", json=body(stream=True))
    lines = [line for line in answer.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines), answer.text
    assert json.loads(lines[0][6:])["choices"][0]["delta"]["content"] == "Hi"


@pytest.mark.parametrize(
    "text", ["a\n\ndata: [DONE]\n\n", "a\r\n\r\nevent: error\r\n", "\u2028\u0085x", "\x00"]
)
@pytest.mark.parametrize("path", PATHS)
def test_an_answers_words_cannot_end_an_event(
    cloud_served: Served, cloud: LoopbackCloud, path: str, text: str
) -> None:
    cloud.enqueue(answering({"role": "assistant", "content": text}))
    asked = body(path, stream=True)
    answer = plain_http.post(cloud_served.base_url + path, json=asked)
    for line in answer.content.replace(b"\r\n", b"\n").split(b"\n"):
        assert not line or line.startswith((b"data: {", b"data: [DONE]", b"event: ")), line
        assert b"\r" not in line


def test_names_and_ids_of_an_upstream_make_no_headers(cloud_served: Served, cloud: LoopbackCloud) -> None:
    bad = "x\r\nset-cookie: a=b\r\n\r\n<html>"
    cloud.model, cloud.extra = bad, {"id": bad, "system_fingerprint": bad, "service_tier": bad}
    cloud.enqueue(usual, usual)
    for stream in (False, True):
        answer = plain_http.post(f"{cloud_served.base_url}/chat/completions", json=body(stream=stream))
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert all("\r" not in value and "\n" not in value for value in answer.headers.values())


def test_an_upstreams_status_beside_http_is_none_of_ours(cloud_served: Served, cloud: LoopbackCloud) -> None:
    cloud.enqueue(status(999))
    answer = plain_http.post(f"{cloud_served.base_url}/chat/completions", json=body())
    assert answer.status_code == 502


def unpacks_to(megabytes: int) -> Behaviour:
    """Answer with zeros, packed a thousand times smaller."""

    async def behave(exchange: Exchange) -> bool:
        packer, blank = zlib.compressobj(level=1, wbits=31), b" " * 1_000_000
        packed = b"".join(packer.compress(blank) for _ in range(megabytes)) + packer.flush()
        kind = "text/event-stream" if exchange.request.body.get("stream") else "application/json"
        return await exchange.whole(200, packed, {"content-encoding": "gzip", "content-type": kind})

    return behave


@pytest.mark.parametrize("stream", [False, True])
def test_a_small_answer_that_unpacks_to_a_large_one_is_given_up(
    cloud_served: Served, cloud: LoopbackCloud, stream: bool
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cloud.enqueue(unpacks_to(300))
    answer = plain_http.post(
        f"{cloud_served.base_url}/chat/completions", json=body(stream=stream), timeout=60
    )
    assert answer.status_code == 502
    # In KiB; the bound on an answer is 64 MiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
