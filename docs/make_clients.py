"""Writes the tables of clients in README.md and docs/clients.md from what their tests said.

    make test-clients
    .venv/bin/python docs/make_clients.py build/clients.xml

A cell is `yes` if all its tests passed, `no` if one failed, `skipped` if none ran, and `-` where there is no test.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
START, END = "<!-- clients: made by docs/make_clients.py -->", "<!-- end of clients -->"
# Columns, and how the names of their tests begin.
ASPECTS = {
    "plain": "plain",
    "stream": "streamed",
    "tools": "tools",
    "structured": "structured",
    "errors": "errors",
    "embeddings": "embeddings",
}
ERRORS = {
    "unknown model": "errors_of_unknown_models",
    "bad field": "errors_name_the_field",
    "broken stream": "errors_of_broken_streams",
}
PAGES = {ROOT / "README.md": ASPECTS, ROOT / "docs" / "clients.md": ERRORS}


def matrix(xml: str, columns: Mapping[str, str] = ASPECTS) -> str:
    """Return the table of a JUnit report, sorted by client.

    Args:
        xml: The report.
        columns: The columns' heads, and how the names of their tests begin.

    Raises:
        ValueError: The report has no test of a client.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    versions: dict[str, str] = {}
    for case in ElementTree.fromstring(xml).iter("testcase"):  # noqa: S314 - written by pytest
        properties = {one.get("name"): one.get("value", "") for one in case.iter("property")}
        client = properties.get("client")
        if client is None:
            continue
        versions[client] = properties.get("version") or versions.get(client, "")
        name = case.get("name", "").removeprefix("test_")
        found.setdefault(client, []).append((name, _outcome(case)))
    if not found:
        raise ValueError("the report has no test of a client")
    head = ["client", "version", *columns]
    rows = [
        [
            client,
            versions[client],
            *(_cell(said for name, said in tests if name.startswith(start)) for start in columns.values()),
        ]
        for client, tests in sorted(found.items(), key=lambda item: item[0].lower())
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def _cell(outcomes: Iterable[str]) -> str:
    seen = {*outcomes}
    if not seen:
        return "-"
    return "no" if "failed" in seen else "yes" if "passed" in seen else "skipped"


def written(text: str, table: str) -> str:
    """Return the page with this table between the marks.

    Raises:
        ValueError: The marks are not there.
    """
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"there is no {START} … {END}")
    return pattern.sub(lambda _: f"{START}\n{table}\n{END}", text)


if __name__ == "__main__":
    report = Path(sys.argv[1]).read_text(encoding="utf-8")
    for page, columns in PAGES.items():
        page.write_text(written(page.read_text(encoding="utf-8"), matrix(report, columns)), encoding="utf-8")
