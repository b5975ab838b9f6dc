"""Folds that near-duplicates do not cross."""

from __future__ import annotations

import numpy as np

from smallfirst.router.training.folds import folds_of, groups_of

BASE = "A baker sells 12 loaves in the morning and 30 in the afternoon of every working day of the week"


def test_texts_that_differ_in_numbers_and_few_words_are_one_group() -> None:
    same, other = (
        BASE.replace("12", "99").replace("week", "month"),
        "Which gas do plants take in for photosynthesis?",
    )
    groups = groups_of([BASE, other, same])
    assert groups[0] == groups[2] != groups[1]


def test_empty_and_short_texts_are_grouped_without_failing() -> None:
    groups = groups_of(["", "hi", "hi", "bye"])
    assert groups[1] == groups[2]
    assert groups[1] != groups[3]


def test_a_group_stays_in_one_fold_and_strata_are_spread() -> None:
    groups = np.repeat(np.arange(50), 2).astype(np.int32)
    strata = ["a", "a", "b", "b"] * 25
    fold = folds_of(strata, groups, 5, 0)
    assert all(len(set(fold[groups == group])) == 1 for group in range(50))
    per_fold = [[int(((fold == f) & (np.array(strata) == s)).sum()) for s in ("a", "b")] for f in range(5)]
    assert all(8 <= n <= 12 for counts in per_fold for n in counts)
    assert (fold == folds_of(strata, groups, 5, 0)).all()
