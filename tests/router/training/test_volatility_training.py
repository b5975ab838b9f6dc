"""Training the judgement whether an answer keeps: its examples, and what comes of a few of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smallfirst.router.cli.train_volatility import volatility as command
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.semantic.volatility import CLASSES, Volatility
from smallfirst.router.training.files import DataError, data_folder
from smallfirst.router.training.volatility import train_on
from smallfirst.router.training.volatility_rows import (
    Example,
    Labelled,
    by_hand,
    cacheability_rows,
    read_examples,
)


@pytest.fixture(scope="module")
def trained() -> Volatility:
    examples = [
        *by_hand(),
        *(Example(f"what is {n} plus {n + 1}", "static", None, "sums") for n in range(20)),
    ]
    return train_on(examples, embedding=TokenEmbedding.load(), progress=lambda step: None)


def written(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_sentences_by_hand_are_of_the_four_classes_and_without_open_slots() -> None:
    examples = list(by_hand())

    assert {example.label for example in examples} == set(CLASSES)
    assert not any("{" in example.text for example in examples)


def test_what_was_trained_on_a_few_sentences_tells_some_apart(trained: Volatility) -> None:
    assert trained.keeps("who was the first king of norway")
    assert not trained.keeps("who is the current king of norway")


def test_training_again_gives_the_same(trained: Volatility) -> None:
    examples = [
        *by_hand(),
        *(Example(f"what is {n} plus {n + 1}", "static", None, "sums") for n in range(20)),
    ]

    again = train_on(examples, embedding=trained.embedding, progress=lambda step: None)

    assert again.card == trained.card
    assert again.classes("book a train") == trained.classes("book a train")


def test_the_card_counts_what_it_was_trained_on(trained: Volatility) -> None:
    by_source = trained.card["out_of_fold"]["seen_kinds"]["by_source"]

    assert by_source["sums"]["static"] == 20
    assert sum(of["static"] + of["other"] for of in by_source.values()) == trained.card["n"]


def test_a_labelled_row_gives_its_text_or_its_last_user_message(tmp_path: Path) -> None:
    request = {
        "messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": "what time is it"}]
    }
    path = written(
        tmp_path,
        {"request": json.dumps(request), "expected": '"time_dependent"', "meta": None},
        {"request": request, "expected": "static", "meta": {"text": "what is time", "intent": "definition"}},
    )

    assert list(cacheability_rows(path)) == [
        Labelled("what time is it", "time_dependent", ""),
        Labelled("what is time", "static", "definition"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"expected": "forever", "meta": {"text": "a"}}, "row 1: 'expected': 'forever' is none of static"),
        ({"expected": "static"}, "row 1: expected 'request' with a user message"),
        (
            {"expected": "static", "request": {"messages": []}},
            "row 1: expected 'request' with a user message",
        ),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(cacheability_rows(written(tmp_path, row)))


def test_without_the_data_the_command_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--data", str(tmp_path), "--out", str(tmp_path / "out.npz")])

    assert isinstance(result.exception, DataError)
    assert "classification_cacheability_dev.parquet" in str(result.exception)


def test_the_evaluation_data_give_each_text_once_and_a_class() -> None:
    folder = data_folder()
    if not (folder / "classification_cacheability_dev.parquet").is_file():
        pytest.skip(f"the labelled texts are not in {folder}; set SMALLFIRST_DATA")

    examples = read_examples(folder)

    texts = [" ".join(example.text.lower().split()) for example in examples]
    assert len(set(texts)) == len(texts)
    assert {example.label for example in examples} == set(CLASSES)
    assert "alpaca_eval2" not in {example.source for example in examples}
