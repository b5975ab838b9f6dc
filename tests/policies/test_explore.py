"""Exploring: the first tier by lot, with a probability that is known, and never where a request may not go."""

import random
from collections import Counter
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from smallfirst.policies import Candidate, Decision, Needs, Policy, Score, decide
from smallfirst.policies.types import Allowance, Capability

LOCAL = Candidate("small", "local", 8192, frozenset({"tools"}), measured=True, usd=0.0)
CLOUD = Candidate("big", "cloud", 128_000, frozenset({"tools"}), measured=True, usd=0.01, baseline=True)
EASY = Score({"small": 0.95, "big": 0.97}, "chat", 0.1)
HARD = Score({"small": 0.1, "big": 0.97}, "chat", 0.9)
CURIOUS = Policy(name="curious", explore=0.2)
# Of a rate of 0.2, half of the draws stay where the policy would have gone.
OTHER, OWN = 0.05, 0.5
BUDGET = Policy(name="budget", explore=0.2, max_quality_loss=0.02)
ALLOWED = {"small": Allowance(max_gap=0.05, cascade_gap=0.5, min_confidence=0.6, kept=0.9)}


def decided(score: Score | None, draw: float | None, policy: Policy = CURIOUS, **fields: Any) -> Decision:
    needs = fields.pop("needs", Needs(100))
    candidates = fields.pop("candidates", (LOCAL, CLOUD))
    found = decide(needs, score, policy, candidates, draw=draw, **fields)
    assert isinstance(found, Decision)
    return found


def told(found: Decision) -> tuple[str, float, bool]:
    return found.attempts[0].tier, found.propensity, found.explored


@pytest.mark.parametrize(("score", "own", "other"), [(EASY, "local", "cloud"), (HARD, "cloud", "local")])
def test_half_of_the_rate_goes_the_other_way(score: Score, own: str, other: str) -> None:
    assert told(decided(score, OWN)) == (own, 0.9, False)
    assert told(decided(score, OTHER)) == (other, 0.1, True)


@pytest.mark.parametrize("score", [EASY, HARD])
def test_probabilities_are_how_often_a_tier_comes_first(score: Score) -> None:
    draws = [at / 1000 for at in range(1000)]
    tiers = Counter(told(decided(score, draw))[:2] for draw in draws)
    assert {tier: n / 1000 for (tier, _), n in tiers.items()} == dict(tiers.keys())


def test_what_was_explored_says_so() -> None:
    found = decided(EASY, OTHER)
    assert found.code == "explored"
    assert "by lot" in found.reason
    assert decided(EASY, OWN).code == "local_likely_right"


def test_the_other_tier_still_comes_after() -> None:
    assert [attempt.model for attempt in decided(HARD, OTHER).attempts] == ["small", "big"]
    assert [attempt.model for attempt in decided(EASY, OTHER).attempts] == ["big", "small"]


def test_a_policy_that_does_not_explore_leaves_nothing_to_chance() -> None:
    assert told(decided(EASY, 0.0, Policy(name="calm"))) == ("local", 1.0, False)


def test_without_a_draw_nothing_is_explored() -> None:
    assert told(decided(EASY, None)) == ("local", 1.0, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"needs": Needs(100, privacy="local")},
        {"needs": Needs(100, pinned="small")},
        {"candidates": (LOCAL,)},
        {"candidates": (LOCAL, Candidate("big", "cloud", 128_000, available=False))},
        {"candidates": (LOCAL, Candidate("big", "cloud", 50))},
        {"policy": CURIOUS.model_copy(update={"privacy": "local"})},
    ],
)
def test_no_request_goes_to_a_cloud_that_may_not_have_it(fields: dict[str, Any]) -> None:
    assert told(decided(EASY, 0.0, **fields)) == ("local", 1.0, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"needs": Needs(100, capabilities=frozenset({"images"}))},
        {"needs": Needs(20_000)},
        {"candidates": (Candidate("small", "local", 8192, available=False), CLOUD)},
    ],
)
def test_no_request_goes_to_a_local_model_that_cannot_take_it(fields: dict[str, Any]) -> None:
    big = Candidate("big", "cloud", 128_000, frozenset({"tools", "images"}), usd=0.01)
    fields = {"candidates": (LOCAL, big), **fields}
    assert told(decided(HARD, 0.0, **fields)) == ("cloud", 1.0, False)


def test_a_risk_budget_is_explored_towards_the_cloud_alone() -> None:
    """The baseline's answer in the local one's place loses no quality."""
    assert told(decided(EASY, OTHER, BUDGET, allowances=ALLOWED)) == ("cloud", 0.1, True)
    assert told(decided(EASY, OWN, BUDGET, allowances=ALLOWED)) == ("local", 0.9, False)
    assert told(decided(HARD, OTHER, BUDGET, allowances=ALLOWED)) == ("cloud", 1.0, False)


def test_a_policy_that_drift_has_tightened_tries_nothing_out_locally() -> None:
    assert told(decided(HARD, OTHER, tightened=0.05)) == ("cloud", 1.0, False)


def test_more_than_half_at_random_is_refused() -> None:
    """The policy's own tier is always the likelier one: that is how it is told from the log."""
    with pytest.raises(ValidationError, match="explore"):
        Policy(explore=0.6)


def anything(rng: random.Random) -> dict[str, Any]:
    """Draw a request, models, a policy and what else a decision rests on."""
    able: tuple[Capability, ...] = ("images", "json_schema", "tools")
    cascades: tuple[Literal["off", "auto", "always"], ...] = ("off", "auto", "always")

    def some() -> frozenset[Any]:
        return frozenset(name for name in able if rng.random() < 0.7)

    candidates = [
        Candidate(
            f"{tier}{at}",
            tier,
            rng.choice((500, 4000, 100_000)),
            some(),
            available=rng.random() < 0.9,
            measured=rng.random() < 0.7,
            usd=rng.choice((None, 0.0, 0.01)),
            baseline=tier == "cloud" and at == 0,
        )
        for tier in ("local", "cloud")
        for at in range(rng.choice((0, 1, 2, 2)))
    ] or [CLOUD]
    names = [candidate.name for candidate in candidates]
    score = Score({name: rng.random() for name in names}, "chat", 0.5, known=rng.random() < 0.8)
    return {
        "needs": Needs(
            rng.choice((10, 3000)),
            rng.choice((None, 50, 2000)),
            frozenset(name for name in able if rng.random() < 0.1),
            privacy=rng.choice(("any", "any", "local")),
            pinned=rng.choice((None,) * 9 + (*names,)),
            allowed=rng.choice((None, None, frozenset(names[1:]))),
        ),
        "score": score,
        "policy": Policy(
            explore=rng.choice((0.02, 0.5)),
            privacy=rng.choice(("any", "any", "local")),
            max_quality_loss=rng.choice((None, None, 0.02)),
            cascade=rng.choice(cascades),
            fallback_to_local=rng.random() < 0.5,
            uncertain=rng.choice(("local", "cloud")),
        ),
        "candidates": candidates,
        "allowances": {name: ALLOWED["small"] for name in names if rng.random() < 0.7},
        "tightened": rng.choice((0.0, 0.0, 0.1, 2.0)),
    }


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_drawn_nobody_is_asked_who_may_not_be(seed: int) -> None:
    """Over random requests, models and policies: a lot changes who comes first, and lets in nobody."""
    rng = random.Random(seed)
    explored = 0
    for _ in range(500):
        asked = anything(rng)
        calm, own, other = (decide(**asked, draw=draw) for draw in (None, 0.999, 0.0))
        if not isinstance(calm, Decision):
            assert calm == own == other
            continue
        assert isinstance(own, Decision)
        assert isinstance(other, Decision)
        assert (own.attempts, own.explored) == (calm.attempts, False)
        needs, policy = asked["needs"], asked["policy"]
        models = {candidate.name: candidate for candidate in asked["candidates"]}
        for attempt in other.attempts:
            model = models[attempt.model]
            assert needs.capabilities <= model.capabilities
            assert needs.allowed is None or model.name in needs.allowed
            assert needs.pinned in (None, model.name)
            assert needs.input_tokens < model.context_tokens
            if "local" in (needs.privacy, policy.privacy):
                assert model.tier == "local"
        if not other.explored:
            assert other == calm
            continue
        explored += 1
        assert models[other.attempts[0].model].available
        assert other.attempts[0].tier != calm.attempts[0].tier
        assert (own.propensity, other.propensity) == (1 - policy.explore / 2, policy.explore / 2)
        if policy.max_quality_loss is not None or asked["tightened"]:
            assert other.attempts[0].tier == "cloud"
    assert explored > 10
