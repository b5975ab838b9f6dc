"""`smallfirst bench ledger` measures what it says."""

import json

from click.testing import CliRunner

from smallfirst.router.cli import cli


def test_it_measures_entries_and_reports() -> None:
    ran = CliRunner().invoke(cli, ["bench", "ledger", "--entries", "2000", "--json"], catch_exceptions=False)
    measured = json.loads(ran.output)
    assert measured["entries"] == 2000
    assert all(
        measured[name] > 0 for name in ("entry_ms", "record_ms", "record_ms_p99", "report_s", "refreshed_s")
    )
    assert 500 < measured["bytes_per_entry"] < 50_000
