"""The page on the SDK is what its docstrings say."""

import re
import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_sdk_page_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "make_sdk.py"))["page"]()
    assert (DOCS / "sdk.md").read_text() == made, "run: python docs/make_sdk.py"


def test_every_public_method_says_what_it_does() -> None:
    page = re.sub(r"```.*?```", "", (DOCS / "sdk.md").read_text(), flags=re.DOTALL)
    sections = [part.partition("\n") for part in re.split(r"^#{3,4} ", page, flags=re.MULTILINE)[1:]]
    assert [name for name, _, text in sections if not text.strip()] == []
