"""IFEval's instructions: what follows each of them, and what just misses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from smallfirst.evals.checkers import Answer
from smallfirst.evals.ifeval import ifeval_check
from smallfirst.router.training.files import decoded, read_rows

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data"))

Case = tuple[str, dict[str, Any], str, str]
CASES: list[Case] = [
    ("punctuation:no_comma", {}, "One and two", "One, two"),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two three", "one two"),
    (
        "length_constraints:number_words",
        {"relation": "less than", "num_words": 3},
        "one two",
        "one two three",
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 3},
        'He said "no." Then he left.',
        "One. Two! Three?",
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*a* and **b**",
        "*a* and ** **",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "a rocket", "a Rock"),
    ("keywords:existence", {"keywords": ["mom", "cat"]}, "Mom has a cat", "Mom has a dog"),
    ("keywords:frequency", {"relation": "at least", "keyword": "tea", "frequency": 2}, "Tea, tea", "tea"),
    (
        "keywords:letter_frequency",
        {"let_relation": "less than", "letter": "O", "let_frequency": 2},
        "one",
        "one Oboe",
    ),
    ("startend:quotation", {}, ' "all of it" ', '"half" of it'),
    ("startend:end_checker", {"end_phrase": "The end."}, "Well. the end.", "The end. Well."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. Yes", "Yes. Say it."),
    ("combination:two_responses", {}, "this******that", "this******this"),
    ("change_case:english_lowercase", {}, "all small", "Not all"),
    ("change_case:english_lowercase", {}, "all small", "всё маленькое"),
    ("change_case:english_capital", {}, "ALL BIG 1", "Not all"),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        "NASA and the USA",
        "NASA and Usa",
    ),
    ("language:response_language", {"language": "kn"}, "ಕನ್ನಡ ಭಾಷೆ", "In English"),
    ("language:response_language", {"language": "vi"}, "Đây là một câu tiếng Việt", "Ceci est une phrase"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [date]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "x\nP.P.S more", "x\nP.S. more"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\nP. S. more", "x PS more"),
    ("detectable_format:title", {}, "<<A title>>", "<< >> no title"),
    ("detectable_format:constrained_response", {}, "Well: My answer is no.", "My answer is nothing"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', '{"a": 1} indeed'),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n - two", "* one\n** two"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day", "num_sections": 2},
        "Day 1 a Day 2 b",
        "Day 1 a",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\na\n***\nb", "a\n***\n***\nb"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "elm"},
        'a\n\n"Elm." it is',
        "elm\n\na",
    ),
]


def follows(name: str, arguments: dict[str, Any], text: str) -> bool:
    check = ifeval_check({"instruction_id_list": [name], "kwargs": [arguments]})
    assert check is not None
    return check(Answer(text))


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_an_instruction_is_followed_to_the_letter_or_not(
    name: str, arguments: dict[str, Any], good: str, bad: str
) -> None:
    assert follows(name, arguments, good)
    assert not follows(name, arguments, bad)


def test_every_instruction_of_a_row_counts() -> None:
    spec = {
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{"num_words": None}, {"keywords": ["tea"]}],
    }
    check = ifeval_check(spec)
    assert check is not None
    assert [check(Answer(text)) for text in ("tea", "tea, please", "coffee")] == [True, False, False]


def test_an_empty_answer_follows_nothing() -> None:
    assert not follows("punctuation:no_comma", {}, " \n")


def test_a_language_that_cannot_be_told_and_an_unknown_instruction_are_unscored() -> None:
    for name, arguments in (("language:response_language", {"language": "pt"}), ("new:one", {})):
        assert ifeval_check({"instruction_id_list": [name], "kwargs": [arguments]}) is None


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set SMALLFIRST_DATA")
def test_nearly_every_row_of_the_data_can_be_checked() -> None:
    rows = list(read_rows(DATA / "chat_ifeval_dev.parquet", ["checker"]))
    unscored = [row for row in rows if ifeval_check(decoded(row, "checker", "row")) is None]
    assert 0 < len(unscored) < 0.02 * len(rows)
