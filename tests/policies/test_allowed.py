"""Deciding for a caller who may use some of the models alone."""

import pytest

from smallfirst.policies import Candidate, Decision, Needs, Refusal, Score, decide, load_preset

SMALL = Candidate("small", "local", 4096)
BIG = Candidate("big", "cloud", 100_000)
OTHER = Candidate("other", "cloud", 200_000)
HARD = Score({"small": 0.1, "big": 0.9, "other": 0.9}, "reasoning", 0.9)


def plan(needs: Needs, policy: str = "balanced") -> tuple[str, ...]:
    decided = decide(needs, HARD, load_preset(policy), [SMALL, BIG, OTHER])
    assert isinstance(decided, Decision)
    return tuple(attempt.model for attempt in decided.attempts)


@pytest.mark.parametrize(
    ("allowed", "models"),
    [
        (None, ("big", "other", "small")),
        ({"small", "other"}, ("other", "small")),
        ({"small"}, ("small",)),
        ({"big"}, ("big",)),
    ],
)
def test_only_allowed_models_are_in_the_plan(allowed: set[str] | None, models: tuple[str, ...]) -> None:
    assert plan(Needs(20, allowed=None if allowed is None else frozenset(allowed))) == models


def test_the_reason_says_that_the_key_does_not_allow_the_cloud() -> None:
    decided = decide(
        Needs(20, allowed=frozenset({"small"})), HARD, load_preset("balanced"), [SMALL, BIG, OTHER]
    )
    assert isinstance(decided, Decision)
    assert "the key does not allow it" in decided.reason


@pytest.mark.parametrize(
    "needs", [Needs(20, allowed=frozenset()), Needs(20, pinned="big", allowed=frozenset({"small"}))]
)
def test_without_an_allowed_model_it_is_refused_by_the_field_model(needs: Needs) -> None:
    refused = decide(needs, HARD, load_preset("balanced"), [SMALL, BIG, OTHER])
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.param) == ("model_not_allowed", "model")


def test_what_stands_in_the_way_of_allowed_models_is_told_and_nothing_of_others() -> None:
    refused = decide(
        Needs(150_000, allowed=frozenset({"big"})), HARD, load_preset("balanced"), [SMALL, BIG, OTHER]
    )
    assert isinstance(refused, Refusal)
    assert refused.code == "context_length_exceeded"
    assert "100000" in refused.reason
    assert "200000" not in refused.reason
