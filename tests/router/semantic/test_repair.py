"""Taking back what a speaker took back."""

from __future__ import annotations

import pytest

from smallfirst.router.semantic.repair import Edits, repair
from smallfirst.router.semantic.words import WordLists


@pytest.fixture(scope="module")
def edits() -> Edits:
    return Edits(WordLists.load())


def repaired(edits: Edits, text: str, towards: str) -> str | None:
    forms = [piece.strip(",") for piece in text.split()]
    gaps = ["", *(", " if piece.endswith(",") else "" for piece in text.split()[:-1])]
    words = [form.lower() for form in forms]
    done = repair(words, edits.find(words, forms, gaps), towards.split())
    return None if done is None else " ".join(words[at] for at in done.kept)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("what trade no i mean religion did they spread", "what religion did they spread"),
        ("what did no what did the government want", "what did the government want"),
        ("how many er what year was it", "what year was it"),
        ("what is the um term for it", "what is the term for it"),
        ("what did smith donate no sorry eaton", "what did eaton donate"),
        ("what organization did anne join, no, not anne but iqbal", "what organization did iqbal join"),
        ("what can, no wait, who can", "who can"),
        ("state route 99 no 168 head west of what", "state route 168 head west of what"),
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
        ("which pills are safe for adults no children", "which pills are safe for children"),
        ("is it rude to say no in japan", "is it rude in japan"),
        ("what is a wait list", "what is a list"),
        ("which towns have no er visits", "which towns have visits"),
        ("what is the ER membrane", "what is the membrane"),
        ("where is Columbus OH located", "where is columbus located"),
        ("what is error correction code", "what is code"),
        ("which are not that dangerous", "which are dangerous"),
        ("what do i hang on the wall", "what do i the wall"),
        ("does my bad knee hurt", "does knee hurt"),
        ("what is the uh 60", "what is the 60"),
    ],
)
def test_what_counts_is_never_taken_back(edits: Edits, text: str, other: str) -> None:
    assert repaired(edits, text, other) != other


def test_a_text_without_an_edit_is_left_alone(edits: Edits) -> None:
    assert edits.find(["how", "many"], ["How", "many"], ["", ""]) == ()


@pytest.mark.parametrize("gap", [": ", ' "', "\n", " `", " ("])
def test_nothing_is_taken_back_in_what_a_text_quotes(edits: Edits, gap: str) -> None:
    words = ["count", "the", "um", "words"]
    assert edits.find(words, words, ["", "", "", ""]) != ()
    assert edits.find(words, words, ["", "", gap, ""]) == ()
