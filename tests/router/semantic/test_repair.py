"""Taking back what a speaker took back."""

from __future__ import annotations

import pytest

from smallfirst.router.semantic.repair import Edits, repair
from smallfirst.router.semantic.words import WordLists


@pytest.fixture(scope="module")
def edits() -> Edits:
    return Edits(WordLists.load())


def repaired(edits: Edits, text: str, towards: str) -> str | None:
    words = text.split()
    done = repair(words, edits.find(words), towards.split())
    return None if done is None else " ".join(words[at] for at in done.kept)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("what trade no i mean religion did they spread", "what religion did they spread"),
        ("what did no what did the government want", "what did the government want"),
        ("how many er what year was it", "what year was it"),
        ("what is the um term for it", "what is the term for it"),
        ("what did smith donate no sorry eaton", "what did eaton donate"),
        ("what organization did anne join no not anne but iqbal", "what organization did iqbal join"),
    ],
)
def test_a_text_is_repaired_towards_what_was_meant(edits: Edits, text: str, meant: str) -> None:
    assert repaired(edits, text, meant) == meant


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("the king of france no wait spain", "the king of france"),
        ("what is it um", "what is it"),
        ("tea or coffee", "coffee"),
        ("tea rather than coffee", "coffee"),
        ("a train instead of a bus", "a bus"),
        ("there are no dogs", "there are dogs"),
    ],
)
def test_what_counts_is_never_taken_back(edits: Edits, text: str, other: str) -> None:
    assert repaired(edits, text, other) != other


def test_a_text_without_an_edit_is_left_alone(edits: Edits) -> None:
    assert edits.find(["how", "many", "people", "live", "in", "spain"]) == ()
