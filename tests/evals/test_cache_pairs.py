"""`eval cache` on pairs: what is accepted, what of that is wrong, and what other ways would do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.cache_judges import NoTimes, SameWords

from smallfirst.evals.cache_pairs import pairs_report, read_pairs
from smallfirst.evals.cache_ways import (
    Cosine,
    Parts,
    Remembering,
    Unseen,
    interval_95,
    kind_of_file,
    last_text,
    provenance,
    upper_95,
)
from smallfirst.evals.page import render
from smallfirst.router.cli.evaluate import evaluate
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.semantic.equivalence import Equivalence
from smallfirst.router.training.files import DataError

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data"))
NEEDS_DATA = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set SMALLFIRST_DATA"
)
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
FIND = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
LABELS = {"type": "json_schema", "json_schema": {"name": "label", "schema": {"enum": ["a", "b"]}}}


@pytest.fixture(scope="module")
def embedding() -> TokenEmbedding:
    return TokenEmbedding.load()


@pytest.fixture
def parts(embedding: TokenEmbedding) -> Parts:
    return Parts(embedding, SameWords(), NoTimes())


def asks(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def row(
    a: dict[str, Any], b: dict[str, Any], same: bool, *, kind: str = "k", scope: str = "answer"
) -> dict[str, Any]:
    return {"request": a, "request_b": b, "equivalent": same, "kind": kind, "checker": {"scope": scope}}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


async def report_of(tmp_path: Path, parts: Parts, *rows: dict[str, Any], **asked: Any) -> dict[str, Any]:
    return await pairs_report(write(tmp_path / "p.jsonl", list(rows)), parts, **{"max_error": 0.01, **asked})


async def test_the_first_requests_answer_is_given_to_the_second_where_the_judge_is_sure(
    tmp_path: Path, parts: Parts
) -> None:
    report = await report_of(
        tmp_path,
        parts,
        row(asks("red cats"), asks("cats red"), True, kind="order"),
        row(asks("red cats"), asks("scarlet cats"), True, kind="synonym"),
        row(asks("man bites dog"), asks("dog bites man"), False, kind="roles"),
        row(asks("two cats"), asks("three cats"), False, kind="number"),
    )
    assert (report["n"], report["accepted"], report["semantic"], report["exact"]) == (4, 2, 2, 0)
    assert (report["precision"], report["recall"], report["wrong"]) == (0.5, 0.5, 1)
    assert report["by_kind"]["roles"] == {
        "n": 1, "equivalent": 0, "accepted": 1, "wrong": 1, "recall": None, "scope": "answer", "exact": 0,
        "semantic": 1, "bypassed": 0,
    }  # fmt: skip
    assert report["by_kind"]["synonym"]["recall"] == 0.0


async def test_equal_requests_are_told_from_those_in_other_words(tmp_path: Path, parts: Parts) -> None:
    report = await report_of(tmp_path, parts, row(asks("red cats"), asks("red cats", user="u"), True))
    assert (report["exact"], report["semantic"], report["recall"]) == (1, 0, 1.0)
    assert report["baselines"]["exact_only"]["accepted"] == 1


async def test_a_bound_that_cannot_be_shown_leaves_equal_requests_alone(tmp_path: Path, parts: Parts) -> None:
    report = await report_of(tmp_path, parts, row(asks("red cats"), asks("cats red"), True), max_error=0.001)
    assert (report["threshold"], report["accepted"], report["precision"], report["recall"]) == (
        None,
        0,
        None,
        0.0,
    )
    assert report["text_only"]["accepted"] == 0


async def test_other_tools_or_turns_are_no_candidates_however_sure_the_judge_is(
    tmp_path: Path, parts: Parts
) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
    last = {"role": "user", "content": "more"}
    report = await report_of(
        tmp_path,
        parts,
        row(asks("look it up", tools=[LOOK]), asks("look it up", tools=[FIND]), False, scope="tool_call"),
        row({"messages": [*turns, last]}, {"messages": [turns[0], last]}, False),
    )
    assert report["accepted"] == 0
    assert report["text_only"]["accepted"] == 2
    assert report["baselines"]["cosine_0.95"]["accepted"] == 0
    assert report["baselines"]["cosine_0.95_no_rules"]["accepted"] == 2


async def test_a_tool_call_is_kept_where_tools_are_offered_and_never_given_in_other_words(
    tmp_path: Path, parts: Parts
) -> None:
    pair = row(asks("up look", tools=[LOOK]), asks("look up", tools=[LOOK]), True, scope="tool_call")
    pair["meta"] = {"gold_a": [{"look": {"at": ["x"]}}]}
    path = write(tmp_path / "p.jsonl", [pair, row(asks("a"), asks("b"), False, scope="tool_call")])
    call, words = (one.kept["choices"][0]["message"] for one in read_pairs(path))
    assert call["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": ["x"]}'}
    assert words["content"]
    report = await pairs_report(path, parts, max_error=0.01)
    # It is no row that a cache should answer, so that it does not count against recall.
    assert (report["accepted"], report["recall"]) == (0, None)


async def test_pairs_of_one_label_have_the_same_answer_only_where_a_label_is_asked_for(
    tmp_path: Path, parts: Parts
) -> None:
    report = await report_of(
        tmp_path,
        parts,
        row(asks("card my lost"), asks("lost my card"), True, scope="label", kind="open"),
        row(
            asks("x y", response_format=LABELS),
            asks("y x", response_format=LABELS),
            True,
            scope="label",
            kind="form",
        ),
    )
    assert (report["accepted"], report["precision"], report["recall"]) == (2, 0.5, None)
    assert {kind: of["wrong"] for kind, of in report["by_kind"].items()} == {"open": 1, "form": 0}
    assert report["by_kind"]["open"]["equivalent"] == 1


async def test_answers_that_do_not_keep_are_not_looked_up(tmp_path: Path, parts: Parts) -> None:
    report = await report_of(tmp_path, parts, row(asks("rain now"), asks("now rain"), True))
    assert (report["bypassed"], report["accepted"], report["text_only"]["accepted"]) == (1, 0, 1)
    assert report["baselines"]["cosine_0.80"]["accepted"] == 0
    assert report["baselines"]["cosine_0.80_no_rules"]["accepted"] == 1


async def test_other_bounds_and_thresholds_make_the_picture(tmp_path: Path, parts: Parts) -> None:
    report = await report_of(tmp_path, parts, row(asks("red cats"), asks("cats red"), True))
    tried = report["frontier"]["max_cache_error"]
    assert [of["max_error"] for of in tried] == [0.01, 0.02, 0.05, 0.1, 0.2]
    assert {of["recall"] for of in tried} == {1.0}
    cosines = [of["accepted"] for of in report["frontier"]["cosine"]]
    assert cosines == sorted(cosines, reverse=True)
    html = render(report["page"])
    assert "share of accepted pairs wrong" in html
    assert "cosine 0.95, last message only" in html


def test_intervals_of_shares_are_exact() -> None:
    assert interval_95(0, 0) is None
    assert interval_95(60, 60) == pytest.approx((0.025 ** (1 / 60), 1.0))
    assert interval_95(5, 50) == pytest.approx((0.0333, 0.2181), abs=1e-4)
    assert upper_95(0, 69) == pytest.approx(1 - 0.05 ** (1 / 69))
    assert upper_95(69, 69) == 1.0


def test_a_text_is_read_and_a_pair_compared_once() -> None:
    judge = SameWords()
    remembering = Remembering(judge)
    a, b = remembering.read("a"), remembering.read("b")
    assert remembering.read("a") is a
    assert a is not None
    assert b is not None
    assert [remembering.probability(a, b), remembering.probability(a, b)] == [0.3, 0.3]
    assert judge.compared == 1


def test_a_cosine_says_how_near_two_texts_are(embedding: TokenEmbedding) -> None:
    judge = Cosine(embedding, 0.9)
    a, b = judge.read("the capital of France"), judge.read("the capital of Spain")
    assert a is not None
    assert b is not None
    assert judge.probability(a, a) == pytest.approx(1.0)
    assert 0.3 < judge.probability(a, b) < 1.0
    assert (judge.threshold(0.01), judge.read("")) == (0.9, None)


@NEEDS_DATA
def test_pairs_that_were_trained_on_are_judged_by_what_had_not_seen_them(parts: Parts) -> None:
    shipped = Equivalence.load(parts.embedding)
    judge = Unseen(shipped)
    pair = read_pairs(DATA / "cache_pairs_dev.parquet", limit=1)[0]
    a, b = (shipped.read(last_text(request)) for request in (pair.a, pair.b))
    other = shipped.read("who rules Spain")
    assert a is not None
    assert b is not None
    assert other is not None
    assert judge.probability(b, a) == judge.probability(a, b) == shipped.out_of_fold(a.text, b.text)
    assert judge.probability(a, other) == shipped.probability(a, other)
    asked = [(a.text, b.text), (a.text, other.text)]
    assert provenance(judge, asked) == {"out_of_fold": True, "out_of_fold_rows": 1, "held_out_rows": 1}
    assert provenance(parts.equivalence, asked)["out_of_fold"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": ""}, r"row 1: column 'kind' is missing or empty\."),
        ({"equivalent": "yes"}, "column 'equivalent': expected true or false"),
        ({"request_b": "["}, "column 'request_b' is not valid JSON"),
        ({"request_b": {"messages": "x"}}, "column 'request_b': .*messages"),
        ({"request": 3}, "column 'request': expected a JSON object"),
        ({"checker": {"scope": "mood"}}, "unknown scope 'mood'"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "p.jsonl", [row(asks("a"), asks("b"), True) | change])
    with pytest.raises(DataError, match=message):
        read_pairs(path)


def test_a_file_is_known_by_its_columns(tmp_path: Path) -> None:
    labels = ["static", "time_dependent", "user_state", "action"]
    files = {
        "pairs": row(asks("a"), asks("b"), True),
        "traffic": dict.fromkeys(
            ("seq", "t_ms", "kind", "task", "request", "equiv_group", "servable_from_seq"), 0
        ),
        "cacheability": {"request": asks("a"), "labels": json.dumps(labels), "expected": '"static"'},
    }
    for kind, one in files.items():
        assert kind_of_file(write(tmp_path / f"{kind}.jsonl", [one])) == kind
    other = {"request": asks("a"), "labels": ["x", "y"], "expected": "x"}
    with pytest.raises(
        DataError, match=r"neither pairs \(columns .*equiv_group.* nor cacheability .*there are"
    ):
        kind_of_file(write(tmp_path / "other.jsonl", [other]))
    with pytest.raises(DataError, match="there are no rows"):
        kind_of_file(write(tmp_path / "empty.jsonl", []))


def test_the_command_prints_figures_and_writes_a_page(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [row(asks("Who wrote Faust?"), asks("who wrote faust"), True)] * 2)
    page = tmp_path / "p.html"
    result = CliRunner().invoke(evaluate, ["cache", "--data", str(path), "--html", str(page), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert {"n", "precision", "recall", "by_kind", "text_only", "baselines"} <= report.keys()
    assert report["n"] == 2
    assert "Semantic cache on p.jsonl" in page.read_text(encoding="utf-8")
    words = CliRunner().invoke(evaluate, ["cache", "--data", str(path), "--limit", "1"])
    assert "p.jsonl: 1 pairs" in words.stdout
    assert "cosine 0.95, last message only" in words.stdout


def test_only_traffic_is_replayed_with_redis(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [row(asks("a"), asks("b"), True)])
    result = CliRunner().invoke(evaluate, ["cache", "--data", str(path), "--url", "redis://127.0.0.1:1/0"])
    assert result.exit_code == 2
    assert "only traffic is replayed with a Redis" in result.output


@NEEDS_DATA
def test_a_cacheability_file_is_judged_by_what_may_be_kept() -> None:
    path = DATA / "classification_cacheability_dev.parquet"
    result = CliRunner().invoke(evaluate, ["cache", "--data", str(path), "--limit", "40"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("40 texts")
    assert "others, refused" in result.stdout


@NEEDS_DATA
def test_near_misses_are_not_accepted_and_paraphrases_are() -> None:
    path = DATA / "cache_pairs_dev.parquet"
    result = CliRunner().invoke(evaluate, ["cache", "--data", str(path), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    # The rest have equal texts, and other tools or turns, or is not learned from.
    assert (report["n"], report["out_of_fold_rows"]) == (1921, 1810)
    assert report["precision"] >= 0.99
    assert report["recall"] >= 0.40
    for kind in (
        "number_swap", "slot_swap", "constraint_swap", "tool_other_args", "same_prompt_other_tools",
        "same_last_message_other_history",
    ):  # fmt: skip
        assert report["by_kind"][kind]["accepted"] <= 0.01 * report["by_kind"][kind]["n"], kind
    for least in ("0.80", "0.90", "0.95"):
        assert report["baselines"][f"cosine_{least}"]["precision"] < 0.7
