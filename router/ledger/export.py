"""Copies entries out of the ledger: as JSON lines, CSV or Parquet, with no more in memory than a few thousand."""

from __future__ import annotations

import csv
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ..errors import LedgerError, SettingsError
from .entry import Entry
from .schema import AS_JSON, COLUMNS
from .store import Store

Format = Literal["parquet", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)

# Rows of a group in a Parquet file, as its readers like them.
_ROW_GROUP = 50_000
_CHUNK = 5_000
_TEXTS = ("prompt", "reply")
_SPREADSHEET_RISKS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def export(
    store: Store,
    output: Path,
    form: Format,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    texts: bool = False,
) -> int:
    """Write entries to a file, oldest first, a row each with the fields of `Entry`; returns how many.

    Tags, scores and attempts are JSON (within JSON lines as they are, else as text). A file that is there already is
    replaced once all is written. Only its owner may read it.

    Args:
        store: The ledger's database.
        output: The file.
        form: Parquet needs DuckDB (extra `parquet`).
        since, until: Entries that began at or after the one, and before the other.
        texts: Whether to add `prompt` and `reply`, where the ledger has them; else null.

    Raises:
        LedgerError: There is no ledger, it cannot be read, or the file cannot be written.
        SettingsError: DuckDB is not installed.
    """
    write = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[form]
    names = (*COLUMNS, *(_TEXTS if texts else ()))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            part = Path(folder) / "part"
            count = write(part, names, _rows(store, since, until, texts=texts))
            part.chmod(0o600)
            os.replace(part, output)
    except OSError as exc:
        raise LedgerError(f"{output} cannot be written: {exc.strerror}") from exc
    return count


def _rows(
    store: Store, since: datetime | None, until: datetime | None, *, texts: bool
) -> Iterator[Sequence[Any]]:
    columns = ", ".join(f"e.{name}" for name in COLUMNS)
    more, joined = (
        (", t.prompt, t.reply", "LEFT JOIN texts t ON t.request_id = e.request_id") if texts else ("", "")
    )
    query = (
        f"SELECT {columns}{more} FROM entries e {joined} "  # noqa: S608
        "WHERE e.started_at >= ? AND e.started_at < ? ORDER BY e.started_at"
    )
    low = since.timestamp() if since else -math.inf
    high = until.timestamp() if until else math.inf
    truths = [at for at, name in enumerate(COLUMNS) if "bool" in str(Entry.__annotations__[name])]
    with store.read() as connection:
        rows = connection.stream(query, (low, high))
        while some := rows.fetchmany(_CHUNK):
            for row in some:
                values = list(row)
                for at in truths:
                    # SQLite has 0 and 1 for a truth.
                    values[at] = None if values[at] is None else bool(values[at])
                yield values


def _jsonl(output: Path, names: Sequence[str], rows: Iterator[Sequence[Any]]) -> int:
    def decoded(name: str, value: Any) -> Any:
        return msgspec.Raw(value.encode()) if name in AS_JSON else value

    return _json_lines(output, names, rows, decoded)


def _json_lines(
    output: Path, names: Sequence[str], rows: Iterator[Sequence[Any]], value_of: Callable[[str, Any], Any]
) -> int:
    encoder = msgspec.json.Encoder()
    count = 0
    with output.open("wb") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007
            values = {name: value_of(name, value) for name, value in zip(names, row, strict=True)}
            file.write(encoder.encode(values) + b"\n")
    return count


def _csv(output: Path, names: Sequence[str], rows: Iterator[Sequence[Any]]) -> int:
    count = 0
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for count, row in enumerate(rows, 1):  # noqa: B007
            writer.writerow([csv_cell(value) for value in row])
    return count


def csv_cell(value: Any) -> Any:
    """Return a value as a cell. Labels come from clients; a spreadsheet must not run them as formulas."""
    if value is None:
        return ""
    risky = isinstance(value, str) and len(value) > 1 and value.startswith(_SPREADSHEET_RISKS)
    return f"'{value}" if risky else value


def _parquet(output: Path, names: Sequence[str], rows: Iterator[Sequence[Any]]) -> int:
    """Write JSON lines beside the file, and make them Parquet."""
    lines = output.with_suffix(".jsonl")
    count = _json_lines(lines, names, rows, lambda _, value: value)
    to_parquet(lines, output, {name: _sql_type(name) for name in names})
    return count


def to_parquet(lines: Path, output: Path, columns: dict[str, str]) -> None:
    """Let DuckDB make a file of JSON lines a Parquet file, in row groups and in their order.

    Args:
        lines: The JSON lines.
        output: The Parquet file.
        columns: The SQL type of each.

    Raises:
        SettingsError: DuckDB is not installed.
        LedgerError: The file cannot be written.
    """
    try:
        import duckdb
    except ModuleNotFoundError as exc:
        raise SettingsError("Parquet needs DuckDB: pip install 'smallfirst[parquet]'") from exc
    try:
        with duckdb.connect() as connection:
            connection.execute("SET preserve_insertion_order = true")
            relation = connection.read_json(str(lines), columns=columns, format="newline_delimited")
            relation.write_parquet(str(output), compression="zstd", row_group_size=_ROW_GROUP)
    except duckdb.Error as exc:
        # Its message may quote a row.
        raise LedgerError(f"Parquet cannot be written: DuckDB says {type(exc).__name__}") from exc


def _sql_type(name: str) -> str:
    kind = "" if name in _TEXTS else str(Entry.__annotations__[name])
    if name in AS_JSON or not kind:
        return "VARCHAR"
    return next(
        (sql for word, sql in (("bool", "BOOLEAN"), ("int", "BIGINT"), ("float", "DOUBLE")) if word in kind),
        "VARCHAR",
    )


def format_of(output: Path) -> Format:
    """Return the format that a file's name says.

    Raises:
        ValueError: It says none.
    """
    name = output.suffix.lstrip(".").lower()
    for form in FORMATS:
        if name == form:
            return form
    raise ValueError(f"{output.name!r} ends in none of {', '.join(f'.{form}' for form in FORMATS)}")
