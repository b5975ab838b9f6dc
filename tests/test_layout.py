"""The repository's shape: what the wheel would silently leave out, and who may import whom."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("router", "agents", "policies", "evals")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (level, module) of every import statement."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)


def test_every_package_is_listed_for_the_wheel() -> None:
    folders = {path.parent.relative_to(ROOT) for path in modules() if path.name == "__init__.py"}
    expected = {f"smallfirst.{'.'.join(folder.parts)}" for folder in folders}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == expected


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_a_folder_by_its_bare_name(path: Path) -> None:
    bare = {name for level, name in imports(path) if level == 0 and name.split(".")[0] in FOLDERS}
    assert bare == set()


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("policies", {"router", "agents", "evals"}),
        ("router", {"agents"}),
        ("agents", {"evals"}),
        ("evals", {"agents"}),
    ],
)
def test_folders_know_only_what_is_below_them(folder: str, forbidden: set[str]) -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for level, name in imports(path)
        if level == 0 and name.startswith("smallfirst.") and name.split(".")[1] in forbidden
    }
    assert found == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_type_checkers_see_every_folder(folder: str) -> None:
    assert (ROOT / "tests" / "typings" / "smallfirst" / folder).resolve() == ROOT / folder
