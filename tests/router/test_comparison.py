"""Do two answers say the same: what agrees, what does not, and what cannot be told."""

from typing import Any

import pytest

from smallfirst.router.comparison import agree, can_compare


def words(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def calls(*made: tuple[str, str]) -> dict[str, Any]:
    return {
        "content": None,
        "tool_calls": [{"function": {"name": name, "arguments": arguments}} for name, arguments in made],
    }


LONG = "It is a large city with many museums, and people come from everywhere to see them all year round."


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Paris", "paris."),
        ("Paris", "The capital of France is **Paris**."),
        ("1,000", "1000.0"),
        ("The answer is 42.", "42"),
        ('{"city": "Paris", "n": 3}', '{"n": 3.0, "city": " paris "}'),
        ('{"a": 1, "b": null}', '{"a": 1}'),
        ('["x", "y"]', '["X", "Y"]'),
        (LONG, LONG.upper()),
    ],
)
def test_answers_in_words_or_json_agree(first: str, second: str) -> None:
    assert agree(words(first), words(second)) is True


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Paris", "London"),
        ("5", "-5"),
        ("3.5", "35"),
        ("C", "C++"),
        ('{"city": "Paris"}', '{"city": "Rome"}'),
        ('{"city": "Paris"}', '{"town": "Paris"}'),
        ('["x", "y"]', '["y", "x"]'),
        ('["x"]', '["x", "y"]'),
        ('{"ok": true}', '{"ok": 1}'),
    ],
)
def test_answers_in_words_or_json_disagree(first: str, second: str) -> None:
    assert agree(words(first), words(second)) is False


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", "Paris"),
        ("", ""),
        (LONG, "It rains."),
        ("It rains here today.", "The sun is shining over the whole of the town."),
        (f'{{"summary": "{LONG}"}}', '{"summary": "A large city that many people come to see each year."}'),
    ],
)
def test_some_answers_cannot_be_compared(first: str, second: str) -> None:
    assert agree(words(first), words(second)) is None


def test_calls_agree_in_any_order_and_spelling_of_their_arguments() -> None:
    first = calls(("a", '{"x": 1, "y": "B"}'), ("b", "{}"))
    assert agree(first, calls(("b", ""), ("a", '{"y":"b","x":1.0}'))) is True


@pytest.mark.parametrize(
    "other",
    [
        calls(("a", '{"x": 2}')),
        calls(("b", '{"x": 1}')),
        calls(("a", '{"x": 1}'), ("a", '{"x": 1}')),
        words("I cannot do that."),
    ],
)
def test_other_calls_or_none_disagree(other: dict[str, Any]) -> None:
    mine = calls(("a", '{"x": 1}'))
    assert (agree(mine, other), agree(other, mine)) == (False, False)


def test_calls_that_differ_in_long_texts_alone_cannot_be_compared() -> None:
    mail = '{{"to": "{}", "text": "{}"}}'
    first = calls(("send", mail.format("ann", LONG)))
    assert agree(first, calls(("send", mail.format("ann", "Something else that is quite long too.")))) is None
    assert (
        agree(first, calls(("send", mail.format("bob", "Something else that is quite long too.")))) is False
    )


def test_broken_json_is_compared_as_text() -> None:
    assert agree(calls(("a", "{x")), calls(("a", "{x"))) is True
    assert agree(words('{"city": Paris'), words('{"city": Rome')) is False


def test_json_that_is_too_deep_cannot_be_compared() -> None:
    deep = words("[" * 5000 + "]" * 5000)
    assert (can_compare(deep), agree(deep, deep)) == (False, None)


@pytest.mark.parametrize(
    ("message", "can"),
    [(words("Paris"), True), (words('{"a": 1}'), True), (calls(("a", "{}")), True), (words(LONG), False),
     (words(""), False), ({"content": None}, False)],
)  # fmt: skip
def test_what_may_be_compared_is_known_from_one_answer(message: dict[str, Any], can: bool) -> None:
    assert can_compare(message) is can
