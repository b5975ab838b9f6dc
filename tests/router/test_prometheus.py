"""Metrics: named as documented, their labels few; dashboards and alerts use what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fixtures.local_model import settled
from fixtures.serving import CLOUD, LOCAL, MakeGateway, MakeSettings, Served
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from smallfirst.router.access.gate import AccessHealth
from smallfirst.router.errors import RequestError
from smallfirst.router.gateway import Gateway
from smallfirst.router.ledger import AttemptRecord, Entry
from smallfirst.router.metrics import Metrics
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.server.bounds import CUT_REASONS, SHED_REASONS, Load
from smallfirst.router.telemetry.labels import CODES

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "operations.md"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "smallfirst.json"

# What a histogram is scraped as.
SUFFIXES = ("_bucket", "_sum", "_count")


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Name -> type and labels, from the tables in the document."""
    text = DOCUMENT.read_text().partition("<!-- metrics:")[2].partition("<!-- /metrics -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\|", text, re.MULTILINE)
    return {name: (kind, frozenset(filter(None, labels.strip().split(", ")))) for name, kind, labels in rows}


def attempt(**fields: Any) -> AttemptRecord:
    given = {"outcome": "ok", "retries": 1, "input_tokens": 100, "output_tokens": 40, "cost_usd": 0.25}
    return AttemptRecord(**{"model": CLOUD, "tier": "cloud", "duration_ms": 800.0, **given, **fields})


def entry(*attempts: AttemptRecord, **fields: Any) -> Entry:
    given = {"request_id": "r", "started_at": 0.0, "duration_ms": 900.0, "route": "cloud", "model": CLOUD}
    return Entry(**{**given, "attempts": attempts, **fields})


def scraped(metrics: Metrics) -> dict[str, Metric]:
    """What is scraped by its name, as Prometheus reads it."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {f"{each.name}_total" if each.type == "counter" else each.name: each for each in families}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in scraped(metrics).values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, (name, labels)
    return found[0]


@pytest.fixture
async def whole(make_gateway: MakeGateway) -> Gateway:
    """A gateway in which every metric has a value: one with a risk budget, a cache and a local model."""
    gateway = make_gateway(policies={"bounded": {"max_quality_loss": 0.05}})
    await gateway.complete("Hello", model=LOCAL, max_tokens=2)
    early = attempt(outcome="unused", early=True, cost_usd=None)
    hedge = attempt(outcome="unused", early=True, hedge=True)
    turned_down = attempt(outcome="discarded", error_code="unsure")
    failed = attempt(outcome="timeout", error_code="timeout")
    gateway.metrics.observe(entry(early, hedge, turned_down, failed, attempt(), ttft_ms=100.0))
    gateway.metrics.observe(entry(status="error", error_code="timeout"))
    gateway.metrics.refused("requests")
    gateway.access = lambda: AccessHealth(keys=True, limiter="local", limits=True)
    gateway.load = lambda: Load(
        1, 2, 3, 0.0, 0.0, dict.fromkeys(SHED_REASONS, 0), dict.fromkeys(CUT_REASONS, 0)
    )
    return gateway


async def test_what_is_scraped_is_what_is_documented(whole: Gateway) -> None:
    families = {
        name: family for name, family in scraped(whole.metrics).items() if not name.startswith("process_")
    }
    found = {
        name: (family.type, frozenset(label for s in family.samples for label in s.labels) - {"le"})
        for name, family in families.items()
    }
    assert found == documented()


async def test_every_metric_has_a_help(whole: Gateway) -> None:
    assert [family.name for family in scraped(whole.metrics).values() if not family.documentation] == []


async def test_no_label_is_of_a_callers_choosing(whole: Gateway) -> None:
    """Tenants, agents, sessions, tags and an upstream's own error codes may be any number."""
    before = len(whole.metrics.render().splitlines())
    for at in range(50):
        free = {"tenant": f"t{at}", "agent": f"a{at}", "session": f"s{at}", "tags": (f"g{at}",)}
        named = {"requested_model": f"m{at}", "policy": f"p{at}", "task": f"k{at}", "request_id": f"r{at}"}
        failed = attempt(outcome="error", error_code=f"code-{at}")
        whole.metrics.observe(entry(failed, status="error", error_code=f"code-{at}", **free, **named))
    # One more code (`other`), one more outcome, one more status: each a line.
    assert len(whole.metrics.render().splitlines()) <= before + 3


def test_error_codes_are_a_closed_set() -> None:
    assert set(_codes_in_the_source()) <= CODES


def _codes_in_the_source() -> Iterator[str]:
    def of(kind: type[RequestError]) -> Iterator[str]:
        if kind.code is not None:
            yield kind.code
        for below in kind.__subclasses__():
            yield from of(below)

    yield from of(RequestError)
    for path in (ROOT / "router").rglob("*.py"):
        for code in re.findall(r'(?<![\w_])code="([a-z_]+)"', path.read_text()):
            if code != "shadow":  # an entry's reason
                yield code


def test_tokens_and_cost_are_those_of_all_attempts() -> None:
    metrics = Metrics(dict)
    local = attempt(
        model=LOCAL, tier="local", outcome="discarded", error_code="unsure", cost_usd=0.0, retries=0
    )
    cloud = attempt(cached_tokens=30, cache_write_tokens=7, reasoning_tokens=11)
    metrics.observe(entry(local, cloud))
    types = ("input", "output", "cached", "cache_write", "reasoning")
    assert [value(metrics, "smallfirst_tokens_total", model=CLOUD, type=kind) for kind in types] == [
        100,
        40,
        30,
        7,
        11,
    ]
    assert value(metrics, "smallfirst_tokens_total", model=LOCAL, type="input") == 100
    assert value(metrics, "smallfirst_cost_usd_total", model=CLOUD) == 0.25
    assert value(metrics, "smallfirst_cost_usd_total", model=LOCAL) == 0
    assert value(metrics, "smallfirst_retries_total", model=CLOUD) == 1


def test_an_unknown_cost_is_counted_and_not_zero() -> None:
    metrics = Metrics(dict)
    metrics.observe(entry(attempt(cost_usd=None)))
    assert value(metrics, "smallfirst_unknown_cost_total", model=CLOUD) == 1
    assert scraped(metrics)["smallfirst_cost_usd_total"].samples == []


def test_our_own_requests_cost_money_and_are_none_of_the_callers() -> None:
    metrics = Metrics(dict)
    metrics.observe(entry(attempt(), kind="shadow"))
    assert value(metrics, "smallfirst_cost_usd_total", model=CLOUD) == 0.25
    assert scraped(metrics)["smallfirst_requests_total"].samples == []


async def test_requests_in_flight_come_and_go(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(local=False)
    stream = await gateway.stream("Hello", model=CLOUD)
    assert value(gateway.metrics, "smallfirst_requests_in_flight") == 1
    assert [chunk async for chunk in stream]
    assert value(gateway.metrics, "smallfirst_requests_in_flight") == 0


async def test_who_fails_or_leaves_is_not_in_flight_any_more(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(local=False)
    with pytest.raises(RequestError):
        await gateway.complete("Hello", model="no-such-model")
    stream = await gateway.stream("Hello", model=CLOUD)
    await anext(aiter(stream))
    await stream.aclose()
    assert value(gateway.metrics, "smallfirst_requests_in_flight") == 0


async def test_a_local_model_tells_what_it_does(make_gateway: MakeGateway, local_model: LocalModel) -> None:
    gateway = make_gateway()
    before = await settled(local_model)
    await gateway.complete("Say something long.", model=LOCAL, max_tokens=24)
    after = await settled(local_model)
    assert 1 <= after.tokens_made - before.tokens_made <= 24
    assert after.tokens_read > before.tokens_read
    assert (
        value(gateway.metrics, "smallfirst_local_tokens_total", model=LOCAL, type="made") == after.tokens_made
    )
    assert value(gateway.metrics, "smallfirst_local_kv_tokens", model=LOCAL) == 4096
    assert 0 < value(gateway.metrics, "smallfirst_local_kv_tokens_used", model=LOCAL) <= 4096
    assert value(gateway.metrics, "smallfirst_local_busy", model=LOCAL) == 0
    assert value(gateway.metrics, "smallfirst_local_memory_bytes", model=LOCAL) > 50_000_000


def test_the_server_serves_them(cloud_served: Served) -> None:
    answer = httpx.get(f"{cloud_served.root}/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "smallfirst_build_info" in answer.text


def test_a_scrape_does_not_load_a_model(make_settings: MakeSettings) -> None:
    gateway = Gateway(make_settings())
    assert value(gateway.metrics, "smallfirst_local_loaded", model=LOCAL) == 0
    assert not gateway.models[LOCAL].loaded  # type: ignore[attr-defined]


# --- what is made of them ---------------------------------------------------------------------------------------


def names_in(expression: str) -> set[str]:
    """The metrics of an expression, histograms by their own name."""
    found = set(re.findall(r"\b(?:smallfirst|process)_\w+", expression))
    return {next((n.removesuffix(s) for s in SUFFIXES if n.endswith(s)), n) for n in found}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[tuple[str, str]]:
    """(where, expression) of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(p["title"], target["expr"]) for p in panels for target in p.get("targets", ())]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_uses_metrics_that_exist(rule: dict[str, Any]) -> None:
    used = names_in(rule["expr"])
    assert used
    assert used <= documented().keys()
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("page", "ticket")


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_a_panel_uses_metrics_that_exist(where: str, expression: str) -> None:
    used = names_in(expression)
    assert used
    assert used <= documented().keys() | {"process_resident_memory_bytes"}


@pytest.mark.parametrize(
    "expression", [rule["expr"] for rule in alerts()] + [each for _, each in expressions()]
)
def test_an_expression_selects_by_labels_that_exist(expression: str) -> None:
    """`instance` and `le` are Prometheus's own."""
    for name, selected in re.findall(r"(smallfirst_\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|=|!=|!~)", selected))
        plain = next(iter(names_in(name)))
        assert labels <= documented()[plain][1] | {"instance", "le"}
    assert expression.count("(") == expression.count(")")


def test_a_share_is_0_and_not_empty_where_nothing_was_counted_yet() -> None:
    """A counter with labels begins with its first event: what failed would be `No data` until something does."""
    shares = [each for _, each in expressions() if re.search(r'(status|route)=~?\\?"', each)]
    assert len(shares) == 2
    assert [each for each in shares if "or vector(0))" not in each.partition(" / ")[0]] == []


def test_the_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
