"""Tightened decisions: local models must be more likely to be right than the policy asks."""

from typing import Any

import pytest

from smallfirst.policies import Candidate, Decision, Needs, Policy, Score, decide

SMALL = Candidate("small", "local", 4096)
BIG = Candidate("big", "cloud", 100_000)
LIKELY = Score({"small": 0.8, "big": 0.9}, "knowledge", 0.1)
CERTAIN = Score({"small": 1.0, "big": 0.0}, "knowledge", 0.0)
UNKNOWN = Score({"small": 1.0, "big": 0.0}, "knowledge", 0.0, known=False)


def first(score: Score, tightened: float, **fields: Any) -> str:
    policy = Policy(**{"name": "mine", "min_local_success": 0.7, "max_gap": 0.2, **fields})
    decision = decide(Needs(input_tokens=10), score, policy, [SMALL, BIG], tightened=tightened)
    assert isinstance(decision, Decision)
    return decision.attempts[0].model


@pytest.mark.parametrize("fields", [{"max_gap": 1.0}, {"min_local_success": 0.0}])
def test_both_thresholds_are_tightened(fields: dict[str, Any]) -> None:
    assert first(LIKELY, 0.0, **fields) == "small"
    assert first(LIKELY, 0.15, **fields) == "big"


def test_what_nothing_is_known_of_goes_to_the_cloud() -> None:
    assert first(UNKNOWN, 0.0, uncertain="local") == "small"
    assert first(UNKNOWN, 0.1, uncertain="local") == "big"


@pytest.mark.parametrize("fields", [{}, {"cascade": "always"}, {"uncertain": "local"}])
@pytest.mark.parametrize("score", [LIKELY, CERTAIN, UNKNOWN])
def test_by_more_than_one_everything_goes_to_the_cloud(fields: dict[str, Any], score: Score) -> None:
    assert first(score, 3.0, **fields) == "big"


def test_privacy_is_stronger() -> None:
    assert first(LIKELY, 3.0, privacy="local") == "small"
