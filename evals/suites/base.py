"""What a task of the live suite is: rows with a chat body each, and whether an answer is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallfirst.router.training.files import DATA_VARIABLE, DataError, decoded, read_rows

from ..calls import call_rows, needed
from ..checkers import Check, checker
from ..ifeval import ifeval_check

COLUMNS = ("id", "subset", "request", "checker")


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a task.

    Attributes:
        task: The task's name.
        id: The row's id in its file.
        subset: What kind of row it is.
        body: The chat completion body.
        check: Whether an answer is right; None where that cannot be checked: such rows are unscored, not wrong.
    """

    task: str
    id: str
    subset: str
    body: Mapping[str, Any]
    check: Check | None

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return f"{self.task}/{self.subset}/{self.id}"


@dataclass(frozen=True, slots=True)
class Task:
    """A named set of rows.

    Attributes:
        name: What it is called on the command line.
        summary: One line on what is measured.
        load: Returns the rows of a task of this name, given the folder of the evaluation data.
        max_tokens: Enough for a right answer; longer ones are cut.
    """

    name: str
    summary: str
    load: Callable[[str, Path], list[Example]]
    max_tokens: int = 512

    def examples(self, data: Path) -> list[Example]:
        """Return all rows.

        Raises:
            DataError: The data is not there, or is broken.
        """
        return self.load(self.name, data)


def in_data(name: str) -> Callable[[str, Path], list[Example]]:
    """Return what loads a file of the evaluation data."""
    return lambda task, data: read_examples(data_file(data, name), task)


def data_file(data: Path, name: str) -> Path:
    """Return a file of the evaluation data.

    Raises:
        DataError: It is not there; says how to name the folder.
    """
    path = data / name
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file. Set {DATA_VARIABLE} to the evaluation data's folder."
        )
    return path


def read_examples(path: Path, task: str) -> list[Example]:
    """Read rows with `id, subset, request` (a chat body), `checker`, `expected` and, where there are any, `labels`.

    Raises:
        DataError: The file cannot be used; the message names the row and the column.
    """
    found = []
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path}: row {row.get('id', number)}"
        needed(row, COLUMNS, where)
        body = decoded(row, "request", where)
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            raise DataError(f"{where}: column 'request': expected a chat completion body with 'messages'.")
        spec = decoded(row, "checker", where)
        if not isinstance(spec, dict):
            raise DataError(f"{where}: column 'checker': expected a JSON object with a 'type'.")
        try:
            check = check_of(spec, decoded(row, "expected", where), decoded(row, "labels", where) or ())
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            kind = spec.get("type")
            raise DataError(
                f"{where}: 'checker' of type {kind!r} does not fit 'expected' ({type(exc).__name__}: {exc})."
            ) from exc
        found.append(Example(task, str(row["id"]), str(row["subset"]), body, check))
    return found


def check_of(spec: Mapping[str, Any], expected: Any, labels: Sequence[str] = ()) -> Check | None:
    """Return the check of a row, or None where its answer cannot be checked here; see `checkers.checker`."""
    return ifeval_check(spec) if spec.get("type") == "ifeval" else checker(spec, expected, labels)


def read_calls(name: str) -> Callable[[str, Path], list[Example]]:
    """Return what loads a file of rows with tools, Java and JavaScript checked where `bfcl-eval` is installed."""

    def load(task: str, data: Path) -> list[Example]:
        rows = call_rows(data_file(data, name))
        return [Example(task, row.id, row.subset, row.body, row.check) for row in rows]

    return load
