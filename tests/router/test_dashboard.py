"""`/dashboard` over real HTTP: who may look, what is sent, and what the page may do."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.office import fill
from fixtures.serving import CLOUD, Served, serving
from pydantic import SecretStr

from smallfirst.router import Gateway
from smallfirst.router.access.keys import make_key
from smallfirst.router.access.store import SqliteKeyStore
from smallfirst.router.server import dashboard as module
from smallfirst.router.settings import CloudModelSettings, Key, LedgerSettings, ServerSettings, Settings

ADMIN = "an-admin-key-of-many-letters"
Serve = Callable[[Gateway], Served]


def settings_for(path: Path, **fields: Any) -> Settings:
    """Settings of a gateway that nobody asks anything but for its figures."""
    cloud = CloudModelSettings(name=CLOUD, kind="openai", base_url="http://127.0.0.1:9/v1")
    return Settings(models=(cloud,), ledger=LedgerSettings(path=path), **fields)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with days of an office."""
    path = tmp_path_factory.mktemp("office") / "ledger.db"
    fill(path, 300, time.time(), length=2.0)
    return path


@pytest.fixture(scope="module")
def open_to_all(office: Path) -> Iterator[Served]:
    with serving(Gateway(settings_for(office))) as served:
        yield served


@pytest.fixture(scope="module")
def keyed(office: Path) -> Iterator[Served]:
    keys = (
        Key(key=SecretStr("k-acme"), tenant="acme", admin=False),
        Key(key=SecretStr("k-all"), tenant="ops", admin=True),
    )
    server = ServerSettings(keys=keys, admin_key=SecretStr(ADMIN))
    with serving(Gateway(settings_for(office, server=server))) as served:
        yield served


def get(served: Served, path: str = "", **fields: Any) -> httpx.Response:
    return httpx.get(f"{served.root}/dashboard{path}", timeout=30, **fields)


@contextmanager
def signed_in(served: Served, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.root, timeout=30) as client:
        done = client.post("/dashboard/login", data={"key": key})
        assert (done.status_code, done.headers["location"]) == (303, "/dashboard")
        yield client


def requests_of(page: str) -> int:
    found = re.search(r"<dt>Requests</dt><dd><b>([\d,]+)</b>", page)
    assert found is not None
    return int(found[1].replace(",", ""))


def events(
    served: Served, query: str = "", headers: dict[str, str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield the id and the data of each event."""
    with httpx.stream("GET", f"{served.root}/dashboard/events{query}", timeout=30, headers=headers) as reply:
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        identity = ""
        for line in reply.iter_lines():
            if line.startswith("id: "):
                identity = line[4:]
            if line.startswith("data: "):
                yield identity, json.loads(line[6:])


def test_the_page_has_its_own_policy_and_nothing_from_elsewhere(open_to_all: Served) -> None:
    pages = [get(open_to_all, params={"range": "7d"}) for _ in range(2)]
    policies = [page.headers["content-security-policy"] for page in pages]
    assert policies[0] != policies[1]
    nonce = re.findall(r"script-src 'nonce-([\w-]{20,})'", policies[0])[0]
    assert policies[0].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policies[0]
    assert f'<script nonce="{nonce}">' in pages[0].text
    assert pages[0].headers["cache-control"] == "no-store"
    assert re.findall(r'src=|href="(?!#|data:,|/dashboard)|url\((?!#)|@import', pages[0].text) == []
    assert requests_of(pages[0].text) == 300


def test_ranges_groups_and_tenants_are_chosen_by_links(open_to_all: Served) -> None:
    page = get(open_to_all, params={"range": "1h", "by": "agent", "tenant": "acme"}).text
    assert '<a href="/dashboard?range=1h&amp;by=agent&amp;tenant=acme" aria-current="true">1h</a>' in page
    assert '<a href="/dashboard?range=1h&amp;by=tag&amp;tenant=acme">tag</a>' in page
    assert "Tenant acme" in page
    whole, acme, globex = (
        requests_of(get(open_to_all, params={"range": "all", "tenant": name}).text)
        for name in ("", "acme", "globex")
    )
    assert acme + globex == whole == 300
    assert min(acme, globex) > 0


@pytest.mark.parametrize("query", ["range=2y", "by=colour", "since=1h"])
def test_what_cannot_be_chosen_is_refused(open_to_all: Served, query: str) -> None:
    for path in (f"?{query}", f"/events?{query}"):
        assert get(open_to_all, path).status_code == 400


def test_before_the_first_request_the_page_says_what_to_do(serve: Serve, tmp_path: Path) -> None:
    page = get(serve(Gateway(settings_for(tmp_path / "ledger.db")))).text
    assert "No requests were recorded" in page
    assert "/v1/chat/completions" in page


def test_a_ledger_that_cannot_be_read_is_said(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    served = serve(Gateway(settings_for(tmp_path / "ledger.db")))
    assert "There are no figures now" in get(served).text
    assert get(served, "/figures").status_code == 503


def test_the_first_event_brings_all_and_one_who_has_all_gets_nothing_again(
    open_to_all: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, said = next(events(open_to_all, "?range=all"))
    assert said["whole"] is True
    assert '<section class="full plain" id="s-summary"' in said["sections"]["summary"]
    monkeypatch.setattr(module, "STREAM_SECONDS", 0.3)
    assert list(events(open_to_all, "?range=all", {"last-event-id": version})) == []
    assert list(events(open_to_all, f"?range=all&seen={version}")) == []
    stale = version.replace("cost.", "cost.0")
    (_, part), *more = events(open_to_all, f"?range=all&seen={stale}")
    assert (part["whole"], list(part["sections"]), more) == (False, ["cost"], [])


def test_viewers_are_bounded(open_to_all: Served) -> None:
    with httpx.Client(timeout=30) as client:
        url = f"{open_to_all.root}/dashboard/events"
        streams = []
        for _ in range(200):
            stream = client.send(client.build_request("GET", url), stream=True)
            streams.append(stream)
            if stream.status_code != 200:
                break
        assert (streams[-1].status_code, streams[-1].headers["retry-after"]) == (503, "30")
        assert 1 < len(streams) < 200
        for stream in streams:
            stream.close()


def test_where_keys_are_configured_nobody_looks_without_one(keyed: Served) -> None:
    page = get(keyed)
    assert page.status_code == 401
    assert 'action="/dashboard/login"' in page.text
    assert "acme" not in page.text
    assert [get(keyed, path).status_code for path in ("/events", "/figures")] == [401, 401]
    wrong = get(keyed, headers={"authorization": "Bearer wrong"})
    assert (wrong.status_code, "is not known" in wrong.text) == (401, True)


@pytest.mark.parametrize(
    ("key", "tenants"), [("k-acme", ["acme"]), ("k-all", ["acme", "globex"]), (ADMIN, ["acme", "globex"])]
)
def test_a_key_shows_its_tenant_and_an_administrator_s_shows_all(
    keyed: Served, key: str, tenants: list[str]
) -> None:
    with signed_in(keyed, key) as client:
        pages = [
            client.get("/dashboard", params={"range": "all", "by": "tenant"}).text,
            get(
                keyed, params={"range": "all", "by": "tenant"}, headers={"authorization": f"Bearer {key}"}
            ).text,
        ]
    for page in pages:
        assert re.findall(r'<th scope="row" class="label">(acme|globex)</th>', page) in (
            tenants,
            tenants[::-1],
        )
    assert ("Sign out" in pages[0], "Sign out" in pages[1]) == (True, False)


def test_a_tenant_s_key_cannot_ask_for_another_tenant(keyed: Served) -> None:
    headers = {"authorization": "Bearer k-acme"}
    page = get(keyed, params={"range": "all", "by": "tenant", "tenant": "globex"}, headers=headers).text
    assert "globex" not in page
    _, said = next(events(keyed, "?range=all&by=tenant&tenant=globex", headers))
    assert "globex" not in json.dumps(said)
    assert get(keyed, "/figures", params={"tenant": "globex"}, headers=headers).json()["tenant"] == "acme"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(keyed: Served) -> None:
    done = httpx.post(f"{keyed.root}/dashboard/login", data={"key": "k-acme"})
    cookie = done.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/dashboard" in cookie
    assert "k-acme" not in cookie
    other = {"sec-fetch-site": "cross-site"}
    assert (
        httpx.post(f"{keyed.root}/dashboard/login", data={"key": "k-acme"}, headers=other).status_code == 403
    )


@pytest.mark.parametrize("given", ["", "wrong", "sf-wrong", ADMIN[:-1]])
def test_a_wrong_key_is_not_signed_in(keyed: Served, given: str) -> None:
    done = httpx.post(f"{keyed.root}/dashboard/login", data={"key": given})
    assert done.status_code == 401
    assert "Not signed in" in done.text
    assert "set-cookie" not in done.headers


def test_one_who_signed_out_is_a_stranger_again(keyed: Served) -> None:
    with signed_in(keyed, "k-acme") as client:
        assert client.get("/dashboard").status_code == 200
        assert client.post("/dashboard/logout").status_code == 303
        assert client.get("/dashboard").status_code == 401


def test_a_cookie_that_was_changed_opens_nothing(keyed: Served) -> None:
    with signed_in(keyed, "k-acme") as client:
        value = client.cookies["smallfirst_session"]
        parts = value.strip('"').split(".")
    for changed in (".".join([parts[0], "YWRtaW4=", parts[2]]), ".".join(["99999999999", *parts[1:]])):
        assert get(keyed, headers={"cookie": f"smallfirst_session={changed}"}).status_code == 401


def test_without_keys_a_name_of_another_machine_is_refused(open_to_all: Served) -> None:
    assert get(open_to_all, headers={"host": "evil.example"}).status_code == 403
    assert get(open_to_all, headers={"host": "localhost:1234"}).status_code == 200


def test_other_methods_are_refused(open_to_all: Served) -> None:
    refused = httpx.post(f"{open_to_all.root}/dashboard")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert get(open_to_all, "/login").status_code == 405
    assert httpx.post(f"{open_to_all.root}/dashboard/login", content=b"key=" + b"x" * 9000).status_code == 400


def test_a_key_that_is_revoked_closes_its_session(serve: Serve, tmp_path: Path) -> None:
    store = SqliteKeyStore(tmp_path / "keys.db")
    made = make_key("acme", now=time.time())
    store.add(made.key)
    server = ServerSettings(key_store=tmp_path / "keys.db")
    served = serve(Gateway(settings_for(tmp_path / "ledger.db", server=server)))
    with signed_in(served, made.secret) as client:
        assert client.get("/dashboard").status_code == 200
        store.revoke(made.key.id, time.time())
        store.close()
        deadline = time.monotonic() + 15
        while client.get("/dashboard").status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.get("/dashboard/events").status_code == 401
