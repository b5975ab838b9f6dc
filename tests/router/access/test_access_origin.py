"""Pages of other sites, open in a browser on this machine, may not ask a gateway that needs no key."""

import json

import httpx
import pytest
from fixtures.door import USER, OpenDoor, new_key
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD
from starlette.datastructures import Headers

from smallfirst.router.access.origin import check_origin
from smallfirst.router.errors import Forbidden


def allowed(method: str = "POST", **sent: str) -> bool:
    headers = {name.replace("_", "-"): value for name, value in sent.items()}
    try:
        check_origin(Headers({"host": "127.0.0.1:4100", **headers}), method=method, own_name="box")
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example:4100",
        "http://192.168.1.7",
        "https://[::2]",
        "https://[broken",
        "null",
        "",
    ],
)
def test_a_page_of_another_site_may_not_ask(origin: str) -> None:
    assert not allowed(origin=origin)
    assert not allowed("GET", origin=origin)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "http://127.0.0.1:4100",
        "http://[::1]:8000",
        "http://app.localhost",
        "chrome-extension://abcdefgh",
        "vscode-webview://1f2e",
        "tauri://localhost",
    ],
)
def test_pages_and_applications_of_this_machine_may(origin: str) -> None:
    assert allowed(origin=origin)


@pytest.mark.parametrize("host", ["127.0.0.1:4100", "[::1]:4100", "localhost", "LOCALHOST:80", "box:4100"])
def test_programs_that_are_no_browsers_may(host: str) -> None:
    assert allowed(host=host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4100", "localhost.evil.example", "[broken", ""]
)
def test_a_name_that_was_made_to_point_here_is_not_ours(host: str) -> None:
    assert not allowed(host=host)
    assert not allowed("GET", host=host, origin=f"http://{host}", sec_fetch_site="same-origin")


def test_an_address_cannot_be_made_to_point_here() -> None:
    assert allowed(host="10.0.0.5:4100")


def test_where_a_browser_sends_no_origin_it_says_otherwise_that_it_is_another_site() -> None:
    assert not allowed("GET", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
    assert not allowed("POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert allowed("GET", sec_fetch_site="none", sec_fetch_mode="navigate")


def test_a_link_to_a_page_of_ours_may_be_followed() -> None:
    assert allowed("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate")


def ask(base_url: str, headers: dict[str, str]) -> httpx.Response:
    """Ask as a page's `fetch` does that needs no consent of ours: as plain text."""
    body = json.dumps({"model": CLOUD, "messages": [USER]})
    return httpx.post(
        f"{base_url}/chat/completions", content=body, headers={"content-type": "text/plain", **headers}
    )


PAGE = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}


def test_a_page_of_another_site_spends_nothing_where_no_key_is_needed(
    open_door: OpenDoor, cloud: LoopbackCloud
) -> None:
    door = open_door()
    refused = ask(door.served.base_url, PAGE)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "cross_site")
    rebound = ask(door.served.base_url, {"host": "evil.example:4100"})
    assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "unknown_host")
    assert cloud.requests == []
    assert ask(door.served.base_url, {}).status_code == 200


def test_with_a_key_a_page_may_ask_from_anywhere(open_door: OpenDoor) -> None:
    made = new_key()
    door = open_door(made)
    assert ask(door.served.base_url, PAGE | {"authorization": f"Bearer {made.secret}"}).status_code == 200
    assert ask(door.served.base_url, PAGE).status_code == 401
