"""The SDK's face: the same calls in this process and against a running proxy, async and blocking."""

import json
from collections.abc import Iterator

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeGateway, MakeSettings, Served
from msgspec.structs import replace

from smallfirst.policies import Decision
from smallfirst.router import Gateway, Receipt
from smallfirst.router.errors import LedgerError, UpstreamError
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.remote.gateway import RemoteGateway
from smallfirst.router.sync import SyncGateway


@pytest.fixture(params=["in this process", "over a proxy"])
def sync(request: pytest.FixtureRequest) -> Iterator[SyncGateway]:
    """A blocking gateway, either way."""
    if request.param == "over a proxy":
        served: Served = request.getfixturevalue("served")
        with Gateway.sync(base_url=served.base_url) as gateway:
            yield gateway
        return
    settings: MakeSettings = request.getfixturevalue("make_settings")
    local: LocalModel = request.getfixturevalue("local_model")
    with SyncGateway(gateway=Gateway(settings(), models={LOCAL: local})) as gateway:
        yield gateway


def test_an_answer_comes_with_its_receipt(sync: SyncGateway) -> None:
    answer = sync.complete(HARD)
    assert (answer.text, answer.receipt.route, answer.receipt.model) == (
        "Paris is the answer.",
        "cloud",
        CLOUD,
    )


def test_a_decision_says_who_would_be_asked(sync: SyncGateway, cloud: LoopbackCloud) -> None:
    decision = sync.route(HARD)
    assert isinstance(decision, Decision)
    assert decision.attempts[0].model == CLOUD
    assert decision.score is not None
    assert set(decision.score.success) == {LOCAL, CLOUD}
    assert cloud.requests == []


def test_the_proxys_decision_is_the_gateways(served: Served) -> None:
    with Gateway.sync(base_url=served.base_url) as remote:
        assert remote.route(HARD, model="auto/thrifty") == served.gateway.route(HARD, model="auto/thrifty")


def test_texts_are_labelled_each_with_a_receipt(sync: SyncGateway) -> None:
    found = sync.classify(["I love it!", "I hate it."], ["positive", "negative"], metadata={"agent": "a"})
    assert [sorted(result["probabilities"]) for result, _ in found] == [["negative", "positive"]] * 2
    assert all(sum(result["probabilities"].values()) == pytest.approx(1) for result, _ in found)
    assert len({receipt.request_id for _, receipt in found}) == 2
    assert {(receipt.route, receipt.model) for _, receipt in found} == {("local", LOCAL)}


def test_feedback_on_an_answer_is_taken(sync: SyncGateway) -> None:
    assert sync.feedback(sync.complete(HARD).receipt.request_id, "bad") == 0


async def test_a_base_url_makes_a_proxys_face(served: Served) -> None:
    gateway = Gateway(base_url=served.base_url)
    assert isinstance(gateway, RemoteGateway)
    async with gateway:
        assert (await gateway.complete(EASY)).receipt.route == "local"
        owners = await gateway.model_owners()
    assert [owners[name] for name in (LOCAL, CLOUD, "auto")] == ["local", "cloud", "smallfirst"]


def test_a_proxy_takes_no_settings(make_settings: MakeSettings) -> None:
    with pytest.raises(TypeError, match="settings and models of its own"):
        Gateway(make_settings(), base_url="http://127.0.0.1:9/v1")


async def test_a_report_adds_up_what_was_just_asked(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    receipts = [(await gateway.complete(prompt)).receipt for prompt in (EASY, HARD)]
    report = await gateway.report(since="1h", by=("route",))
    assert {row.key["route"]: row.requests for row in report.rows} == {"local": 1, "cloud": 1}
    assert report.total.cost_usd == pytest.approx(sum(receipt.cost_usd or 0 for receipt in receipts))
    assert report.total.saved_usd == pytest.approx(sum(receipt.saved_usd or 0 for receipt in receipts))


async def test_a_report_without_a_ledger_says_so(make_gateway: MakeGateway) -> None:
    with pytest.raises(LedgerError, match="nothing is recorded yet"):
        await make_gateway().report()


def test_a_blocking_report_is_the_same_over_a_proxy(sync: SyncGateway) -> None:
    receipt = sync.complete(HARD).receipt
    report = sync.report(since="1h", by=("route", "tenant"), tenant="default")
    assert [dict(row.key) for row in report.rows] == [{"route": "cloud", "tenant": "default"}]
    assert report.total.cost_usd == pytest.approx(receipt.cost_usd)
    assert sync.report(tenant="nobody").total.requests == 0


async def test_a_proxys_stream_has_a_receipt_with_its_cost(served: Served) -> None:
    async with RemoteGateway(served.base_url) as remote:
        whole = (await remote.complete(HARD)).receipt
        stream = await remote.stream(HARD, cache={"no-cache": True})
        assert stream.receipt.cost_usd is None
        chunks = [json.loads(chunk) async for chunk in stream]
        counted = await remote.stream(HARD, cache={"no-cache": True}, stream_options={"include_usage": True})
        shown = [json.loads(chunk) async for chunk in counted]
    assert stream.receipt.cost_usd == pytest.approx(whole.cost_usd)
    assert stream.usage is not None
    # The chunk that the cost comes with is shown to those who asked for it.
    assert all(chunk["choices"] for chunk in chunks)
    assert shown[-1]["choices"] == []


def test_a_proxy_says_when_to_try_again(served: Served, cloud: LoopbackCloud) -> None:
    cloud.enqueue(lc.status(429, {"message": "slow down", "code": "rate_limit"}, retry_after="7"))
    with (
        Gateway.sync(base_url=served.base_url) as remote,
        pytest.raises(UpstreamError, match="slow down") as caught,
    ):
        remote.complete("Hi", model=CLOUD)
    assert (caught.value.status, caught.value.retry_after, caught.value.code) == (429, 7, "rate_limit")


async def test_a_receipt_survives_its_headers(make_gateway: MakeGateway, served: Served) -> None:
    """What a proxy's client reads is what the gateway wrote, but for the digits that headers have."""
    async with RemoteGateway(served.base_url) as remote:
        receipt = (await remote.complete(HARD)).receipt
    own = (await make_gateway().complete(HARD)).receipt
    assert _but_for_what_differs(receipt) == _but_for_what_differs(own)


def _but_for_what_differs(receipt: Receipt) -> Receipt:
    return replace(receipt, request_id="", overhead_ms=0.0, score=None)
