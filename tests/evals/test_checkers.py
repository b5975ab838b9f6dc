"""Was an answer right?"""

from __future__ import annotations

from typing import Any

import pytest

from smallfirst.evals.checkers import Answer, checker


def right(answer: Answer | str, expected: Any, **spec: Any) -> bool:
    check = checker(spec, expected)
    assert check is not None
    return check(Answer(answer) if isinstance(answer, str) else answer)


@pytest.mark.parametrize(
    ("answer", "ok"),
    [("It is Paris.", True), ("PARIS", True), ("Parisian", False), ("Paris or Lyon", False), ("", False)],
)
def test_a_phrase_is_whole_words_and_nothing_forbidden(answer: str, ok: bool) -> None:
    assert right(answer, ["paris"], type="contains", forbidden=["Lyon"]) is ok


def test_a_rambling_answer_may_be_wrong() -> None:
    assert not right("yes " * 20, ["yes"], type="contains", max_words=8)


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        ("- a wave\n- b wave", True),
        ("a wave", False),
        ("a wave\nb", True),
        ("wave\nsea", True),
        ("x\ny", False),
    ],
)
def test_every_limit_must_hold(answer: str, ok: bool) -> None:
    assert right(answer, None, type="lines", lines=2, must=["wave"], words=[2, 8]) is ok


@pytest.mark.parametrize(
    ("answer", "ok"),
    [('{"label": "Play_Music"}', True), ("play_music.", True), ('{"label": "other"}', False), ("[1]", False)],
)
def test_a_label_may_be_json_or_bare(answer: str, ok: bool) -> None:
    assert right(answer, "play_music", type="label_exact", key="label") is ok


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        ("2 + 3 = 5", True),
        ("Answer: 5\n(of 9)", True),
        ("Answer: $1,005", False),
        ("five", False),
        ("5.0", True),
    ],
)
def test_the_last_number_counts_but_for_a_marked_answer(answer: str, ok: bool) -> None:
    assert right(answer, "5", type="numeric") is ok


def test_a_span_is_compared_without_articles_and_marks() -> None:
    assert right("The Beatles!\nThey were a band.", ["Beatles"], type="squad")
    assert not right("The Beatles were a band.", ["Beatles"], type="squad")


def test_a_summary_must_share_a_sequence_of_words() -> None:
    assert right("the dog ran home", "a dog ran far home", type="rouge_l", pass_f1=0.5)
    assert not right("nothing here", "a dog ran far home", type="rouge_l", pass_f1=0.25)


def test_slots_must_all_be_right() -> None:
    assert right('{"date": "friday", "time": ""}', {"date": "Friday"}, type="json_slots")
    assert not right('{"date": "friday", "time": "7"}', {"date": "Friday"}, type="json_slots")
    assert not right("friday", {"date": "Friday"}, type="json_slots")


def test_an_intent_is_one_call_with_the_right_slots() -> None:
    gold = {"name": "get", "arguments": {"city": ["Oslo"]}}
    assert right(Answer("", (("get", {"city": "oslo"}),)), gold, type="intent_slots")
    assert not right(Answer("", (("get", {"city": "oslo"}), ("get", {}))), gold, type="intent_slots")
    assert not right("get oslo", gold, type="intent_slots")


DOC = [{"name": "area.of", "parameters": {"required": ["base"]}}]


@pytest.mark.parametrize(
    ("arguments", "ok"),
    [
        ({"base": 10}, True),
        ({"base": 10.0}, False),
        ({"base": 10, "unit": "CM "}, True),
        ({"base": 10, "unit": "m"}, False),
        ({"unit": "cm"}, False),
        ({"base": 10, "other": 1}, False),
        ({"base": True}, False),
    ],
)
def test_a_call_is_matched_as_bfcl_does(arguments: dict[str, Any], ok: bool) -> None:
    gold = [{"area.of": {"base": [10], "unit": ["cm", ""]}}]
    answer = Answer("", (("area_of", arguments),))
    assert right(answer, gold, type="bfcl_ast", language="python", func_doc=DOC) is ok


def test_parallel_calls_match_in_any_order() -> None:
    gold = [{"f": {"x": [1]}}, {"f": {"x": [2.5]}}]
    spec = {"type": "bfcl_ast", "language": "python", "func_doc": [{"name": "f"}]}
    assert right(Answer("", (("f", {"x": 2.5}), ("f", {"x": 1}))), gold, **spec)
    assert not right(Answer("", (("f", {"x": 1}),)), gold, **spec)


def test_what_cannot_be_checked_is_unscored() -> None:
    assert checker({"type": "judge_or_none"}, None) is None
    assert checker({"type": "bfcl_ast", "language": "java"}, []) is None


def test_an_answer_is_read_from_a_reply() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    broken = {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{"}}
    assert Answer.of({"content": None, "tool_calls": [call, broken]}) == Answer(
        "", (("f", {"a": 1}), ("g", {}))
    )
