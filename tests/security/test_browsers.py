"""Pages of other sites in a real Chromium on the gateway's own machine: they spend nothing and read nothing."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fixtures import plain_http
from fixtures.chromium import Tab
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, Served, serving
from pydantic import SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.settings import (
    CacheSettings,
    CloudModelSettings,
    Key,
    LedgerSettings,
    ServerSettings,
    Settings,
)

BODY = json.dumps({"model": CLOUD, "messages": [{"role": "user", "content": "Spend!"}]})
KEY, ADMIN_KEY = "k-canary-of-acme", "admin-canary-0123456789"


@pytest.fixture(scope="module")
def page() -> Iterator[int]:
    """An empty page, at any path, for any site whose name leads here; returns its port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title><body></body>")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def open_gateway(
    _cloud_server: LoopbackCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Served]]:
    """Serves gateways with the loopback cloud alone, one for all tests that ask for the same settings."""
    model = CloudModelSettings(
        name=CLOUD, kind="openai", base_url=_cloud_server.base_url, api_key=SecretStr("sk-cloud")
    )
    made: list[tuple[ServerSettings, Served]] = []
    with ExitStack() as running:

        def open_(**server: Any) -> Served:
            wanted = ServerSettings(**server)
            for settings, served in made:
                if settings == wanted:
                    return served
            whole = Settings(
                models=(model,),
                ledger=LedgerSettings(path=tmp_path_factory.mktemp("browsers") / "ledger.db"),
                cache=CacheSettings(enabled=False),
                server=wanted,
            )
            made.append((wanted, running.enter_context(serving(Gateway(whole)))))
            return made[-1][1]

        yield open_


def fetched(tab: Tab, url: str, **options: Any) -> Any:
    """What a page's script gets of a request: its text, or the name of the error."""
    script = f"fetch({json.dumps(url)}, {json.dumps(options)}).then((r) => r.text()).catch((e) => e.name)"
    return tab.run(script)


# What a page may send without asking the server first (Fetch standard, "CORS-safelisted"), and what it may not.
WAYS: dict[str, dict[str, Any]] = {
    "plain text": {"method": "POST", "body": BODY, "headers": {"content-type": "text/plain"}},
    "a form's type": {
        "method": "POST",
        "body": BODY,
        "headers": {"content-type": "application/x-www-form-urlencoded"},
    },
    "without looking": {"method": "POST", "body": BODY, "mode": "no-cors"},
    "JSON": {"method": "POST", "body": BODY, "headers": {"content-type": "application/json"}},
    "with cookies": {"method": "POST", "body": BODY, "credentials": "include"},
    "no referrer": {"method": "POST", "body": BODY, "referrerPolicy": "no-referrer", "mode": "no-cors"},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_page_of_another_site_cannot_spend(
    tab: Tab, page: int, open_gateway: Callable[..., Served], cloud: LoopbackCloud, way: dict[str, Any]
) -> None:
    served = open_gateway()
    tab.open(f"http://evil.example:{page}/")
    fetched(tab, f"{served.base_url}/chat/completions", **way)
    assert cloud.requests == []
    # The same from a program is served: it was the page that was refused.
    assert plain_http.post(f"{served.base_url}/chat/completions", content=BODY).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_form_of_another_site_cannot_spend(
    tab: Tab, page: int, open_gateway: Callable[..., Served], cloud: LoopbackCloud, kind: str
) -> None:
    served = open_gateway()
    tab.open(f"http://evil.example:{page}/")
    # The trick by which a form's fields are JSON: the mark of equality is in a text.
    name, value = '{"model": "gpt-4.1", "messages": [{"role": "user", "content": "Hi', '"}]}'
    tab.run(
        f"""(() => {{ const form = document.createElement("form"), field = document.createElement("input");
        form.method = "POST"; form.enctype = {json.dumps(kind)};
        form.action = {json.dumps(served.base_url + "/chat/completions")};
        field.name = {json.dumps(name)}; field.value = {json.dumps(value)};
        form.append(field); document.body.append(form); form.submit(); }})()"""
    )
    tab.wait(f"location.href.startsWith({json.dumps(served.root)})")
    assert "cross_site" in tab.run("document.body.textContent")
    assert cloud.requests == []


def test_a_page_whose_name_was_made_to_point_here_is_refused(
    tab: Tab, open_gateway: Callable[..., Served], cloud: LoopbackCloud
) -> None:
    served = open_gateway()
    port = served.root.rpartition(":")[2]
    rebound = f"http://evil.example:{port}"
    for path in ("/v1/models", "/dashboard", "/dashboard/figures", "/metrics", "/v1/report"):
        tab.open(rebound + path)
        assert "unknown_host" in tab.run("document.body.textContent"), path
    # A probe tells it nothing; from there it is of one origin with the gateway, as far as the browser knows.
    tab.open(f"{rebound}/health")
    answer = fetched(tab, "/v1/chat/completions", method="POST", body=BODY)
    assert "unknown_host" in answer
    assert cloud.requests == []


def test_a_page_of_another_site_reads_nothing(
    tab: Tab, page: int, open_gateway: Callable[..., Served]
) -> None:
    served = open_gateway()
    tab.open(f"http://evil.example:{page}/")
    for path in ("/health", "/health/ready", "/openapi.json", "/v1/models", "/metrics", "/dashboard/figures"):
        assert fetched(tab, served.root + path) == "TypeError", path


def test_with_a_key_no_page_of_another_site_can_use_it(
    tab: Tab, page: int, open_gateway: Callable[..., Served], cloud: LoopbackCloud
) -> None:
    key = Key(key=SecretStr(KEY), tenant="acme")
    served = open_gateway(keys=(key,), admin_key=SecretStr(ADMIN_KEY))
    # Somebody has signed in to the dashboard in this browser.
    tab.open(f"{served.root}/dashboard")
    tab.run(f"document.getElementById('key').value = {json.dumps(ADMIN_KEY)}")
    tab.click("form button")
    assert tab.run("document.querySelector('form[action=\"/dashboard/logout\"]') !== null") is True
    tab.open(f"http://evil.example:{page}/")
    assert fetched(tab, f"{served.root}/dashboard/figures", credentials="include") == "TypeError"
    # A key in a header needs the server's consent, which it gives to nobody.
    asked = {"method": "POST", "body": BODY, "headers": {"authorization": f"Bearer {KEY}"}}
    assert fetched(tab, f"{served.base_url}/chat/completions", **asked) == "TypeError"
    assert fetched(tab, f"{served.root}/admin/reload", method="POST", credentials="include") == "TypeError"
    assert cloud.requests == []


def test_the_dashboard_is_in_no_other_sites_frame(
    tab: Tab, page: int, open_gateway: Callable[..., Served]
) -> None:
    served = open_gateway()
    tab.open(f"http://evil.example:{page}/")
    tab.run(
        f"""new Promise((done) => {{ const frame = document.createElement("iframe");
        frame.src = {json.dumps(served.root + "/dashboard")}; frame.onload = () => done();
        document.body.append(frame); }})"""
    )
    tab.wait("true")
    assert any("frame" in said for said in tab.errors), tab.errors


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/dashboard/figures", "/admin/reload", "/metrics"])
@pytest.mark.parametrize("with_keys", [False, True])
def test_no_consent_is_given_to_any_origin(
    open_gateway: Callable[..., Served], path: str, with_keys: bool
) -> None:
    keys = (Key(key=SecretStr(KEY)),) if with_keys else ()
    served = open_gateway(keys=keys)
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for origin in ("http://evil.example", "null", "http://localhost:3000"):
        for method in ("OPTIONS", "GET", "POST"):
            answer = plain_http.request(method, served.root + path, headers={"origin": origin, **asked})
            assert not any(name.startswith("access-control-") for name in answer.headers)


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/login"])
def test_pages_keep_to_themselves(open_gateway: Callable[..., Served], path: str) -> None:
    served = open_gateway(keys=(Key(key=SecretStr(KEY)),))
    method = "POST" if path.endswith("login") else "GET"
    answer = plain_http.request(
        method, served.root + path, data={"key": "wrong"} if method == "POST" else None
    )
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"


def test_a_session_is_not_for_scripts_nor_for_other_sites(open_gateway: Callable[..., Served]) -> None:
    served = open_gateway(keys=(Key(key=SecretStr(KEY)),))
    cookie = (
        plain_http.post(f"{served.root}/dashboard/login", data={"key": KEY}).headers["set-cookie"].lower()
    )
    assert {"httponly", "samesite=strict", "path=/dashboard"} <= {part.strip() for part in cookie.split(";")}
    assert KEY not in cookie


def test_a_form_of_another_site_signs_nobody_in_or_out(open_gateway: Callable[..., Served]) -> None:
    served = open_gateway(keys=(Key(key=SecretStr(KEY)),))
    for site in ("cross-site", "same-site"):
        for path in ("login", "logout"):
            answer = plain_http.post(
                f"{served.root}/dashboard/{path}", data={"key": KEY}, headers={"sec-fetch-site": site}
            )
            assert answer.status_code == 403
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "said",
    ["10.0.0.1", "127.0.0.1, 10.0.0.1", "10.0.0.1, 127.0.0.1", "evil.example", "::ffff:10.0.0.1", "unix:"],
)
def test_a_caller_behind_a_proxy_of_this_machine_is_not_this_machine(
    open_gateway: Callable[..., Served], cloud: LoopbackCloud, said: str
) -> None:
    served = open_gateway()
    answer = plain_http.post(
        f"{served.base_url}/chat/completions", content=BODY, headers={"x-forwarded-for": said}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_keys_configured")
    assert cloud.requests == []
