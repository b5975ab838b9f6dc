"""The workflows that people run and copy: with the real local model, and with a cloud on loopback beside it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.sensible_cloud import calling, saying
from fixtures.serving import CLOUD, LOCAL, MakeSettings, Served

from smallfirst.agents.workflows import extraction, research, triage
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.sync import SyncGateway

MAIN: dict[str, Callable[..., int]] = {
    "triage": triage.main,
    "research": research.main,
    "extraction": extraction.main,
}
NO_CLOUD = "No cloud model is configured: everything runs on the local model"


@pytest.fixture
def with_cloud(make_settings: MakeSettings, local_model: LocalModel) -> Iterator[SyncGateway]:
    with SyncGateway(gateway=Gateway(make_settings(), models={LOCAL: local_model})) as gateway:
        yield gateway


@pytest.fixture
def local_only(make_settings: MakeSettings, local_model: LocalModel) -> Iterator[SyncGateway]:
    settings = make_settings()
    settings = settings.model_copy(update={"models": settings.models[:1]})
    with SyncGateway(gateway=Gateway(settings, models={LOCAL: local_model})) as gateway:
        yield gateway


def rows(gateway: SyncGateway) -> dict[tuple[str, ...], int]:
    """Requests by what the ledger says of them."""
    report = gateway.report(by=("agent", "route"))
    return {tuple(row.key.values()): row.requests for row in report.rows}


def test_triage_keeps_labels_and_calls_in_the_house(
    with_cloud: SyncGateway, sensible_cloud: LoopbackCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    assert triage.main(["--limit", "2"], gateway=with_cloud) == 0
    said = capsys.readouterr()
    assert f"What the local model cannot do goes to {CLOUD}." in said.err
    assert "T-2" in said.out
    assert "T-3" not in said.out
    assert "All-cloud would have cost $" in said.out
    assert rows(with_cloud) == {("triage", "local"): 4, ("triage", "cloud"): 2}
    # What left the house: the two drafts, with what was found and without the tools.
    assert [one.body.get("tools") for one in sensible_cloud.requests] == [None, None]
    assert all("facts below" in one.body["messages"][0]["content"] for one in sensible_cloud.requests)


def test_triage_reads_order_numbers(local_only: SyncGateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert triage.main(["--limit", "2"], gateway=local_only) == 0
    said = capsys.readouterr()
    assert "A refund of order 1002 was started." in said.out
    assert NO_CLOUD in said.err
    assert "Nothing to compare with" in said.out


def test_research_looks_things_up_and_says_who_was_asked(
    with_cloud: SyncGateway, sensible_cloud: LoopbackCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    sensible_cloud.enqueue(
        calling("search", query="send back a paddle, parcel"),
        saying("Within 30 days; see Returns."),
    )
    assert research.main([], gateway=with_cloud) == 0
    out = capsys.readouterr().out
    assert f"1. plan: the first plan, so auto/quality -> {CLOUD}" in out
    assert "2. tool_result: after a tool's result, so auto ->" in out
    first = sensible_cloud.requests[0].body
    assert first["tool_choice"] == {"type": "function", "function": {"name": "search"}}
    report = with_cloud.report(by=("agent",))
    assert [row.key["agent"] for row in report.rows] == ["research"]
    assert report.total.requests == 2


async def test_the_research_agent_may_be_awaited(
    with_cloud: SyncGateway, sensible_cloud: LoopbackCloud
) -> None:
    sensible_cloud.enqueue(calling("search", query="warranty"), saying("Five years; see Warranty."))
    agent = research.make_agent(with_cloud)
    state = await agent.ainvoke({"messages": [("user", "How long is the warranty of a hull?")]})
    assert [one["kind"] for one in state["smallfirst"]] == ["plan", "tool_result"]
    assert sensible_cloud.requests[0].body["tool_choice"]["function"] == {"name": "search"}


def test_research_works_without_a_cloud(local_only: SyncGateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert research.main(["How long do paddles have a warranty?"], gateway=local_only) == 0
    said = capsys.readouterr()
    assert "1. plan:" in said.out
    assert f"-> {LOCAL}" in said.out
    assert NO_CLOUD in said.err


def test_the_handbooks_search_finds_the_page_that_says_it() -> None:
    search, read_page = research.make_tools(research.read_handbook())
    assert search.invoke({"query": "warranty of a hull"}).startswith("Warranty: Hulls have")
    assert "Nothing found" in search.invoke({"query": "xylophone"})
    assert read_page.invoke({"title": "Courses"}).startswith("Beginners learn")
    assert "There is no such page" in read_page.invoke({"title": "Prices"})


def test_extraction_writes_a_row_for_each_text(
    with_cloud: SyncGateway, sensible_cloud: LoopbackCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("{\"text\": \"The colour is 'teal'.\"}\n\nThe colour is 'ochre'.\n")
    schema = tmp_path / "schema.json"
    schema.write_text(
        json.dumps(
            {
                "title": "Paint",
                "type": "object",
                "properties": {"colour": {"type": "string", "maxLength": 8}},
                "required": ["colour"],
            }
        )
    )
    assert extraction.main(["--input", str(texts), "--schema", str(schema)], gateway=with_cloud) == 0
    said = capsys.readouterr()
    found: list[dict[str, Any]] = sorted(
        (json.loads(line) for line in said.out.splitlines()), key=lambda row: row["text"]
    )
    assert [set(row) - {"doubtful"} for row in found] == [{"text", "fields"}] * 2
    assert all(set(row["fields"]) == {"colour"} for row in found)
    assert "2 texts, 0 without a result" in said.err
    assert "The bill" in said.err


def test_extraction_asks_again_where_something_looks_made_up(
    with_cloud: SyncGateway, cloud: LoopbackCloud, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    # So long, and so full of figures, that the router asks the cloud at once.
    texts.write_text(
        "Invoice A-1 for Ada, 10 EUR. " + "Explain each of 352 steps in a table at 7.50 EUR. " * 20
    )
    made_up = {"number": "B-2", "customer": "Ada", "total": 10, "currency": "EUR"}
    cloud.enqueue(saying(json.dumps(made_up)), saying(json.dumps(made_up | {"number": "A-1"})))
    assert extraction.main(["--input", str(texts)], gateway=with_cloud) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["fields"] == made_up | {"number": "A-1"}
    assert "doubtful" not in row


def test_extraction_keeps_an_error_beside_its_text(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("Paddle, 10 EUR")
    schema = tmp_path / "schema.json"
    schema.write_text('{"title": "Broken", "type": "object", "properties": {"a": {"type": "no such type"}}}')
    argv = ["--input", str(texts), "--schema", str(schema), "--base-url", served.base_url]
    assert extraction.main(argv) == 0
    said = capsys.readouterr()
    assert "error" in json.loads(said.out)
    assert "1 texts, 1 without a result" in said.err


@pytest.mark.parametrize("name", MAIN)
def test_a_proxy_that_is_not_there_is_said_to_be(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert MAIN[name](["--base-url", "http://127.0.0.1:9/v1"]) == 1
    assert "is it running?" in capsys.readouterr().err


def test_a_workflow_runs_as_a_program_without_any_key(tmp_path: Path) -> None:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "SMALLFIRST"))
    }
    texts = tmp_path / "texts.txt"
    texts.write_text("Invoice 1998 of Marta Silva, 64.90 EUR.")
    done = subprocess.run(
        [sys.executable, "-m", "smallfirst.agents.workflows.extraction", "--input", str(texts)],
        env=environ | {"XDG_DATA_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["fields"]) == {"number", "customer", "total", "currency"}
    assert NO_CLOUD in done.stderr


def test_a_workflow_asks_a_proxy(
    served: Served, sensible_cloud: LoopbackCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    assert triage.main(["--limit", "1", "--base-url", served.base_url]) == 0
    said = capsys.readouterr()
    assert f"What the local model cannot do goes to {CLOUD}." in said.err
    assert "All-cloud would have cost $" in said.out


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("--input", None, "cannot read"),
        ("--input", '{"txt": "a"}', "line 1 is no JSON object with a `text`"),
        ("--schema", "{", "is not valid JSON"),
        ("--schema", "{}", "no JSON schema with a `title`"),
    ],
)
def test_a_file_that_is_of_no_use_is_said_to_be(
    option: str, content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "given"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit):
        extraction.main([option, str(path)])
    assert said in capsys.readouterr().err


def test_at_least_one_text_is_read_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        extraction.main(["--at-once", "0"])
    assert "expected at least 1" in capsys.readouterr().err
