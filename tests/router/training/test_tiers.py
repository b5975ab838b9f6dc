"""Outcomes of many models become those of small, middling and large ones."""

from __future__ import annotations

import numpy as np
import pytest

from smallfirst.router.training.tiers import thirds, tier_outcomes

# Six models of rising strength over four prompts.
STRENGTH = {"f": 4, "c": 2, "e": 4, "a": 0, "b": 1, "d": 3}
ROWS = [{name: float(at < right) for name, right in STRENGTH.items()} for at in range(4)]


def test_models_are_ranked_by_what_they_got_right_and_cut_in_three() -> None:
    weakest, middle, strongest = thirds(ROWS).T
    assert weakest.tolist() == [0.5, 0, 0, 0]
    assert middle.tolist() == [1, 1, 0.5, 0]
    assert strongest.tolist() == [1, 1, 1, 1]


def test_each_row_gets_its_three_tiers() -> None:
    assert tier_outcomes("outcomes_many_models", ROWS)[2] == {"small": 0.0, "middle": 0.5, "large": 1.0}


def test_a_tier_none_of_whose_models_was_run_is_missing() -> None:
    rows = [*ROWS, {"a": 1.0, "b": 0.0}]
    assert tier_outcomes("outcomes_many_models", rows)[-1] == {"small": 0.5}
    assert np.isnan(thirds(rows)[-1]).tolist() == [False, True, True]


def test_a_model_that_answered_less_than_half_does_not_count() -> None:
    rows = [row | ({"lucky": 1.0} if at == 0 else {}) for at, row in enumerate(ROWS)]
    assert tier_outcomes("outcomes_many_models", rows) == tier_outcomes("outcomes_many_models", ROWS)


def test_a_source_of_small_models_says_nothing_of_large_ones() -> None:
    of = tier_outcomes("outcomes_7_small_models", ROWS)
    assert [set(row) for row in of] == [{"small"}] * 4
    assert [row["small"] for row in of] == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6])
