"""Pages from templates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from smallfirst.router.pages import render_page

PACKAGE = "some_package_with_pages"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / PACKAGE / "templates"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "t.html").write_text("<p>{{ name }}, {{ count | words }}</p>{{ made }}")
    monkeypatch.syspath_prepend(tmp_path)


def test_values_are_escaped_and_shown_by_the_filters() -> None:
    page = render_page(PACKAGE, "t.html", {"words": "{} times".format}, name="<b>", count=3)
    assert page.startswith("<p>&lt;b&gt;, 3 times</p>")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", page.rsplit(">", 1)[1])


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        render_page(PACKAGE, "t.html", {"words": str}, count=3)
