"""A proxy's errors are those that a gateway in this process raises."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import Behaviour, LoopbackCloud
from fixtures.serving import CLOUD, MakeSettings, Served

from smallfirst.router.errors import (
    AuthenticationFailed,
    CannotServe,
    InvalidRequest,
    ModelNotFound,
    ModelResting,
    ModelTimeout,
    ModelUnavailable,
    RequestError,
    RequestNotFound,
    StreamBroken,
    UpstreamError,
)
from smallfirst.router.gateway import Gateway
from smallfirst.router.remote.errors import error_of
from smallfirst.router.remote.gateway import RemoteGateway
from smallfirst.router.sync import SyncGateway


@pytest.fixture(params=["in this process", "over a proxy"])
def gateway(request: pytest.FixtureRequest, cloud: LoopbackCloud) -> Iterator[SyncGateway]:
    settings: MakeSettings = request.getfixturevalue("make_settings")
    own = Gateway(settings(local=False))
    if request.param == "in this process":
        with SyncGateway(gateway=own) as gateway:
            yield gateway
        return
    serve: Callable[[Gateway], Served] = request.getfixturevalue("serve")
    with SyncGateway(base_url=serve(own).base_url) as gateway:
        yield gateway


CASES: dict[str, tuple[Callable[[SyncGateway], object], type[RequestError], int, str | None]] = {
    "no such model": (lambda g: g.complete("Hi", model="gpt-9"), ModelNotFound, 404, "model_not_found"),
    "no such model, streamed": (lambda g: g.stream("Hi", model="x"), ModelNotFound, 404, "model_not_found"),
    "no such model, decided": (lambda g: g.route("Hi", model="x"), ModelNotFound, 404, "model_not_found"),
    "no such embedder": (lambda g: g.embed("x", ["Hi"]), ModelNotFound, 404, "model_not_found"),
    "no such request": (lambda g: g.feedback("req_x", 1), RequestNotFound, 404, "request_not_found"),
    "no such score": (lambda g: g.feedback("req_x", 7), InvalidRequest, 400, "invalid_value"),
    "no text": (lambda g: g.classify([], ["a", "b"]), InvalidRequest, 400, "invalid_value"),
    "one label": (lambda g: g.classify("Hi", ["a"]), InvalidRequest, 400, "invalid_value"),
    "must stay": (
        lambda g: g.complete("Hi", metadata={"privacy": "local"}), CannotServe, 400, "privacy_local_only"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_is_of_the_same_kind(gateway: SyncGateway, case: str) -> None:
    call, kind, status, code = CASES[case]
    with pytest.raises(RequestError) as caught:
        call(gateway)
    assert (type(caught.value), caught.value.status, caught.value.code) == (kind, status, code)


@pytest.mark.parametrize(
    ("behaviour", "kind", "status"),
    [
        (lc.status(400), UpstreamError, 400),
        (lc.status(401), UpstreamError, 401),
        (lc.status(404), UpstreamError, 404),
        (lc.status(429), UpstreamError, 429),
        (lc.status(503), UpstreamError, 503),
        (lc.hang_up(), ModelUnavailable, 503),
        (lc.raw(b"<html>"), UpstreamError, 502),
    ],
)
def test_a_cloud_that_fails_does_so_the_same_way(
    gateway: SyncGateway, cloud: LoopbackCloud, behaviour: Behaviour, kind: type[RequestError], status: int
) -> None:
    cloud.enqueue(behaviour)
    with pytest.raises(RequestError) as caught:
        gateway.complete("Hi", model=CLOUD)
    assert (type(caught.value), caught.value.status) == (kind, status)


def test_an_answers_tokens_are_told_either_way(gateway: SyncGateway) -> None:
    usage = gateway.complete("Hi", model=CLOUD).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (20, 5, 8)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {"type": "authentication_error", "code": "invalid_api_key"}, AuthenticationFailed),
        (504, {"type": "upstream_error", "code": "timeout"}, ModelTimeout),
        (502, {"type": "upstream_error", "code": "stream_broken"}, StreamBroken),
        (503, {"type": "upstream_error", "code": "queue_full"}, ModelUnavailable),
        (503, {"type": "upstream_error", "code": "model_resting"}, ModelResting),
        (429, {"type": "upstream_error", "code": "model_resting"}, ModelResting),
        (500, {"type": "server_error", "code": "internal_error"}, UpstreamError),
        (418, {"type": "teapot", "code": None}, UpstreamError),
        (404, "Not Found", RequestError),
        (502, None, UpstreamError),
    ],
)
def test_errors_are_told_apart_by_status_type_and_code(
    status: int, error: Any, kind: type[RequestError]
) -> None:
    found = error_of(httpx.Response(status, json={"error": error}, headers={"retry-after": "3"}))
    assert (type(found), found.status) == (kind, status)
    assert found.retry_after == (3 if kind in (UpstreamError, ModelUnavailable, ModelResting) else None)


async def test_what_is_no_proxy_is_said_to_be_none() -> None:
    page = httpx.MockTransport(lambda _: httpx.Response(200, html="<p>Welcome</p>"))
    async with RemoteGateway("http://shop.example/v1", transport=page) as gateway:
        with pytest.raises(UpstreamError, match="no smallfirst proxy"):
            await gateway.complete("Hi")
