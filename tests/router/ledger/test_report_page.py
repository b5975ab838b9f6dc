"""The page of a report: it says what is known, what is not, and how it is known."""

import json
import re
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fixtures.office import fill

from smallfirst.router.errors import LedgerError
from smallfirst.router.ledger import AttemptRecord, Entry, Ledger, store_at
from smallfirst.router.ledger.page import SECTIONS, dollars, html, read_evals, sections
from smallfirst.router.ledger.render import table
from smallfirst.router.ledger.report import Report, make_report
from smallfirst.router.settings import LedgerSettings

NOW = datetime(2026, 5, 2, 12, tzinfo=UTC)
HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(1)>"
EMPTY = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "wbr"}


def make(path: Path, **fields: Any) -> Report:
    return make_report(
        store_at(path), **{"since": None, "until": None, "by": ("model",), "prices": "p 1", **fields}
    )


def written(path: Path, *entries: Entry) -> Report:
    ledger = Ledger(LedgerSettings(path=path))
    for entry in entries:
        ledger.record(entry)
    ledger.close()
    return make(path)


def entry(at: int = 0, **fields: Any) -> Entry:
    usual: dict[str, Any] = {
        "started_at": NOW.timestamp() + at,
        "duration_ms": 5.0,
        "route": "cloud",
        "model": "big",
        "input_tokens": 10,
    }
    return Entry(request_id=f"r{at}", **{**usual, **fields})


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Report:
    path = tmp_path_factory.mktemp("office") / "ledger.db"
    fill(path, 600, time.time())
    return make(path, by=("agent", "tag"))


class Tags(HTMLParser):
    """What is open at the end; attributes by name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_its_names_are_unique(office: Report) -> None:
    tags = Tags(html(office))
    assert tags.open == []
    names = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(names) == len(set(names))
    pointed = [attributes.get("aria-labelledby") for _, attributes in tags.seen]
    assert {name for name in pointed if name} <= set(names)
    assert [tag for tag, attributes in tags.seen if "style" in attributes] == []


def test_headings_are_in_order_and_the_language_is_said(office: Report) -> None:
    tags = Tags(html(office)).seen
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert dict(tags)["html"] == {"lang": "en"}


def test_every_picture_says_what_it_shows_and_has_a_table(office: Report) -> None:
    shown = sections(office)
    for name in ("cost", "routes", "latency", "savings", "quality"):
        assert re.search(r'<svg[^>]* role="img" aria-label="[^"]{20,}"', shown[name]), name
        assert "<table>" in shown[name], name


def test_all_sections_are_there_in_their_order(office: Report) -> None:
    assert tuple(sections(office)) == SECTIONS
    found = re.findall(r'<section[^>]* id="s-(\w+)"', html(office))
    assert tuple(found) == SECTIONS


def test_labels_are_shown_as_text(tmp_path: Path) -> None:
    attempt = AttemptRecord(HOSTILE, "local", "discarded", 0, 1.0, 1, 1, 0.0, HOSTILE)
    fields: dict[str, Any] = {
        "agent": HOSTILE,
        "model": HOSTILE,
        "tags": (HOSTILE,),
        "tenant": HOSTILE,
        "cost_usd": 1.0,
    }
    written(tmp_path / "l.db", entry(attempts=(attempt,), **fields))
    page = html(make(tmp_path / "l.db", by=("agent", "model", "tag", "tenant"), tenant=HOSTILE))
    assert HOSTILE not in page
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_unknown_cost_is_said_and_is_not_nothing(tmp_path: Path) -> None:
    report = written(tmp_path / "l.db", entry(cost_usd=None))
    shown = sections(report)
    assert "the price of 1 of 1 call is not known" in shown["summary"]
    assert "<dt>Cost</dt><dd><b>unknown</b>" in shown["summary"]
    assert "<b>unknown</b>nothing that could be compared" in shown["summary"]
    assert "No request in this time can be compared" in shown["cost"]
    assert "No request in this time can be compared" in shown["savings"]
    assert "unknown" in table(report)
    assert "$0 " not in table(report)


def test_what_is_partly_unknown_has_both_parts(tmp_path: Path) -> None:
    report = written(
        tmp_path / "l.db", entry(0, cost_usd=None), entry(1, cost_usd=2.5, baseline_cost_usd=3.0)
    )
    assert "$2.5000 +1 unknown" in table(report)
    assert "1 call of unknown cost: no sum" in table(report)
    assert "<b>$2.50</b>and 1 call of unknown cost" in sections(report)["summary"]


def test_estimates_are_marked(tmp_path: Path) -> None:
    report = written(tmp_path / "l.db", entry(cost_usd=2.5, baseline_cost_usd=3.0, usage_estimated=True))
    assert "≈$2.5000" in table(report)
    assert "≈ token counts of 1 request are estimates of ours" in table(report)
    assert "<b>≈$2.50</b>" in sections(report)["summary"]


def test_spending_more_than_all_cloud_is_not_called_saving(tmp_path: Path) -> None:
    shown = sections(written(tmp_path / "l.db", entry(cost_usd=3.0, baseline_cost_usd=1.0)))["summary"]
    assert "<dt>Dearer than all-cloud</dt><dd><b>$2</b>" in shown


def test_an_empty_time_says_what_to_do(tmp_path: Path) -> None:
    written(tmp_path / "l.db", entry())
    for report in (None, make(tmp_path / "l.db", until=datetime(2020, 1, 1, tzinfo=UTC))):
        shown = sections(report)
        assert list(shown) == ["empty"]
        assert "/v1/chat/completions" in shown["empty"]


def test_many_groups_are_cut_and_that_is_said(tmp_path: Path) -> None:
    report = written(tmp_path / "l.db", *(entry(at, model=f"m{at}", cost_usd=1.0) for at in range(130)))
    assert "30 more groups are not shown" in sections(report)["groups"]


def test_results_of_evals_are_shown_beside_it(tmp_path: Path, office: Report) -> None:
    file = tmp_path / "eval.json"
    mark = {"name": "auto <b>", "x": 1.5, "y": 0.812, "y_95": [0.79, 0.83]}
    plain = {"name": "small", "x": 0.0, "y": 0.5, "y_95": None}
    file.write_text(json.dumps({"page": {"title": "suite", "x": "US dollars", "marks": [mark, plain]}}))
    shown = sections(office, evals=read_evals(file))["quality"]
    assert "auto &lt;b&gt;" in shown
    assert "<td>0.812</td><td>0.790 to 0.830</td>" in shown
    assert "<td>0.500</td><td>-</td>" in shown


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"page": {"marks": [{"name": "a"}]}}'])
def test_what_is_no_report_of_an_eval_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "eval.json").write_text(text)
    with pytest.raises(LedgerError, match="no report of an eval"):
        read_evals(tmp_path / "eval.json")
    with pytest.raises(LedgerError, match="cannot be read"):
        read_evals(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "$0"),
        (20, "$20"),
        (1234.567, "$1,234.57"),
        (0.5, "$0.50"),
        (0.0123, "$0.012"),
        (-3.5, "-$3.50"),
        (4e-5, "$0.000040"),
    ],
)
def test_money_has_the_digits_that_count(value: float, said: str) -> None:
    assert dollars(value) == said
