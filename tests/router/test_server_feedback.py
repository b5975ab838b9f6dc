"""Feedback over real HTTP with a real ledger: tenants, errors, alarms where operators look."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, LOCAL, MakeSettings, Served
from pydantic import SecretStr

from smallfirst.router.drift import DriftMonitor
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.remote.gateway import RemoteGateway
from smallfirst.router.settings import Key, ServerSettings
from smallfirst.router.sync import SyncGateway

ServeGateway = Callable[[Gateway], Served]
POLICIES = {"careful": {"preset": "balanced"}}
KEYS = tuple(Key(key=SecretStr(f"key-{tenant}"), tenant=tenant) for tenant in ("ann", "bob"))


@pytest.fixture
def served(serve: ServeGateway, make_settings: MakeSettings, local_model: LocalModel) -> Served:
    """Two tenants, one policy with a budget."""
    settings = make_settings(
        policies=POLICIES,
        policy="careful",
        server=ServerSettings(keys=KEYS),
        cache={"enabled": False},
        drift={"alpha": 0.2},  # few outcomes are enough for an alarm
    )
    drift = DriftMonitor(settings.drift, budgets={"careful": 0.02}, local=[LOCAL])
    return serve(Gateway(settings, models={LOCAL: local_model}, drift=drift))


def post(served: Served, path: str, body: Any, tenant: str = "ann") -> httpx.Response:
    return httpx.post(
        served.base_url + path, json=body, headers={"authorization": f"Bearer key-{tenant}"}, timeout=30
    )


def ask(served: Served, prompt: str = EASY, tenant: str = "ann", **fields: Any) -> httpx.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "max_tokens": 4, **fields}
    response = post(served, "/chat/completions", body, tenant)
    assert response.status_code == 200
    return response


def rate(served: Served, request_id: str, score: Any, tenant: str = "ann") -> httpx.Response:
    return post(served, "/feedback", {"request_id": request_id, "score": score}, tenant)


def report_of(served: Served) -> dict[str, Any]:
    report: dict[str, Any] = httpx.get(f"{served.root}/health/ready").json()["drift"]["policies"]["careful"]
    return report


def test_an_answer_can_be_rated_and_rated_again(served: Served) -> None:
    request_id = ask(served).headers["x-smallfirst-request-id"]
    for score in ("good", 0.5):
        response = rate(served, request_id, score)
    assert (response.status_code, response.json()) == (
        200,
        {"object": "feedback", "request_id": request_id, "score": 0.5},
    )
    assert report_of(served)["tests"]["feedback"]["n"] == 1
    served.gateway.ledger.flush()
    with closing(sqlite3.connect(served.gateway.ledger.path)) as connection:
        stored = connection.execute(
            "SELECT request_id, tenant, policy, model, score FROM outcomes"
        ).fetchall()
    assert stored == [(request_id, "ann", "careful", LOCAL, 0.5)]


def test_another_tenants_request_is_as_unknown_as_none(served: Served) -> None:
    request_id = ask(served).headers["x-smallfirst-request-id"]
    others, nobodys = rate(served, request_id, "bad", "bob"), rate(served, "req_none", "bad", "bob")
    assert (others.status_code, others.json()) == (nobodys.status_code, nobodys.json())
    assert others.status_code == 404
    assert others.json()["error"]["code"] == "request_not_found"
    assert report_of(served)["tests"]["feedback"]["n"] == 0


def test_a_tenant_named_in_the_body_does_not_open_another_tenants_requests(served: Served) -> None:
    request_id = ask(served).headers["x-smallfirst-request-id"]
    body = {"request_id": request_id, "score": 0, "metadata": {"tenant": "ann"}}
    assert post(served, "/feedback", body, "bob").status_code == 404


def test_without_a_key_nothing_can_be_rated(served: Served) -> None:
    response = httpx.post(f"{served.base_url}/feedback", json={"request_id": "r", "score": 1})
    assert response.status_code == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"request_id": "r"}, "score"),
        ({"score": 1}, "request_id"),
        ({"request_id": "r", "score": 2}, "score"),
    ],
)
def test_a_wrong_body_names_its_field(served: Served, body: dict[str, Any], param: str) -> None:
    response = post(served, "/feedback", body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == param


def test_bad_ratings_raise_an_alarm_where_operators_look_and_send_more_to_the_cloud(served: Served) -> None:
    for at in range(40):
        response = ask(served, metadata={"session": f"s{at}"})
        rate(served, response.headers["x-smallfirst-request-id"], "bad")
        if response.headers["x-smallfirst-route"] == "cloud":
            break
    assert response.headers["x-smallfirst-model"] == CLOUD
    ready = httpx.get(f"{served.root}/health/ready").json()
    assert (ready["status"], ready["drift"]["alarm"]) == ("ready", True)
    assert report_of(served)["tightened"] > 0
    headers = {"authorization": "Bearer key-ann"}
    metrics = httpx.get(f"{served.root}/metrics", headers=headers).text
    assert 'smallfirst_drift_alarm{policy="careful",test="feedback"} 1.0' in metrics
    assert 'smallfirst_drift_alarm{policy="careful",test="difficulty"} 0.0' in metrics
    assert f"smallfirst_feedback_total {float(at + 1)}" in metrics
    served.gateway.drift.reset("careful")
    assert ask(served).headers["x-smallfirst-route"] == "local"


async def test_the_sdk_rates_in_process_and_through_a_proxy(served: Served) -> None:
    request_id = ask(served).headers["x-smallfirst-request-id"]
    async with RemoteGateway(served.base_url, api_key="key-ann") as remote:
        assert await remote.feedback(request_id, True, comment="right") == 1.0


def test_the_synchronous_sdk_rates(make_settings: MakeSettings, cloud: LoopbackCloud) -> None:
    with SyncGateway(make_settings(local=False)) as gateway:
        answer = gateway.complete(EASY)
        assert gateway.feedback(answer.receipt.request_id, "good") == 1.0
        gateway.gateway.ledger.flush()  # type: ignore[union-attr]
