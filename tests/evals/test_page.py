"""The page: whole, self-contained, and the same in words as in pictures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from smallfirst.evals.page import Scale, render

PAGE: dict[str, Any] = {
    "title": "Router against <GPT>",
    "x": "share of requests to the strong model",
    "frontiers": [{"name": "router", "points": [[0.0, 0.5], [0.5, 0.75], [1.0, 0.8]]}],
    "marks": [
        {"name": "always weak & cheap", "x": 0.0, "y": 0.5, "y_95": [0.45, 0.55]},
        {"name": "always strong", "x": 1.0, "y": 0.8, "y_95": None},
    ],
    "reliability": [{"name": "weak", "bins": [[0.25, 0.3, 40], [0.5, 0.0, 0], [0.75, 0.7, 60]]}],
    "tables": [
        {"title": "By subset", "columns": ["subset", "n", "APGR"], "rows": [["mmlu", 5541, 0.66789], ["x", 1, None]]},
    ],
}  # fmt: skip


class Page(HTMLParser):
    """Collects tags, attributes and texts, and checks that every tag is closed."""

    EMPTY = frozenset({"meta", "path", "line", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    def count(self, tag: str, **attributes: str) -> int:
        return sum(
            name == tag and attributes.items() <= {k: v or "" for k, v in attrs.items()}.items()
            for name, attrs in self.tags
        )


def test_every_tag_is_closed_and_names_are_escaped() -> None:
    page = Page(render(PAGE))
    assert page.open == []
    assert "Router against <GPT>" in page.texts
    assert page.count("gpt") == 0


def test_the_page_needs_no_network_and_runs_no_script() -> None:
    html = render(PAGE)
    assert re.findall(r"https?://|//[a-z]|url\(|@import|src=|<script|<link|\son\w+=", html) == []


def test_each_picture_has_a_title_and_its_numbers_as_a_table() -> None:
    page = Page(render(PAGE))
    assert page.count("svg", role="img") == 2
    labelled = [attrs["aria-labelledby"] for tag, attrs in page.tags if attrs.get("role") == "img"]
    assert all(page.count("title", id=str(name)) == 1 for name in labelled)
    assert page.count("path", **{"class": "mark"}) == 2 + 2 + 2 + 1, (
        "marks and their keys, points and their key"
    )
    assert "always weak & cheap: 0.5 at 0, 95 %: 0.45 to 0.55" in page.texts
    assert "weak: 0.75 claimed, 0.7 came, 60 rows" in page.texts
    assert page.count("table") == 4
    assert page.count("div", tabindex="0") == 3, "what scrolls can be reached by keyboard"


def test_bins_without_rows_are_left_out() -> None:
    assert not any("0 rows" in text for text in Page(render(PAGE)).texts if text.startswith("weak: 0.5"))


def test_numbers_are_short_and_what_is_missing_is_a_dash() -> None:
    texts = Page(render(PAGE)).texts
    assert texts[texts.index("mmlu") :][:6] == ["mmlu", "5,541", "0.6679", "x", "1", "-"]


@pytest.mark.parametrize("missing", ["frontiers", "marks", "reliability", "tables"])
def test_a_page_may_lack_any_part(missing: str) -> None:
    assert Page(render({**PAGE, missing: []})).open == []


def test_a_page_with_nothing_says_so() -> None:
    assert "There is nothing to show." in Page(render({"title": "none"})).texts


def test_one_mark_at_no_cost_is_a_picture() -> None:
    mark = {"name": "free", "x": 0.0, "y": 1.0, "y_95": [1.0, 1.0]}
    page = Page(render({"title": "t", "x": "US dollars per 1,000 requests", "marks": [mark]}))
    assert page.count("svg", role="img") == 1


def test_ticks_are_round_and_inside_the_axis() -> None:
    scale = Scale(0.0, 0.0123, 0.0, 100.0)
    assert scale.ticks(str) == [
        (0.0, "0.0"), (20.3, "0.0025"), (40.7, "0.005"), (61.0, "0.0075"), (81.3, "0.01"),
    ]  # fmt: skip
    assert [said for _, said in Scale(0.42, 0.87, 100.0, 0.0).ticks("{:.1f}".format)] == [
        "0.5",
        "0.6",
        "0.7",
        "0.8",
    ]


def test_a_long_frontier_is_thinned_and_keeps_its_ends() -> None:
    points = [[at / 5000, at / 5000] for at in range(5001)]
    html = render({**PAGE, "frontiers": [{"name": "long", "points": points}]})
    assert len(html) < 40_000
    (path,) = re.findall(r'class="way" d="(M[^"]{200,})"', html)
    assert path.startswith("M60.0,")
    assert path.split()[-1].startswith("L446.0,")
