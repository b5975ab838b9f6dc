"""The threat model names tests, and they are there."""

import re
from pathlib import Path

import pytest

from smallfirst.router.settings.file import load_settings

ZEROS = "0" * 64
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+(?:\.py)?(?:::\w+)?)`", PAGE)))


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_page_names_is_there(named: str) -> None:
    path, _, test = named.partition("::")
    assert (ROOT / path).exists()
    if test:
        assert re.search(
            rf"^\s*(async )?def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
        )


@pytest.mark.parametrize("file", sorted(path.name for path in Path(__file__).parent.glob("test_*.py")))
def test_every_attack_is_on_the_page(file: str) -> None:
    assert file == Path(__file__).name or f"tests/security/{file}" in PAGE


def test_a_line_of_the_tables_names_its_test() -> None:
    tables = PAGE.split("## What is defended")[1].split("## What is not defended")[0]
    rows = [line for line in tables.splitlines() if line.startswith("| ") and not line.startswith("| attack")]
    assert len(rows) > 20
    assert [row for row in rows if "`tests/" not in row.rpartition(" | ")[2]] == []


def test_the_hardened_settings_are_valid(tmp_path: Path) -> None:
    file = tmp_path / "smallfirst.yaml"
    block = PAGE.split("```yaml\n")[1].split("```")[0]
    file.write_text(block.replace("sha256: …", f"sha256: '{ZEROS}'"), encoding="utf-8")
    file.chmod(0o644)
    keys = {"ADMIN_KEY": "admin-key-0123456789", "OPENAI_API_KEY": "sk-0123456789"}
    (warning,) = load_settings(file, keys).warnings
    # The password of Redis, which the example has in the file.
    assert "chmod 600" in warning
