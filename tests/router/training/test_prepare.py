"""Preparing: rows, their labels and their folds belong together."""

from __future__ import annotations

import numpy as np

from smallfirst.router.training.prepare import AXES, Prepared, prepare
from smallfirst.router.training.rows import TrainingRow

THINGS = ("bread", "steel", "wool", "cheese", "paper", "glass", "rope", "paint", "leather", "honey")
TOWNS = ("Graz", "Linz", "Wels", "Steyr", "Enns")
HEADS = ("weak", "strong")
TEXT = "How is {} made, and what does one need for it in the old workshops of {} near the river?"


def row(at: int, subset: str, text: str) -> TrainingRow:
    body = {"messages": [{"role": "user", "content": text}]}
    return TrainingRow("f", str(at), subset, body, "t", "knowledge", {"weak": at / 100})


def rows() -> list[TrainingRow]:
    """Fifty questions, each of them with a near-duplicate that differs in a number; the last pair in two subsets."""
    made = []
    for at, (thing, town) in enumerate((thing, town) for thing in THINGS for town in TOWNS):
        text = f"{at % 7} {thing} {town} {TEXT.format(thing, town)} {thing} {town} {thing}"
        made += [row(2 * at, "a", text), row(2 * at + 1, "b" if at == 49 else "a", f"9{text}")]
    return made


def prepared(without: tuple[str, ...] = ()) -> Prepared:
    return prepare(rows(), HEADS, folds=5, seed=0, without=without)


def test_there_is_a_line_of_features_a_label_and_a_fold_for_each_row() -> None:
    made = prepared()
    assert [len(of) for of in (made.rows, made.matrix.focus, made.targets.success, made.fold)] == [100] * 4
    told = np.array([one.outcomes["weak"] for one in made.rows], np.float32)
    assert made.targets.success[:, 0].tolist() == told.tolist()
    assert np.isnan(made.targets.success[:, 1]).all()
    assert made.axes.shape == (made.matrix.focus.shape[1], AXES)


def test_near_duplicates_are_in_one_fold_and_no_fold_is_empty() -> None:
    fold = prepared().fold
    assert (fold[::2] == fold[1::2]).all()
    assert set(fold.tolist()) == set(range(5))


def test_a_subset_is_left_out_with_what_is_nearly_the_same() -> None:
    made = prepared(without=("b",))
    assert [one.id for one in made.rows] == [str(at) for at in range(98)]
    assert len(made.matrix.focus) == len(made.fold) == 98
