"""`smallfirst bench soak` with real processes: `pytest -m soak` runs it for half an hour, here it runs for seconds.

`SOAK_MINUTES`, `SOAK_SEED` and `SOAK_CACHE` change the long one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smallfirst.evals.bench.machine import BenchError
from smallfirst.evals.bench.soak import Sizes, checks, soak
from smallfirst.evals.bench.soak_page import END, START, markdown, report
from smallfirst.router.cli.bench import bench
from smallfirst.router.cli.bench_soak import run_soak

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="pins processes: needs Linux")

ROOT = Path(__file__).parents[2]
MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))


def test_a_soak_of_seconds_finds_all_books_equal(tmp_path: Path) -> None:
    told: list[str] = []
    made = soak(Sizes(minutes=0.05, share=0.5, calibration=1.0, settling=3.0), tmp_path, told.append)
    assert made.books.told == []
    assert made.unexpected == []
    assert dict(made.books.defects) == {}
    assert made.books.requests == made.sums.sent > 0
    assert made.books.answered > 0
    assert made.books.compared > 0
    assert made.counted == made.books.recorded
    assert made.after.tasks <= made.before.tasks
    assert any(line.startswith("capacity") for line in told)
    found = report(made)
    assert [one["check"] for one in found["checks"]] == [words for words, *_ in checks(made)]
    assert "| answered |" in markdown(found)


def test_a_folder_with_another_run_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("precious")
    with pytest.raises(BenchError, match="is not empty"):
        run_soak(tmp_path)


def test_a_cache_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(bench, ["soak", "--cache", "disk"])
    assert done.exit_code == 2
    assert "expected off, memory or a URL" in done.output


def test_the_page_has_a_place_for_what_came_of_it() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    assert text.count(START) == text.count(END) == 1


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 1200)
def test_a_long_soak_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes: dict[str, Any] = {
        "minutes": MINUTES,
        "seed": int(os.environ.get("SOAK_SEED", "1")),
        "cache": os.environ.get("SOAK_CACHE", "memory"),
    }
    with capsys.disabled():
        found = run_soak(tmp_path / "soak", **sizes)
        print(markdown(found))
    broken = [one for one in found["checks"] if not one["held"]]
    assert broken == [], json.dumps(found["books"]["told"], indent=1)
