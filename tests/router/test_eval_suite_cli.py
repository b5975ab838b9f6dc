"""`eval suite`, `eval compare` and `eval page` as they are run, against a real server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fixtures.loopback_cloud import LoopbackCloud, hang, status, usual
from fixtures.serving import EASY, LOCAL, Served

from smallfirst.router.cli.evaluate import evaluate
from smallfirst.router.errors import SmallfirstError
from smallfirst.router.training.files import DataError

PRICES = ("--price-input", "1", "--price-output", "2")


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(evaluate, list(map(str, arguments)))
    if isinstance(result.exception, SmallfirstError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Six rows of one's own: three that the loopback cloud has right, two wrong, one that cannot be checked."""
    path = tmp_path / "capitals.jsonl"
    rows = [
        {
            "id": str(at),
            "subset": "easy" if at < 3 else "hard",
            "request": {"messages": [{"role": "user", "content": EASY}]},
            "checker": {"type": "judged" if at == 5 else "contains"},
            "expected": ["Paris" if at < 3 else "Rome"],
        }
        for at in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def suite(own: Path, url: str, *more: object) -> dict[str, Any]:
    out = own.with_name("out.jsonl")
    given = ("suite", "--suite", own, "--base-url", url, "--model", "m", "--out", out, "--json", *more)
    report: dict[str, Any] = json.loads(run(*given).stdout.splitlines()[-1])
    return report


def test_a_run_prints_its_report_and_writes_its_page(own: Path, cloud: LoopbackCloud) -> None:
    page = own.with_name("page.html")
    report = suite(own, cloud.base_url, *PRICES, "--html", page)
    assert [report[name] for name in ("n", "right", "wrong", "unscored", "accuracy")] == [6, 3, 2, 1, 0.6]
    assert report["cost_usd"] == pytest.approx(6 * (20 * 1 + 5 * 2) / 1e6)
    assert report["by_subset"]["capitals/easy"]["accuracy"] == 1.0
    assert report["price_usd_per_million"] == {"input": 1.0, "output": 2.0}
    assert (report["suites"], report["server"]) == (["capitals"], cloud.base_url)
    assert "<svg" in page.read_text()


def test_the_table_names_tasks_and_who_answered(own: Path, cloud: LoopbackCloud) -> None:
    out = own.with_name("out.jsonl")
    said = run("suite", "--suite", own, "--base-url", cloud.base_url, "--model", "m", "--out", out).stdout
    assert "capitals/hard" in said
    assert "answered by: 6 m; cost unknown" in said


def test_a_limit_draws_from_every_subset(own: Path, cloud: LoopbackCloud) -> None:
    report = suite(own, cloud.base_url, "--limit", 2)
    assert {name: of["n"] for name, of in report["by_subset"].items()} == {
        "capitals/easy": 1,
        "capitals/hard": 1,
    }


def test_a_key_is_read_from_the_named_variable(
    own: Path, cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVAL_KEY", "sk-eval")
    suite(own, cloud.base_url, "--api-key-env", "EVAL_KEY", "--limit", 1)
    assert {request.headers["authorization"] for request in cloud.requests} == {"Bearer sk-eval"}
    out = own.with_name("other.jsonl")
    given = ("suite", "--suite", own, "--base-url", cloud.base_url, "--model", "m", "--out", out)
    assert "NOT_SET is not set" in run(*given, "--api-key-env", "NOT_SET", code=2).output
    assert "both --price-input and" in run(*given, "--price-input", "1", code=2).output


def test_the_tasks_are_listed_without_a_server() -> None:
    said = run("suite", "--list").stdout
    assert [line.split()[0] for line in said.splitlines()][:3] == ["simple", "bfcl", "snips"]


def test_the_gateway_itself_is_measured_with_its_routes_and_costs(served: Served, tmp_path: Path) -> None:
    given = ("--suite", "simple", "--limit", 3, "--max-tokens", 8, "--base-url", served.base_url)
    out = tmp_path / "o.jsonl"
    report = json.loads(
        run("suite", *given, "--model", LOCAL, "--out", out, "--json").stdout.splitlines()[-1]
    )
    assert report["routes"] == {"local": 3, "cloud": 0, "cache": 0}
    assert (report["models"], report["cost_usd"], report["errors"]) == ({LOCAL: 3}, 0.0, 0)


def test_an_interrupted_run_goes_on_where_it_was(own: Path, cloud: LoopbackCloud) -> None:
    out = own.with_name("out.jsonl")
    smallfirst = str(Path(sys.executable).with_name("smallfirst"))
    cloud.enqueue(status(404), usual, usual, hang())
    command = [smallfirst, "eval", "suite", "--suite", own, "--base-url", cloud.base_url, "--model", "m"]
    process = subprocess.Popen(
        [*map(str, command), "--out", str(out), "--concurrency", "1"], stderr=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if len(cloud.requests) == 4:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Aborted" in said
    assert "Traceback" not in said
    assert len(out.read_text().splitlines()) == 2
    assert suite(own, cloud.base_url)["n"] == 6
    assert len([r for r in cloud.requests if r.raw]) == 3 + 4


# --- compare and page -----------------------------------------------------------------------------------------


@pytest.fixture
def reports(own: Path, cloud: LoopbackCloud) -> tuple[Path, Path]:
    """A run of 40 rows that are all right, and one of the same rows that are all wrong, with notes before the JSON."""
    row = json.loads(own.read_text().splitlines()[0])
    own.write_text("".join(json.dumps({**row, "id": str(at)}) + "\n" for at in range(40)))
    found = []
    for name, text in (("good", "Paris"), ("bad", "London")):
        cloud.answer_text = text
        path, out = own.with_name(f"{name}.json"), own.with_name(f"{name}.jsonl")
        given = ("--suite", own, "--base-url", cloud.base_url, "--model", "m", "--out", out, *PRICES)
        path.write_text("a note\n" + run("suite", *given, "--json").stdout)
        found.append(path)
    return found[0], found[1]


def test_the_gate_fails_on_a_worse_run_and_says_in_what(reports: tuple[Path, Path]) -> None:
    good, bad = reports
    result = run("compare", good, bad, code=1)
    assert "WORSE  accuracy: 1 -> 0 (40 rows in both" in result.stdout
    assert "worse: accuracy: 1 -> 0" in result.stderr
    found = json.loads(run("compare", good, bad, "--json", code=1).stdout)
    assert [of["figure"] for of in found["compared"] if of["worse"]] == ["accuracy", "accuracy of capitals"]
    assert "WORSE" not in run("compare", bad, good).stdout
    assert json.loads(run("compare", good, good, "--json").stdout)["ok"]


def test_several_runs_are_shown_in_one_picture(reports: tuple[Path, Path], tmp_path: Path) -> None:
    good, bad = reports
    run("page", f"the good one={good}", bad, "--out", tmp_path / "p.html", "--title", "Both & more")
    html = (tmp_path / "p.html").read_text()
    assert "<title>Both &amp; more</title>" in html
    assert "the good one: 1 at 0.03" in html
    assert "bad: 0 at 0.03" in html
    assert "Accuracy by task" in html


def test_a_report_of_another_eval_is_shown_alone(reports: tuple[Path, Path], tmp_path: Path) -> None:
    other, out = tmp_path / "routing.json", tmp_path / "p.html"
    other.write_text(json.dumps({"apgr": 0.6, "page": {"title": "Routing", "tables": []}}))
    run("page", other, "--out", out)
    assert "<title>Routing</title>" in out.read_text()
    assert "can be shown together" in run("page", other, reports[0], "--out", out, code=2).output
    other.write_text('{"apgr": 0.6}')
    with pytest.raises(DataError, match="has no 'page'"):
        run("page", other, "--out", out)


def test_what_is_no_report_is_told(tmp_path: Path) -> None:
    text = tmp_path / "a.json"
    text.write_text("no report\n[1]\n")
    with pytest.raises(DataError, match="expected a JSON object"):
        run("compare", text, text)
    with pytest.raises(DataError, match="cannot be read"):
        run("page", tmp_path / "none.json", "--out", tmp_path / "p.html")
    given = ("x=a.json", "x=b.json", "--out", tmp_path / "p.html")
    text.write_text("{}")
    assert "Two runs are named x" in run("page", f"x={text}", f"x={text}", *given[2:], code=2).output
