"""`eval cache` on traffic: what is answered from the cache, what of that is wrong, and what it saves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.cache_judges import NoTimes, SameWords
from fixtures.redis_server import RedisServer
from redis import Redis

from smallfirst.evals.cache_ways import Parts
from smallfirst.evals.page import render
from smallfirst.evals.traffic import read_traffic, replayed_without_rules, servable_events
from smallfirst.evals.traffic_report import traffic_report
from smallfirst.router.cli.evaluate import evaluate
from smallfirst.router.errors import SmallfirstError
from smallfirst.router.scoring.embedding import FloatArray, TokenEmbedding
from smallfirst.router.training.files import DataError

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data"))
NEEDS_DATA = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set SMALLFIRST_DATA"
)
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
LABELS = {"type": "json_schema", "json_schema": {"name": "label", "schema": {"enum": ["a", "b"]}}}


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts(TokenEmbedding.load(), SameWords(), NoTimes())


def event(seq: int, text: str, group: str, *, servable: int = -1, **other: Any) -> dict[str, Any]:
    fields = other.pop("fields", {})
    return {
        "seq": seq,
        "t_ms": seq * 1000,
        "kind": "qa",
        "task": "qa",
        "request": {"messages": [{"role": "user", "content": text}], **fields},
        "expected": other.pop("expected", f'"answer of {group}"'),
        "equiv_group": group,
        "servable_from_seq": servable,
        **other,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


async def report_of(tmp_path: Path, parts: Parts, *rows: dict[str, Any], **asked: Any) -> dict[str, Any]:
    return await traffic_report(
        write(tmp_path / "t.jsonl", list(rows)), parts, **{"max_error": 0.01, **asked}
    )


MIXED = (
    event(0, "red cats", "A"),
    event(1, "cats red", "A", servable=0, kind="paraphrase"),
    event(2, "red cats", "A", servable=0, kind="repeat:qa"),
    event(3, "man bites dog", "B"),
    event(4, "dog bites man", "C", kind="near_miss"),
    event(5, "scarlet cats", "A", servable=0, kind="paraphrase"),
    event(6, "cats red", "A", servable=0, kind="repeat:paraphrase"),
)


async def test_a_replay_counts_hits_and_those_of_another_group_as_wrong(tmp_path: Path, parts: Parts) -> None:
    report = await report_of(tmp_path, parts, *MIXED)
    counted = {
        name: report[name] for name in ("n", "exact_hits", "exact_wrong", "semantic_hits", "wrong_hits")
    }
    # The repeat of the paraphrase is answered by likeness again: answers given in other words are not kept anew.
    assert counted == {"n": 7, "exact_hits": 1, "exact_wrong": 0, "semantic_hits": 3, "wrong_hits": 1}
    assert (report["servable"], report["servable_hit"], report["bypassed"]) == (2, 1, 0)
    assert report["wrong_share"] == pytest.approx(1 / 3)
    assert report["by_kind"]["near_miss"]["wrong_hits"] == 1
    assert report["by_kind"]["paraphrase"]["servable_hit"] == 1


async def test_the_order_is_that_of_the_numbers_not_of_the_file(tmp_path: Path, parts: Parts) -> None:
    report = await report_of(tmp_path, parts, *reversed(MIXED))
    assert (report["exact_hits"], report["semantic_hits"]) == (1, 3)


async def test_money_is_saved_by_hits_and_wrong_ones_are_told_apart(tmp_path: Path, parts: Parts) -> None:
    report = await report_of(tmp_path, parts, *MIXED)
    assert 0 < report["saved_right_usd"] < report["saved_usd"] < report["total_usd"]
    assert report["priced_as"]["model"] == "gpt-4.1"
    alone = await report_of(tmp_path, parts, event(0, "red cats", "A"))
    assert (alone["saved_usd"], alone["wrong_share"], alone["wrong_share_upper_95"]) == (0, None, None)


async def test_a_model_without_a_price_is_an_error(tmp_path: Path, parts: Parts) -> None:
    with pytest.raises(DataError, match="no model 'nobody-knows-it'"):
        await report_of(tmp_path, parts, *MIXED, price_model="nobody-knows-it")


async def test_labels_are_compared_where_a_label_is_asked_for(tmp_path: Path, parts: Parts) -> None:
    labelled: dict[str, Any] = {"task": "classification", "fields": {"response_format": LABELS}}
    report = await report_of(
        tmp_path,
        parts,
        event(0, "a b", "A", expected='"x"', **labelled),
        event(1, "b a", "B", expected='"x"', **labelled),
        event(2, "c d", "C", expected='"x"', **labelled),
        event(3, "d c", "C", expected='"y"', **labelled),
    )
    assert (report["semantic_hits"], report["wrong_hits"]) == (2, 1)


async def test_tool_calls_are_given_to_equal_requests_alone(tmp_path: Path, parts: Parts) -> None:
    tools: dict[str, Any] = {"task": "function_call", "fields": {"tools": [LOOK]}}
    call = '{"name": "look", "arguments": {}}'
    report = await report_of(
        tmp_path,
        parts,
        event(0, "look up", "A", expected=call, **tools),
        event(1, "up look", "A", expected=call, servable=0, **tools),
        event(2, "look up", "A", expected=call, servable=0, **tools),
        event(3, "no call", "B", expected="null", checker={"type": "bfcl_no_call"}, **tools),
        event(4, "call no", "B", expected="null", checker={"type": "bfcl_no_call"}, servable=3, **tools),
    )
    assert (report["exact_hits"], report["semantic_hits"], report["servable_hit"]) == (1, 1, 1)


async def test_what_does_not_keep_is_not_looked_up(tmp_path: Path, parts: Parts) -> None:
    report = await report_of(
        tmp_path, parts, event(0, "rain now", "A"), event(1, "rain now", "A", servable=0)
    )
    assert (report["bypassed"], report["exact_hits"]) == (2, 0)
    assert report["lookup_ms"]["hit_exact"] is None
    assert set(report["lookup_ms"]["bypass"]) == {"p50", "p95", "p99"}


async def test_answers_grow_old_by_the_traffics_own_clock(tmp_path: Path, parts: Parts) -> None:
    later = event(1, "red cats", "A", servable=0) | {"t_ms": 2 * 3600 * 1000}
    report = await report_of(tmp_path, parts, event(0, "red cats", "A"), later)
    assert (report["exact_hits"], report["baselines"]["exact_only"]["exact_hits"]) == (0, 0)


async def test_other_ways_stand_beside_it(tmp_path: Path, parts: Parts) -> None:
    report = await report_of(
        tmp_path,
        parts,
        event(0, "Who rules the kingdom of Spain today?", "A"),
        event(1, "who rules the kingdom of Spain today", "A", servable=0),
        event(2, "Who rules the kingdom of Spain today?", "B", fields={"tools": [LOOK]}),
    )
    assert list(report["baselines"]) == [
        "exact_only", "cosine_0.80", "cosine_0.90", "cosine_0.95",
        "cosine_0.80_no_rules", "cosine_0.90_no_rules", "cosine_0.95_no_rules",
    ]  # fmt: skip
    assert report["baselines"]["exact_only"]["semantic_hits"] == 0
    ruled, bare = report["baselines"]["cosine_0.80"], report["baselines"]["cosine_0.80_no_rules"]
    assert (ruled["semantic_hits"], ruled["wrong_hits"]) == (1, 0)
    assert (bare["semantic_hits"], bare["wrong_hits"]) == (2, 1)
    html = render(report["page"])
    assert "share of semantic hits wrong" in html
    assert "fixed cosine, last message only" in html


def test_without_rules_the_nearest_last_message_answers(tmp_path: Path, parts: Parts) -> None:
    events = read_traffic(
        write(tmp_path / "t.jsonl", [event(0, "cats", "A"), event(1, "dogs", "B"), event(2, "dogs?", "B")])
    )

    def embedded(text: str) -> FloatArray:
        vector: FloatArray = parts.embedding.embed([text])[0]
        return vector

    came = replayed_without_rules(events, embedded, 0.3)
    assert came[2].source == 1
    none = replayed_without_rules(events, embedded, 1.01)
    assert [one.state for one in none] == ["miss", "miss", "miss"]


def test_repeats_are_not_servable_by_likeness(tmp_path: Path) -> None:
    assert servable_events(read_traffic(write(tmp_path / "t.jsonl", list(MIXED)))) == [1, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": ""}, "column 'kind' is missing or empty"),
        ({"seq": "1"}, "column 'seq': expected a whole number"),
        ({"servable_from_seq": True}, "column 'servable_from_seq': expected a whole number"),
        ({"request": {"messages": []}}, "column 'request'"),
        ({"seq": 0}, "a number occurs twice"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "t.jsonl", [event(0, "a", "A"), event(1, "b", "B") | change])
    with pytest.raises(DataError, match=message):
        read_traffic(path)


async def test_redis_answers_as_this_process_does_and_is_left_as_it_was(
    tmp_path: Path, parts: Parts, redis_server: RedisServer
) -> None:
    report = await report_of(tmp_path, parts, *MIXED, url=redis_server.url)
    assert report["store"]["name"] == "redis"
    assert (report["exact_hits"], report["semantic_hits"], report["wrong_hits"]) == (1, 3, 1)
    with Redis.from_url(redis_server.url) as client:
        assert client.dbsize() == 0


async def test_a_redis_that_is_not_there_is_said(tmp_path: Path, parts: Parts) -> None:
    with pytest.raises(DataError, match="Redis does not answer"):
        await report_of(tmp_path, parts, *MIXED, url="redis://127.0.0.1:1/0")


def test_the_command_replays_the_first_events(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", list(MIXED))
    result = CliRunner().invoke(evaluate, ["cache", "--data", str(path), "--limit", "3"])
    assert result.exit_code == 0, result.output
    assert "t.jsonl: 3 requests in memory" in result.stdout
    assert "look-up, hit exact" in result.stdout


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "o.jsonl", [{"id": "a", "text": "b"}])
    result = CliRunner().invoke(evaluate, ["cache", "--data", str(path)])
    assert isinstance(result.exception, SmallfirstError)
    assert "neither pairs" in str(result.exception)


@NEEDS_DATA
def test_traffic_gets_half_of_its_paraphrases_from_the_cache_and_no_wrong_answers() -> None:
    path = DATA / "traffic_dev.parquet"
    result = CliRunner().invoke(evaluate, ["cache", "--data", str(path), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["n"], report["servable"], report["exact_wrong"]) == (1500, 80, 0)
    assert report["wrong_hits"] <= 0.01 * report["semantic_hits"]
    assert report["servable_hit"] >= 40
    for least in ("0.80", "0.90", "0.95"):
        assert report["baselines"][f"cosine_{least}"]["wrong_share"] > 0.1
        assert report["baselines"][f"cosine_{least}_no_rules"]["wrong_share"] > 0.3
