"""The dashboard and the page of a report in a real headless Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.chromium import Tab
from fixtures.office import fill
from fixtures.serving import CLOUD, HARD, MakeSettings, Served, serving
from pydantic import SecretStr

from smallfirst.router import Gateway
from smallfirst.router.ledger import AttemptRecord, Entry, Ledger, store_at
from smallfirst.router.ledger.page import SECTIONS, html
from smallfirst.router.ledger.report import make_report
from smallfirst.router.settings import CloudModelSettings, Key, LedgerSettings, ServerSettings, Settings

HOSTILE = '<img src=x onerror="window.struck=1"><script>window.struck=1</script>\'"&'
PHONE: dict[str, Any] = {"width": 360, "height": 780, "phone": True}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"dark": True},
    "phone": PHONE,
    "phone-dark": {**PHONE, "dark": True},
}

# Texts whose contrast with what is behind them is under what WCAG 2.2 asks for at level AA (1.4.3).
WEAK = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const linear = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const node of document.querySelectorAll("body *")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    if (["SCRIPT", "STYLE", "TITLE"].includes(node.tagName) || !node.checkVisibility()) continue;
    const style = getComputedStyle(node), large = parseFloat(style.fontSize) >= 24;
    const ink = light(parse(node instanceof SVGElement ? style.fill : style.color)), paper = light(behind(node));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < (large ? 3 : 4.5)) weak.push([node.tagName, ratio, node.textContent.slice(0, 40)]);
  }
  return weak;
})()"""

# What a keyboard should come to, and what it has come to.
NAME = "(node.id || node.getAttribute('href') || node.textContent.trim())"
REACHABLE = f"""[...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')]
  .filter((node) => node.checkVisibility()).map((node) => {NAME})"""
FOCUSED = f"""(() => {{ const node = document.activeElement;
  const seen = node.matches(":focus-visible") && getComputedStyle(node).outlineStyle !== "none";
  return node === document.body ? null : [{NAME}, seen]; }})()"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Days of an office, with labels that somebody hostile chose."""
    path = tmp_path_factory.mktemp("browser") / "ledger.db"
    fill(path, 600, time.time(), length=6.0)
    made = Ledger(LedgerSettings(path=path))
    attempts = (AttemptRecord(HOSTILE, "local", "discarded", 0, 1.0, 1, 1, 0.0, HOSTILE),)
    for at in range(3):
        made.record(
            Entry(
                request_id=f"hostile{at}",
                started_at=time.time() - at,
                duration_ms=9.0,
                agent=HOSTILE,
                tags=(HOSTILE,),
                tenant=HOSTILE,
                model=HOSTILE,
                route="cloud",
                cost_usd=9.0,
                baseline_cost_usd=10.0,
                attempts=attempts,
            )
        )
    made.close()
    return path


@pytest.fixture(scope="module")
def office(ledger: Path) -> Iterator[Served]:
    cloud = CloudModelSettings(name=CLOUD, kind="openai", base_url="http://127.0.0.1:9/v1")
    with serving(Gateway(Settings(models=(cloud,), ledger=LedgerSettings(path=ledger)))) as served:
        yield served


@pytest.fixture(scope="module")
def static(ledger: Path) -> str:
    """The URL of the page that `smallfirst report --format html` writes."""
    file = ledger.with_name("report.html")
    report = make_report(store_at(ledger), since=None, until=None, by=("agent", "tag"), prices="p 1")
    file.write_text(html(report), encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize("looks", LOOKS.values(), ids=LOOKS)
def test_it_is_readable_in_every_light_and_on_a_phone(
    tab: Tab, office: Served, looks: dict[str, Any]
) -> None:
    tab.looks(**looks)
    tab.open(f"{office.root}/dashboard?range=7d&by=agent")
    tab.wait("document.getElementById('state').textContent === 'Live'")
    assert tab.run(OVERFLOW) == 0
    tab.run("document.querySelectorAll('details').forEach((each) => each.open = true)")
    assert tab.run(OVERFLOW) == 0
    assert tab.run(WEAK) == []
    names = tab.run("[...document.querySelectorAll('#figures > section')].map((each) => each.id)")
    assert names == [f"s-{name}" for name in SECTIONS]
    assert (tab.errors, tab.origins()) == ([], {office.root})


@pytest.mark.parametrize("looks", LOOKS.values(), ids=LOOKS)
def test_the_page_of_a_report_is_as_readable_and_asks_for_nothing(
    tab: Tab, static: str, looks: dict[str, Any]
) -> None:
    tab.looks(**looks)
    tab.open(static)
    tab.run("document.querySelectorAll('details').forEach((each) => each.open = true)")
    assert tab.run(OVERFLOW) == 0
    assert tab.run(WEAK) == []
    assert tab.errors == []
    assert [url for url in tab.requested if not url.startswith("data:")] == [static]


@pytest.mark.parametrize("looks", [LOOKS["light"], LOOKS["phone"]], ids=["desk", "phone"])
def test_letters_in_pictures_are_large_enough(tab: Tab, static: str, looks: dict[str, Any]) -> None:
    tab.looks(**looks)
    tab.open(static)
    heights = tab.run(
        "[...document.querySelectorAll('.chart svg')].filter((each) => each.checkVisibility())"
        ".map((each) => each.getBoundingClientRect().width / each.viewBox.baseVal.width * 13)"
    )
    assert len(heights) >= 6
    assert all(11 <= height <= 17 for height in heights), heights


@pytest.mark.parametrize("looks", [LOOKS["light"], LOOKS["phone"]], ids=["desk", "phone"])
def test_a_keyboard_reaches_everything_and_sees_where_it_is(
    tab: Tab, office: Served, looks: dict[str, Any]
) -> None:
    tab.looks(**looks)
    tab.open(f"{office.root}/dashboard?range=7d")
    tab.wait("document.getElementById('state').textContent === 'Live'")
    tab.run("document.getElementById('pause').click()")
    expected = tab.run(REACHABLE)
    reached = []
    for _ in range(len(expected) + 3):
        tab.press("Tab")
        found = tab.run(FOCUSED)
        if found is None:
            break
        name, seen = found
        assert seen, f"{name} has the focus, and it cannot be seen"
        reached.append(name)
    assert reached == expected
    assert reached[0] == "#main"
    assert {"/dashboard?range=1h&by=model", "/dashboard?range=7d&by=agent", "pause", "m-cost"} <= set(reached)


def test_the_skip_link_leads_to_the_figures(tab: Tab, office: Served) -> None:
    tab.open(f"{office.root}/dashboard?range=7d")
    tab.press("Tab")
    assert tab.run("document.activeElement.getBoundingClientRect().left") >= 0
    tab.press("Enter")
    tab.wait("document.activeElement.id === 'main'")
    tab.press("Tab")
    assert tab.run("document.getElementById('main').contains(document.activeElement)") is True


def test_labels_run_nothing(tab: Tab, office: Served, static: str) -> None:
    for by in ("agent", "tag", "tenant", "model"):
        tab.open(f"{office.root}/dashboard?range=all&by={by}")
        tab.wait("document.getElementById('state').textContent === 'Live'")
        assert (
            tab.run("document.getElementById('s-groups').textContent.includes('<img src=x onerror=')") is True
        )
        assert tab.run("window.struck") is None
        assert tab.run("document.images.length") == 0
    tab.open(static)
    assert tab.run("document.images.length + document.scripts.length") == 0
    assert tab.errors == []


def test_without_scripts_all_is_there_and_links_lead_on(tab: Tab, office: Served) -> None:
    tab.scripts(on=False)
    tab.open(f"{office.root}/dashboard?range=24h")
    assert tab.run("document.getElementById('loading').checkVisibility()") is False
    assert tab.run("document.getElementById('pause').checkVisibility()") is False
    assert "reload" in tab.run("document.getElementById('state').textContent")
    tab.click("a[href='/dashboard?range=7d&by=model']")
    assert tab.run("location.search") == "?range=7d&by=model"
    assert tab.run("document.querySelector('nav a[aria-current]').textContent") == "7d"
    tab.click("a[href='/dashboard?range=7d&by=agent']")
    assert tab.run("document.getElementById('h-groups').textContent") == "By agent"


REQUESTS = "Number(document.querySelectorAll('#s-summary dd b')[2].textContent.replace(',', ''))"


def ask(served: Served, agent: str) -> None:
    body = {"messages": [{"role": "user", "content": f"{HARD} {agent}"}], "metadata": {"agent": agent}}
    httpx.post(f"{served.base_url}/chat/completions", json=body, timeout=30).raise_for_status()


def test_a_new_request_is_shown_while_one_looks(
    serve: Callable[[Gateway], Served], make_settings: MakeSettings, tab: Tab
) -> None:
    served = serve(Gateway(make_settings(local=False)))
    tab.open(f"{served.root}/dashboard?by=agent")
    assert "No requests" in tab.run("document.getElementById('figures').textContent")
    ask(served, "first")
    tab.wait("document.getElementById('s-summary') !== null")
    assert tab.run(REQUESTS) == 1
    tab.run("document.getElementById('d-cost').open = true")
    tab.run("document.getElementById('m-cost').focus()")
    ask(served, "second")
    tab.wait(f"{REQUESTS} === 2")
    assert tab.run("document.getElementById('d-cost').open") is True
    assert tab.run("document.activeElement.id") == "m-cost"
    assert tab.run("document.getElementById('s-groups').textContent.includes('second')") is True
    tab.run("document.getElementById('pause').click()")
    assert tab.run("document.getElementById('state').textContent") == "Paused"
    ask(served, "third")
    time.sleep(3)
    assert tab.run(REQUESTS) == 2
    tab.run("document.getElementById('pause').click()")
    tab.wait(f"{REQUESTS} === 3")
    assert (tab.errors, tab.origins()) == ([], {served.root})


def test_one_signs_in_with_the_keyboard_and_out_again(
    ledger: Path, serve: Callable[[Gateway], Served], tab: Tab
) -> None:
    cloud = CloudModelSettings(name=CLOUD, kind="openai", base_url="http://127.0.0.1:9/v1")
    key = Key(key=SecretStr("k-acme"), tenant="acme", admin=False)
    settings = Settings(
        models=(cloud,), ledger=LedgerSettings(path=ledger), server=ServerSettings(keys=(key,))
    )
    served = serve(Gateway(settings))
    tab.open(f"{served.root}/dashboard")
    assert tab.run("document.activeElement.id") == "key"
    for typed, leads_to in (("wrong", "#said"), ("k-acme", "#s-summary")):
        tab.call("Input.insertText", text=typed)
        tab.press("Enter")
        tab.wait(f"document.querySelector({json.dumps(leads_to)}) !== null")
        assert tab.run(WEAK) == []
    tab.wait("document.getElementById('state').textContent === 'Live'")
    assert "Tenant acme" in tab.run("document.querySelector('header').textContent")
    assert tab.run("document.cookie") == ""
    tab.click("form[action='/dashboard/logout'] button")
    assert tab.run("document.getElementById('key') !== null") is True
    assert tab.origins() == {served.root}


def test_there_is_something_to_see_before_the_figures_are_made(tab: Tab, office: Served) -> None:
    tab.open(f"{office.root}/dashboard?range=all")
    painted = tab.wait("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    assert painted > 0
    head = httpx.get(f"{office.root}/dashboard?range=all").text.split('<section class="full plain"')[0]
    assert "Adding up the ledger" in head
    assert "<nav" in head
