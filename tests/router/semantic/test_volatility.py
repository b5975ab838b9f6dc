"""The judgement whether an answer keeps, by the artefact that ships, and its file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from smallfirst.router.arrays import read_arrays
from smallfirst.router.errors import SmallfirstError
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.semantic.volatility import (
    CLASSES,
    HALF,
    Volatility,
    clipped,
    foreign_share,
    packaged_artefact,
    tail_of,
)

KEPT = (
    "what is the capital of france", "What is the capital of Australia?", "who wrote war and peace",
    "Explain recursion to a beginner.",
    "how many sides does an octagon have", "What are the side effects of ibuprofen?",
    "Write a polite email to a customer whose parcel was late.", "who won the 2018 world cup",
    "A farmer has 12 hens and sells 5. How many hens does he have now?", "how do you spell necessary",
    "Write a Python function that removes duplicates from a list.",
)  # fmt: skip
REFUSED = {
    "time_dependent": (
        "what time is it", "What's the weather like in Lisbon?", "who is the president of mexico",
        "what is the latest version of rust", "roll two dice", "when is the next bus to the airport", "is it raining",
    ),
    "user_state": (
        "what's my balance", "do i have any meetings this afternoon", "where is my order", "when is my rent due",
    ),
    "action": (
        "turn on the kitchen light", "book a table for six at nobu", "send bob a message that i am late",
        "set a timer for ten minutes", "cancel my reservation", "play some blues",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def embedding() -> TokenEmbedding:
    return TokenEmbedding.load()


@pytest.fixture(scope="module")
def volatility(embedding: TokenEmbedding) -> Volatility:
    return Volatility.load(embedding)


def copied(folder: Path) -> Path:
    """Copy the artefact that ships, with its card."""
    path = folder / "volatility.npz"
    shutil.copy(packaged_artefact(), path)
    shutil.copy(packaged_artefact().with_suffix(".json"), path.with_suffix(".json"))
    return path


def rewritten(path: Path, **changed: object) -> Path:
    """Change fields of the header, or arrays."""
    arrays = read_arrays(path)
    header = json.loads(arrays["header"].tobytes())
    header |= {name: value for name, value in changed.items() if name not in arrays}
    arrays |= {name: np.asarray(value) for name, value in changed.items() if name in arrays}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return path


@pytest.mark.parametrize("text", KEPT)
def test_what_is_the_same_for_everyone_keeps(volatility: Volatility, text: str) -> None:
    assert volatility.keeps(text)


@pytest.mark.parametrize("label", REFUSED)
def test_what_depends_on_time_or_user_or_acts_does_not_keep(volatility: Volatility, label: str) -> None:
    assert [text for text in REFUSED[label] if volatility.keeps(text)] == []


@pytest.mark.parametrize("label", REFUSED)
def test_the_likeliest_class_says_why(volatility: Volatility, label: str) -> None:
    found = [volatility.classes(text) for text in REFUSED[label]]

    assert [max(shares, key=shares.__getitem__) for shares in found] == [label] * len(found)


@pytest.mark.parametrize(
    ("keeps", "does_not"),
    [
        ("who was the first president of brazil", "who is the current president of brazil"),
        ("what does overdrawn mean", "am i overdrawn"),
        ("how do i make pizza dough", "order a large pizza"),
        ("what was the price of gold in 1980", "what is the price of gold now"),
    ],
)
def test_texts_on_the_same_matter_are_told_apart(volatility: Volatility, keeps: str, does_not: str) -> None:
    assert (volatility.keeps(keeps), volatility.keeps(does_not)) == (True, False)


def test_probabilities_are_of_the_four_classes_and_sum_to_one(volatility: Volatility) -> None:
    shares = volatility.classes("what is the boiling point of water")

    assert tuple(shares) == CLASSES
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("text", ["", "   ", "?!", "\ud800", "🙂"])
def test_a_text_without_words_does_not_keep(volatility: Volatility, text: str) -> None:
    assert not volatility.keeps(text)


@pytest.mark.parametrize("text", ["столица франции", "法国的首都是哪里", "ما هي عاصمة فرنسا؟"])
def test_an_alphabet_that_was_not_learned_does_not_keep(volatility: Volatility, text: str) -> None:
    assert foreign_share(text) > 0.9
    assert not volatility.keeps(text)


def test_marks_on_latin_letters_are_not_another_alphabet() -> None:
    assert foreign_share("Où est né Émile Zola? Đà Nẵng, Łódź, Ağrı") == 0


def test_of_a_long_text_the_beginning_and_the_end_are_read() -> None:
    text = "a" * HALF + "b" * HALF + "c" * HALF

    assert clipped(text) == "a" * HALF + " " + "c" * HALF
    assert clipped(text[: 2 * HALF]) == text[: 2 * HALF]


def test_what_is_asked_at_the_end_of_a_long_text_counts(volatility: Volatility) -> None:
    story = "The river was wide and the old bridge had been repaired many times. " * 40

    assert volatility.keeps(story + "Summarise the text above.")
    assert not volatility.keeps(story + "What time is it now?")
    assert not volatility.keeps(story + "Send this to my boss.")


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("One two. Three four?", None),
        ("word " * 41 + "end. What now?", "What now?"),
        ("word " * 41 + "end.\n\n---\n", "word " * 41 + "end."),
        ("x" * 5000, None),
    ],
)
def test_the_last_sentence_of_a_long_text_is_its_tail(text: str, tail: str | None) -> None:
    assert tail_of(text) == tail


def test_another_threshold_decides_otherwise(embedding: TokenEmbedding, tmp_path: Path) -> None:
    strict = Volatility.load(embedding, rewritten(copied(tmp_path), threshold=1.0))

    assert strict.threshold == 1.0
    assert not any(strict.keeps(text) for text in KEPT)


def test_a_saved_judge_says_the_same(
    volatility: Volatility, embedding: TokenEmbedding, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "judge.npz"
    volatility.save(path)

    again = Volatility.load(embedding, path)

    assert again.card == volatility.card
    assert [again.classes(text) for text in KEPT] == [volatility.classes(text) for text in KEPT]
    assert path.read_bytes() == packaged_artefact().read_bytes()


def test_an_artefact_of_other_features_is_refused(embedding: TokenEmbedding, tmp_path: Path) -> None:
    path = rewritten(copied(tmp_path), features="00000000")

    with pytest.raises(SmallfirstError, match=r"another version's features.*smallfirst train volatility"):
        Volatility.load(embedding, path)


def test_an_artefact_of_other_classes_is_refused(embedding: TokenEmbedding, tmp_path: Path) -> None:
    path = rewritten(copied(tmp_path), classes=["static", "action"])

    with pytest.raises(SmallfirstError, match="another version's features"):
        Volatility.load(embedding, path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"bias": np.zeros(3, np.float32)}, "bias"),
        ({"dense": np.full((256, 4), np.nan, np.float32)}, "dense"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": "high"}, "high"),
    ],
)
def test_broken_numbers_are_refused(
    embedding: TokenEmbedding, tmp_path: Path, changed: dict[str, object], named: str
) -> None:
    path = rewritten(copied(tmp_path), **changed)

    with pytest.raises(SmallfirstError, match=named):
        Volatility.load(embedding, path)


def test_a_missing_or_damaged_file_is_named(embedding: TokenEmbedding, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(packaged_artefact().read_bytes()[:5000])

    for path in (tmp_path / "none.npz", damaged):
        with pytest.raises(SmallfirstError, match=path.name):
            Volatility.load(embedding, path)


def test_a_missing_card_is_named(embedding: TokenEmbedding, tmp_path: Path) -> None:
    path = copied(tmp_path)
    path.with_suffix(".json").unlink()

    with pytest.raises(SmallfirstError, match=r"volatility\.json"):
        Volatility.load(embedding, path)


def test_the_artefact_is_small_and_holds_plain_arrays() -> None:
    assert packaged_artefact().stat().st_size <= 300_000
    assert all(array.dtype.kind in "fiu" for array in read_arrays(packaged_artefact()).values())


def test_the_card_says_how_good_it_is_out_of_fold(volatility: Volatility) -> None:
    seen, unseen = (volatility.card["out_of_fold"][name] for name in ("seen_kinds", "unseen_kinds"))

    assert seen["refused"] >= 0.95
    assert seen["by_source"]["classification_cacheability"]["refused"] >= 0.95
    assert seen["by_source"]["nq_open"]["kept"] >= 0.9
    assert min(seen["by_source"][name]["kept"] for name in ("gsm8k", "mmlu", "chat_open")) >= 0.95
    assert unseen["refused"] < seen["refused"]
    assert volatility.card["threshold"] == volatility.threshold
