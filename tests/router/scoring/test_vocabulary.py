"""Classes of tokens."""

from __future__ import annotations

import pytest

from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.scoring.vocabulary import CLASSES, class_table

NAMES = [name for name, _, _ in CLASSES]


@pytest.fixture(scope="module")
def counts() -> object:
    embedding = TokenEmbedding.load()
    table = class_table(embedding.tokenizer)

    def count(text: str, name: str) -> int:
        return int(table[embedding.ids(text), NAMES.index(name)].sum())

    return count


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("exactly 3 words without commas", "limit", 2),
        ("What is 12 + 30?", "digit", 4),
        ("What is 12 + 30?", "operator", 1),
        ("Who are you and WHERE", "wh", 2),
        ("東京", "other_script", 2),
        ("plain words here", "word", 3),
        ("zxqv", "word", 0),
        ("plain words", "code", 0),
    ],
)
def test_tokens_are_counted_by_class(counts, text: str, name: str, expected: int) -> None:  # type: ignore[no-untyped-def]
    assert counts(text, name) == expected


def test_every_class_has_tokens() -> None:
    assert class_table(TokenEmbedding.load().tokenizer).any(axis=0).all()
