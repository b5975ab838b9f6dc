"""Files hold what the ledger holds, and no words unless they are asked for."""

import csv
import io
import json
import math
import stat
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from smallfirst.router.cli import cli
from smallfirst.router.errors import LedgerError
from smallfirst.router.ledger import AttemptRecord, Entry, Ledger, Text, store_at
from smallfirst.router.ledger.export import FORMATS, Format, csv_cell, export, to_parquet
from smallfirst.router.settings import LedgerSettings

PlaceOf = Callable[[], Path | str]

ENTRIES = [
    Entry(
        request_id=f"r{at}",
        started_at=1000.0 + at,
        duration_ms=0.1 + 0.2,
        agent="=1+1" if at else None,
        tags=("a", 'b"'),
        scores={"m": 0.25},
        attempts=(AttemptRecord("m", "local", "ok", 0, 1.0, 1, 1, None),),
        known=True if at else None,
        stream=bool(at % 2),
        cost_usd=None if at == 1 else 1e-9 * at,
        output_tokens=2**40,
    )
    for at in range(3)
]


def fill(place: Path | str) -> None:
    where = {"path": place} if isinstance(place, Path) else {"url": SecretStr(place)}
    with closing(Ledger(LedgerSettings(texts="full", **where))) as ledger:
        for entry in ENTRIES:
            ledger.record(entry)
        ledger.record(Text(request_id="r1", tenant="t", recorded_at=5.0, prompt="needle", reply="hay\nstack"))


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        relation = connection.read_parquet(str(path))
        return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return parquet_rows(path)
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def place(ledger_place: PlaceOf) -> Path | str:
    made = ledger_place()
    fill(made)
    return made


def test_json_lines_are_the_entries(place: Path | str, tmp_path: Path) -> None:
    output = tmp_path / "x.jsonl"
    assert export(store_at(place), output, "jsonl") == 3
    found = rows(output)
    assert found[0]["tags"] == ["a", 'b"']
    assert found[0]["attempts"][0]["model"] == "m"
    assert [(row["known"], row["stream"], row["cost_usd"]) for row in found] == [
        (None, False, 0.0), (True, True, None), (True, False, 2e-9),
    ]  # fmt: skip


def test_parquet_has_types_and_every_entry(place: Path | str, tmp_path: Path) -> None:
    output = tmp_path / "x.parquet"
    assert export(store_at(place), output, "parquet") == 3
    found = rows(output)
    assert [row["request_id"] for row in found] == ["r0", "r1", "r2"]
    assert [(row["known"], row["stream"], row["cost_usd"], row["output_tokens"]) for row in found] == [
        (None, False, 0.0, 2**40), (True, True, None, 2**40), (True, False, 2e-9, 2**40),
    ]  # fmt: skip
    assert json.loads(found[0]["scores"]) == {"m": 0.25}
    assert found[0]["duration_ms"] == 0.1 + 0.2


def test_csv_runs_nothing_in_a_spreadsheet(place: Path | str, tmp_path: Path) -> None:
    output = tmp_path / "x.csv"
    export(store_at(place), output, "csv")
    assert [row["agent"] for row in rows(output)] == ["", "'=1+1", "'=1+1"]
    assert math.isclose(float(rows(output)[2]["cost_usd"]), 2e-9)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "\n=1", "＝1", "－1"])
def test_what_a_spreadsheet_might_run_is_marked(text: str) -> None:
    assert csv_cell(text) == f"'{text}"
    assert [csv_cell(value) for value in ("-", "a=1", "", -1.5, None)] == ["-", "a=1", "", -1.5, ""]


def test_what_duckdb_does_not_take_is_an_error_without_a_word_of_it(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    lines = tmp_path / "x.jsonl"
    lines.write_text('{"a": "hush"}\n')
    with pytest.raises(LedgerError, match="DuckDB says") as raised:
        to_parquet(lines, tmp_path / "x.parquet", {"a": "BIGINT"})
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("form", FORMATS)
def test_words_are_there_only_where_they_are_asked_for(tmp_path: Path, form: Format) -> None:
    fill(tmp_path / "ledger.db")
    plain, with_words = tmp_path / f"a.{form}", tmp_path / f"b.{form}"
    export(store_at(tmp_path / "ledger.db"), plain, form)
    export(store_at(tmp_path / "ledger.db"), with_words, form, texts=True)
    assert "prompt" not in rows(plain)[0]
    assert [row["reply"] or None for row in rows(with_words)] == [None, "hay\nstack", None]


def test_only_the_time_that_is_asked_for(tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db")
    since, until = (datetime.fromtimestamp(at, UTC) for at in (1001, 1002))
    output = tmp_path / "x.jsonl"
    assert export(store_at(tmp_path / "ledger.db"), output, "jsonl", since=since, until=until) == 1
    assert rows(output)[0]["request_id"] == "r1"


def test_a_file_is_its_owner_s_and_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db")
    output = tmp_path / "x.jsonl"
    export(store_at(tmp_path / "ledger.db"), output, "jsonl")
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    before = output.read_bytes()
    with pytest.raises(LedgerError, match="nothing is recorded yet"):
        export(store_at(tmp_path / "none.db"), output, "jsonl")
    assert output.read_bytes() == before
    assert [file for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_the_command_goes_by_the_file_s_name(tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db")
    run = CliRunner().invoke
    command = ["ledger", "export", "--ledger", str(tmp_path / "ledger.db"), "--output"]
    assert run(cli, [*command, str(tmp_path / "x.csv")]).output.startswith("3 entries written")
    wrong = run(cli, [*command, str(tmp_path / "x.xls")])
    assert wrong.exit_code == 2
    assert ".parquet, .csv, .jsonl" in wrong.output
