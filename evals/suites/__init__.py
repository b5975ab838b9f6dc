"""The tasks of `smallfirst eval suite`, a short module each, and how rows are drawn from them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from smallfirst.router.training.files import DataError

from . import (
    agent_bfcl,
    bfcl,
    extraction,
    ifeval,
    intents,
    knowledge,
    reading,
    reasoning,
    simple,
    snips,
    summaries,
)
from .base import Example, Task, read_examples

_MODULES = (
    simple, bfcl, snips, agent_bfcl, intents, extraction, reading, knowledge, reasoning, summaries, ifeval,
)  # fmt: skip
TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}
ALL = "all"


def tasks_named(names: Sequence[str]) -> list[Task]:
    """Return tasks by name; `all` is every one, anything with a suffix is a file of one's own rows.

    Raises:
        DataError: There is no such task.
    """
    found: dict[str, Task] = {}
    for name in names:
        if name == ALL:
            found |= TASKS
        elif name in TASKS:
            found[name] = TASKS[name]
        elif Path(name).suffix:
            task = _of_file(Path(name))
            if task.name in found:
                raise DataError(f"{name}: there is a suite '{task.name}' already; rename the file.")
            found[task.name] = task
        else:
            raise DataError(f"there is no suite '{name}': name a file, {ALL}, or one of {', '.join(TASKS)}.")
    return list(found.values())


def _of_file(path: Path) -> Task:
    return Task(path.stem, f"rows of {path.name}", lambda task, _: read_examples(path, task))


def drawn(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """Return at most `limit` rows: as many of each subset as of any other, as far as it has so many.

    The rows of a lower limit are among those of a higher one with the same seed.
    """
    by_subset: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda example: example.id):
        by_subset[example.subset].append(example)
    places = []
    for subset, rows in by_subset.items():
        rng = random.Random(f"{seed}/{rows[0].task}/{subset}")
        rng.shuffle(rows)
        # The rows of one round, one a subset, come in a mixed order: a limit may cut it.
        places += [(turn, rng.random(), row) for turn, row in enumerate(rows)]
    return [row for *_, row in sorted(places, key=lambda place: place[:2])[:limit]]


__all__ = ["ALL", "TASKS", "Example", "Task", "drawn", "tasks_named"]
