"""The tasks: which rows they have, how they are drawn, and files of one's own."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from smallfirst.evals.checkers import Answer
from smallfirst.evals.suites import ALL, TASKS, Example, drawn, tasks_named
from smallfirst.evals.suites.agent_bfcl import next_calls, steps
from smallfirst.evals.suites.base import read_examples
from smallfirst.router.training.files import DataError, decoded, read_rows

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set SMALLFIRST_DATA"
)

Call = tuple[str, dict[str, Any]]
ROW = {
    "id": "1",
    "subset": "capitals",
    "request": {"messages": [{"role": "user", "content": "Capital of France?"}]},
    "checker": {"type": "contains"},
    "expected": ["Paris"],
}


def rows_of(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@needs_data
@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_rows_with_names_of_their_own_most_of_them_checkable(name: str) -> None:
    examples = TASKS[name].examples(DATA)
    assert len({example.name for example in examples}) == len(examples)
    assert sum(example.check is None for example in examples) < 0.05 * len(examples)
    assert all(example.body["messages"] for example in examples)


def test_missing_data_is_told_with_the_variable_that_names_its_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Set SMALLFIRST_DATA"):
        TASKS["reading"].examples(tmp_path)


def test_the_hand_written_task_needs_no_data(tmp_path: Path) -> None:
    assert len(TASKS["simple"].examples(tmp_path)) > 400


def test_all_is_every_task_and_a_name_that_is_none_is_told() -> None:
    assert [task.name for task in tasks_named([ALL, "bfcl"])] == list(TASKS)
    with pytest.raises(DataError, match="there is no suite 'bfc'"):
        tasks_named(["bfc"])


def test_a_file_of_ones_own_is_a_task_by_its_name(tmp_path: Path) -> None:
    path = rows_of(tmp_path, ROW, {**ROW, "id": "2", "checker": json.dumps({"type": "judged"})})
    (task,) = tasks_named([str(path)])
    first, second = task.examples(tmp_path)
    assert (task.name, first.name) == ("own", "own/capitals/1")
    assert first.check is not None
    assert first.check(Answer("It is Paris."))
    assert second.check is None, "a way of checking that is not known leaves a row unscored"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"request": None}, "column 'request' is missing"),
        ({"request": {"prompt": "x"}}, "expected a chat completion body"),
        ({"checker": "contains"}, "column 'checker' is not valid JSON"),
        ({"checker": {"type": "numeric"}, "expected": '"many"'}, "does not fit 'expected'"),
    ],
)
def test_a_broken_row_is_told_with_its_id_and_column(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"row 1: .*{message}"):
        read_examples(rows_of(tmp_path, {**ROW, **change}), "own")


def test_a_file_may_not_take_the_name_of_a_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is a suite 'bfcl' already"):
        tasks_named(["bfcl", str(tmp_path / "bfcl.jsonl")])


def examples(**counts: int) -> list[Example]:
    return [Example("t", f"{s}{at}", s, {}, None) for s, n in counts.items() for at in range(n)]


def names(found: list[Example]) -> set[str]:
    return {example.name for example in found}


def test_rows_are_drawn_evenly_over_subsets_as_far_as_they_have_them() -> None:
    found = drawn(examples(a=100, b=3, c=20), 23, seed=0)
    assert Counter(example.subset for example in found) == {"a": 10, "b": 3, "c": 10}


def test_a_lower_limit_draws_some_of_the_same_rows_and_a_seed_others() -> None:
    rows = examples(a=50, b=50)
    assert names(drawn(rows, 10, seed=1)) < names(drawn(rows, 30, seed=1))
    assert names(drawn(rows, 10, seed=1)) != names(drawn(rows, 10, seed=2))
    assert len(drawn(rows, None, seed=1)) == 100


# --- agent steps ----------------------------------------------------------------------------------------------


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}


def called(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "tool_calls": [{"function": function}]}


def said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_step_has_the_conversation_so_far_its_tools_and_what_is_left_of_its_turn() -> None:
    result = {"role": "tool", "content": "ok"}
    trajectory = [said("a"), called("x"), result, called("y"), result, said("b"), called("z")]
    meta = {"gold_trajectory": trajectory, "tools_added_at_turn": {"1": [tool("z")]}}
    found = list(steps({"messages": [said("a")], "tools": [tool("x"), tool("y")]}, meta))
    assert [
        (
            len(body["messages"]),
            [t["function"]["name"] for t in body["tools"]],
            [call["name"] for call in gold],
        )
        for body, gold in found
    ] == [(1, ["x", "y"], ["x", "y"]), (3, ["x", "y"], ["y"]), (6, ["x", "y", "z"], ["z"])]


def test_calls_are_right_if_they_are_the_next_ones_in_order() -> None:
    gold = [called("cd", folder="x"), called("ls")]
    check = next_calls([tool("cd"), tool("ls")], [call["tool_calls"][0]["function"] for call in gold])
    cd: Call = ("cd", {"folder": "x"})
    ls: Call = ("ls", {})
    assert check(Answer("", (cd,)))
    assert check(Answer("", (cd, ls)))
    for wrong in ((), (ls,), (ls, cd), (cd, ls, ls), (("cd", {"folder": "y"}),)):
        assert not check(Answer("", wrong))


@needs_data
def test_the_gold_trajectories_pass_their_own_checks() -> None:
    rows = read_rows(DATA / "agent_bfcl_dev.parquet", ["request", "meta"])
    for row in itertools.islice(rows, 0, None, 7):
        for body, gold in steps(decoded(row, "request", "row"), decoded(row, "meta", "row")):
            calls = Answer.of({"tool_calls": [{"function": call} for call in gold]})
            check = next_calls(body["tools"], gold)
            assert check(calls)
            assert check(Answer("", calls.calls[:1]))


def test_an_argument_may_be_left_out_or_given_where_it_is_the_default() -> None:
    tools = [tool("ls", a={"type": "boolean", "default": False}, n={"type": "integer", "default": 5})]
    check = next_calls(tools, [{"name": "ls", "arguments": '{"n": 5}'}])
    assert check(Answer("", (("ls", {}),)))
    assert check(Answer("", (("ls", {"a": False, "n": 5}),)))
    assert not check(Answer("", (("ls", {"a": True}),)))
