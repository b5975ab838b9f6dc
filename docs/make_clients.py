"""Writes the README's matrix of clients from what their tests said.

    make test-clients
    .venv/bin/python docs/make_clients.py build/clients.xml

A cell is `yes` if all its tests passed, `no` if one failed, `skipped` if none ran, and `-` where there is no test.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- clients: made by docs/make_clients.py -->", "<!-- end of clients -->"
# Columns and the first word of their tests' names.
ASPECTS = {
    "plain": "plain",
    "stream": "streamed",
    "tools": "tools",
    "structured": "structured",
    "errors": "errors",
    "embeddings": "embeddings",
}


def matrix(xml: str) -> str:
    """Return the table of a JUnit report, sorted by client.

    Raises:
        ValueError: The report has no test of a client.
    """
    found: dict[str, dict[str, list[str]]] = {}
    versions: dict[str, str] = {}
    for case in ElementTree.fromstring(xml).iter("testcase"):
        properties = {one.get("name"): one.get("value", "") for one in case.iter("property")}
        client = properties.get("client")
        if client is None:
            continue
        versions[client] = properties.get("version") or versions.get(client, "")
        word = case.get("name", "").split("_")[1]
        found.setdefault(client, {}).setdefault(word, []).append(_outcome(case))
    if not found:
        raise ValueError("the report has no test of a client")
    head = ["client", "version", *ASPECTS]
    rows = [
        [client, versions[client], *(_cell(tests.get(word, ())) for word in ASPECTS.values())]
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
    """Return the README with this table between the marks.

    Raises:
        ValueError: The marks are not there.
    """
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"there is no {START} … {END}")
    return pattern.sub(lambda _: f"{START}\n{table}\n{END}", text)


if __name__ == "__main__":
    report = Path(sys.argv[1]).read_text(encoding="utf-8")
    README.write_text(written(README.read_text(encoding="utf-8"), matrix(report)), encoding="utf-8")
