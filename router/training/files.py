"""Reading rows: Parquet or JSON lines, with errors that name the file, the row and the column."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import SmallfirstError

DATA_VARIABLE, DATA_DEFAULT = "SMALLFIRST_DATA", "../shared/data"


class DataError(SmallfirstError):
    """A data file cannot be used. The message names the file, the row where there is one, and what was expected."""


def data_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the evaluation data: `SMALLFIRST_DATA`, else `../shared/data`. It need not be there."""
    return Path(environ.get(DATA_VARIABLE) or DATA_DEFAULT)


def data_file(path: Path) -> Path:
    """Return the file, or the one of this name in the folder of the evaluation data."""
    found = data_folder() / path
    return found if not path.exists() and found.exists() else path


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file in its order.

    Args:
        path: `.parquet` (needs the extra `train`, for DuckDB) or `.jsonl`.
        columns: Columns that a Parquet file must have; the others are left out. Default: all.

    Raises:
        DataError: The file is missing, is neither of the two, or is broken.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    if path.suffix == ".parquet":
        yield from _parquet(path, columns)
    elif path.suffix in (".jsonl", ".ndjson"):
        yield from (row for _, row in json_lines(path))
    else:
        raise DataError(f"{path}: expected a .parquet or a .jsonl file.")


def decoded(row: Mapping[str, Any], column: str, where: str) -> Any:
    """Return a column that holds JSON text (in JSON lines it may be the value itself); None where it is empty.

    Raises:
        DataError: The text is no JSON; the message starts with `where`.
    """
    value = row.get(column)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as exc:
        raise DataError(f"{where}: column '{column}' is not valid JSON: {exc}.") from exc


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    try:
        import duckdb
    except ImportError as exc:
        raise DataError(f"{path}: reading Parquet needs DuckDB; install smallfirst[train].") from exc
    with duckdb.connect() as connection:
        try:
            relation = connection.read_parquet(str(path))
            missing = [name for name in columns or () if name not in relation.columns]
            if missing:
                there = ", ".join(relation.columns)
                raise DataError(f"{path}: column '{missing[0]}' is missing; there are {there}.")
            names = list(columns or relation.columns)
            rows = relation.select(*names).fetchall()
        except duckdb.Error as exc:
            raise DataError(f"{path}: not a readable Parquet file: {exc}") from exc
    for row in rows:
        yield dict(zip(names, row, strict=True))


def need_extra(*modules: str) -> None:
    """Check that what training needs is installed.

    Raises:
        SmallfirstError: A module is missing; says what to install.
    """
    for module in modules:
        if find_spec(module) is None:
            raise SmallfirstError(
                f"training needs the extra 'train' ({module} is missing): pip install 'smallfirst[train]'"
            )


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where a row is, in words, and the row.

    Raises:
        DataError: A line is no JSON object.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            try:
                row = json.loads(line)
            except ValueError as exc:
                raise DataError(f"{where} is not valid JSON: {exc}.") from exc
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected a JSON object.")
            yield where, row
