"""`GET /v1/report`: what the ledger adds up to, for those whose requests they are."""

from collections.abc import Callable

import httpx
import pytest
from fixtures.serving import HARD, MakeSettings, Served
from pydantic import SecretStr

from smallfirst.router import Gateway
from smallfirst.router.settings import Key, ServerSettings


def asked(served: Served, key: str | None = None, **params: str) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.get(f"{served.base_url}/report", params=params, headers=headers, timeout=30)


def ask(served: Served, key: str | None = None, tenant: str = "default") -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = {"messages": [{"role": "user", "content": HARD}], "metadata": {"tenant": tenant}}
    httpx.post(
        f"{served.base_url}/chat/completions", json=body, headers=headers, timeout=30
    ).raise_for_status()


@pytest.fixture
def keyed(serve: Callable[[Gateway], Served], make_settings: MakeSettings) -> Served:
    keys = tuple(Key(key=SecretStr(f"k-{name}"), tenant=name) for name in ("one", "two"))
    return serve(Gateway(make_settings(local=False, server=ServerSettings(keys=keys))))


@pytest.fixture
def open_to_all(serve: Callable[[Gateway], Served], make_settings: MakeSettings) -> Served:
    return serve(Gateway(make_settings(local=False)))


def test_it_adds_up_by_groups(open_to_all: Served) -> None:
    for tenant in ("a", "a", "b"):
        ask(open_to_all, tenant=tenant)
    report = asked(open_to_all, since="1h", by="tenant,route").json()
    assert (report["object"], report["by"], report["tenant"]) == ("report", ["tenant", "route"], None)
    assert [(row["key"], row["requests"]) for row in report["rows"]] == [
        ({"tenant": "a", "route": "cache"}, 1),
        ({"tenant": "a", "route": "cloud"}, 1),
        ({"tenant": "b", "route": "cloud"}, 1),
    ]
    assert report["total"]["requests"] == 3
    assert report["total"]["cost_usd"] > 0
    assert asked(open_to_all, tenant="b").json()["total"]["requests"] == 1
    assert asked(open_to_all, until="2020-01-01").json()["total"]["requests"] == 0


def test_a_key_sees_its_own_tenant_alone(keyed: Served) -> None:
    ask(keyed, "k-one")
    for more in ({}, {"tenant": "one"}):
        report = asked(keyed, "k-two", by="tenant", **more).json()
        assert (report["tenant"], report["rows"], report["total"]["requests"]) == ("two", [], 0)
    report = asked(keyed, "k-one", by="tenant").json()
    assert [row["key"] for row in report["rows"]] == [{"tenant": "one"}]
    assert asked(keyed).status_code == 401


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"by": "model,colour"}, "there is no group 'colour'; expected some of day, model"),
        ({"since": "yesterday"}, "'yesterday' is no time"),
        ({"until": ""}, "'' is no time"),
        ({"since": "99999999999d"}, "'99999999999d' is no time"),
        ({"until": "9" * 400 + "w"}, "is no time"),
        ({"from": "24h"}, "Unknown query parameter 'from'"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(
    open_to_all: Served, params: dict[str, str], said: str
) -> None:
    ask(open_to_all)
    refused = asked(open_to_all, **params)
    error = refused.json()["error"]
    assert (refused.status_code, [error["param"]]) == (400, list(params))
    assert said in error["message"]
