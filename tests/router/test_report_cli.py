"""`smallfirst report`: groups, formats, and what it says where there is nothing."""

import csv
import io
import json
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fixtures.office import fill

from smallfirst.router.cli import cli
from smallfirst.router.errors import LedgerError, SettingsError
from smallfirst.router.ledger.report import GROUPS


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "ledger.db"
    fill(path, 400, time.time())
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)])


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_adds_up(ledger: Path, group: str) -> None:
    report = json.loads(run("--ledger", ledger, "--by", group, "--json").stdout)
    assert report["by"] == [group]
    assert sum(row["requests"] for row in report["rows"]) == report["total"]["requests"] == 400
    assert group in run("--ledger", ledger, "--by", group).stdout


def test_one_tenant_s_alone(ledger: Path) -> None:
    reports = [
        json.loads(run("--ledger", ledger, "--by", "tenant", "--tenant", name, "--json").stdout)
        for name in ("acme", "globex")
    ]
    assert [report["tenant"] for report in reports] == ["acme", "globex"]
    assert [[row["key"]["tenant"] for row in report["rows"]] for report in reports] == [["acme"], ["globex"]]
    assert sum(report["total"]["requests"] for report in reports) == 400


def test_csv_and_parquet_hold_the_same(ledger: Path, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    file = tmp_path / "report.parquet"
    done = run("--ledger", ledger, "--by", "agent,route", "--format", "parquet", "--output", file)
    assert done.stderr == f"written: {file}\n"
    rows = list(
        csv.DictReader(io.StringIO(run("--ledger", ledger, "--by", "agent,route", "--format", "csv").stdout))
    )
    with duckdb.connect() as connection:
        found = connection.read_parquet(str(file))
        assert found.columns == list(rows[0])
        table = found.fetchall()
    for row, values in zip(rows, table, strict=True):
        for given, value in zip(row.values(), values, strict=True):
            same = (
                given == ""
                if value is None
                else given == value
                if isinstance(value, str)
                else float(given) == value
            )
            assert same, (given, value)


def test_parquet_asks_for_a_file(ledger: Path) -> None:
    done = run("--ledger", ledger, "--format", "parquet")
    assert done.exit_code == 2
    assert "add --output FILE" in done.stderr


def test_parquet_without_duckdb_says_what_to_install(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    done = run("--ledger", ledger, "--format", "parquet", "--output", tmp_path / "r.parquet")
    assert isinstance(done.exception, SettingsError)
    assert "pip install 'smallfirst[parquet]'" in str(done.exception)


def test_the_page_is_written(ledger: Path, tmp_path: Path) -> None:
    assert run("--ledger", ledger, "--format", "html", "--output", tmp_path / "r.html").exit_code == 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_before_the_first_request_it_says_what_to_do(tmp_path: Path) -> None:
    done = run("--ledger", tmp_path / "none.db")
    assert isinstance(done.exception, LedgerError)
    assert "nothing is recorded yet" in str(done.exception)
    assert "`smallfirst serve`" in str(done.exception)


def test_a_time_without_requests_says_so(ledger: Path) -> None:
    assert "no requests in this time" in run("--ledger", ledger, "--until", "2020-01-01").stdout


def test_a_group_that_there_is_not_names_those_that_there_are(ledger: Path) -> None:
    done = run("--ledger", ledger, "--by", "colour")
    assert done.exit_code == 2
    assert "key" in done.stderr
