"""Everyday requests, written by hand. They ship with the package: this task needs no data."""

from pathlib import Path

from ..outcomes import simple_rows
from .base import Example, Task


def _load(task: str, data: Path) -> list[Example]:
    return [Example(task, row.id, row.subset, row.body, row.check) for row in simple_rows()]


TASK = Task("simple", "everyday requests, written by hand; ships, needs no data", _load, max_tokens=160)
