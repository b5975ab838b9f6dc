"""Decisions under a risk budget, and decisions by cost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from smallfirst.policies import Allowance, Attempt, Candidate, Decision, Needs, Policy, Score, decide

SMALL = Candidate("small", "local", 4096, usd=0.0)
BIG = Candidate("big", "cloud", 100_000, usd=0.01, measured=True, baseline=True)
MINI = Candidate("mini", "cloud", 100_000, measured=True, usd=0.001)
NEEDS = Needs(input_tokens=10)
# May answer alone up to 0.1 under the baseline, and be checked up to 0.4.
RULES = {"small": Allowance(max_gap=0.1, cascade_gap=0.4, min_confidence=0.85, kept=0.6)}
BUDGET = Policy(name="tight", max_quality_loss=0.02)
GAPS = Policy(name="plain", min_local_success=0.5, max_gap=0.2)


def score(small: float, big: float = 0.9, **fields: Any) -> Score:
    return Score({"small": small, "big": big, "mini": 0.88}, "knowledge", 0.3, **fields)


def decided(scored: Score | None, *models: Candidate, policy: Policy = BUDGET, **fields: Any) -> Decision:
    found = decide(NEEDS, scored, policy, models or (SMALL, BIG), **{"allowances": RULES, **fields})
    assert isinstance(found, Decision)
    return found


def order(decision: Decision) -> list[str]:
    return [attempt.model for attempt in decision.attempts]


# --- the risk budget ------------------------------------------------------------------------------------------------


def test_within_the_budget_the_local_answer_stands() -> None:
    found = decided(score(0.82))
    assert found == Decision(
        attempts=(Attempt("small", "local"), Attempt("big", "cloud")),
        reason="knowledge: big leads small by 0.08, at most 0.10 under a quality loss of at most 0.02",
        code="within_budget",
        policy="tight",
        score=score(0.82),
    )
    assert found.mode == "route"


def test_with_a_wider_gap_the_local_answer_is_checked_and_must_be_sure() -> None:
    found = decided(score(0.6), policy=BUDGET.model_copy(update={"early_cloud": 0.5}))
    first = Attempt("small", "local", min_confidence=0.85, valid=True, sure=True, early=0.5)
    assert found.attempts == (first, Attempt("big", "cloud"))
    assert (found.code, found.mode) == ("within_budget_checked", "cascade")
    assert found.reason == (
        "knowledge: big leads small by 0.30; its answer is checked under a quality loss of at most 0.02"
    )


def test_with_too_wide_a_gap_the_cloud_answers() -> None:
    found = decided(score(0.3))
    assert (order(found), found.code) == (["big", "small"], "over_budget")
    assert found.reason == "knowledge: big leads small by 0.60, too much for a quality loss of at most 0.02"


def test_the_edges_belong_to_the_narrower_zone() -> None:
    exact = {"small": Allowance(0.25, 0.5, 0.85, 0.6)}
    assert decided(score(0.5, 0.75), allowances=exact).code == "within_budget"
    assert decided(score(0.25, 0.75), allowances=exact).code == "within_budget_checked"


def test_what_was_not_calibrated_gets_nothing_however_easy_the_request() -> None:
    found = decided(score(1.0, 0.0), allowances={})
    assert (order(found), found.code) == (["big", "small"], "budget_not_met")
    assert "no calibration" in found.reason


def test_another_models_allowance_is_not_borrowed() -> None:
    other = replace(SMALL, name="other")
    scored = replace(score(0.3), success={"small": 0.3, "other": 1.0, "big": 0.9})
    assert decided(scored, other, SMALL, BIG).code == "over_budget"


@pytest.mark.parametrize("uncertain", ["local", "cloud"])
def test_an_unknown_request_goes_to_the_cloud_whatever_the_policy_says_of_it(uncertain: str) -> None:
    policy = BUDGET.model_copy(update={"uncertain": uncertain})
    found = decided(score(1.0, 0.0, known=False), policy=policy)
    assert (order(found)[0], found.code) == ("big", "uncertain_cloud")


def test_an_alarm_widens_the_gap() -> None:
    codes = [decided(score(0.82), tightened=by).code for by in (0.0, 0.1, 0.4, 3.0)]
    assert codes == ["within_budget", "within_budget_checked", "over_budget", "over_budget"]


def test_of_two_calibrated_models_the_first_that_keeps_the_budget_answers() -> None:
    other = replace(SMALL, name="other")
    scored = replace(score(0.3), success={"small": 0.3, "other": 0.85, "big": 0.9})
    both = RULES | {"other": RULES["small"]}
    assert order(decided(scored, SMALL, other, BIG, allowances=both)) == ["other", "big"]


def test_quality_is_held_against_the_baseline_and_not_the_first_cloud_model() -> None:
    scored = replace(score(0.6), success={"small": 0.6, "mini": 0.2, "big": 0.9})
    assert decided(scored, SMALL, MINI, BIG).code == "within_budget_checked"
    assert order(decided(score(0.3), SMALL, MINI, BIG)) == ["big", "mini", "small"]


def test_the_thresholds_without_a_budget_do_not_matter_under_one() -> None:
    lax = BUDGET.model_copy(update={"min_local_success": 0.0, "max_gap": 1.0, "cascade": "always"})
    assert decided(score(0.3), policy=lax).code == "over_budget"
    strict = BUDGET.model_copy(update={"min_local_success": 1.0, "max_gap": 0.0, "min_confidence": 0.9})
    assert decided(score(0.82), policy=strict).attempts[0] == Attempt("small", "local")


chance = st.floats(0, 1)


@given(
    success=st.fixed_dictionaries({"small": chance, "other": chance, "big": chance, "mini": chance}),
    known=st.booleans(),
    rules=st.dictionaries(
        st.sampled_from(["small", "other"]),
        st.tuples(st.floats(-1, 1), st.floats(-1, 1), chance, chance).map(
            lambda t: Allowance(min(t[:2]), max(t[:2]), t[2], t[3])
        ),
    ),
    fields=st.fixed_dictionaries(
        {
            "uncertain": st.sampled_from(["local", "cloud"]),
            "cascade": st.sampled_from(["auto", "always"]),
            "min_confidence": chance,
            "max_cloud_gap": chance,
            "fallback_to_local": st.booleans(),
        }
    ),
    tightened=st.floats(0, 2),
    prices=st.tuples(*[st.none() | chance] * 4),
)
def test_under_a_budget_nothing_is_answered_locally_but_what_an_allowance_covers(
    success: dict[str, float],
    known: bool,
    rules: dict[str, Allowance],
    fields: dict[str, Any],
    tightened: float,
    prices: tuple[float | None, ...],
) -> None:
    named = (SMALL, replace(SMALL, name="other"), MINI, BIG)
    models = [replace(model, usd=usd) for model, usd in zip(named, prices, strict=True)]
    policy = Policy(name="p", max_quality_loss=0.02, **fields)
    scored = Score(success, "chat", 0.5, known)
    found = decide(NEEDS, scored, policy, models, allowances=rules, tightened=tightened)
    assert isinstance(found, Decision)
    first, second, *_ = found.attempts
    if first.tier == "cloud":
        assert first.model == "big"
        return
    assert known
    rule, gap = rules[first.model], success["big"] - success[first.model] + tightened
    assert gap <= rule.cascade_gap
    if gap > rule.max_gap:
        assert first.sure
        assert first.min_confidence == rule.min_confidence
    assert second.model == "big"


def test_a_baseline_that_is_down_is_still_what_the_gap_is_taken_to() -> None:
    scored = Score({"small": 0.3, "big": 0.9, "mini": 0.4}, "chat", 0.5)
    rule = {"small": Allowance(0.2, 0.2, 1.0, 0.0)}
    down = replace(BIG, available=False)
    found = decided(scored, SMALL, down, MINI, allowances=rule)
    assert (found.code, order(found)[0]) == ("over_budget", "mini")


# --- costs ----------------------------------------------------------------------------------------------------------


def test_a_cheaper_measured_model_about_as_good_takes_the_first_ones_place() -> None:
    policy = GAPS.model_copy(update={"max_cloud_gap": 0.03})
    assert order(decided(score(0.2), SMALL, BIG, MINI, policy=policy)) == ["mini", "big", "small"]


@pytest.mark.parametrize(
    ("gap", "mini"),
    [
        (0.01, MINI),
        (0.03, replace(MINI, measured=False)),
        (0.03, replace(MINI, usd=None)),
        (0.03, replace(MINI, usd=0.02)),
        (0.03, replace(MINI, available=False)),
    ],
    ids=["not as good", "not measured", "price unknown", "dearer", "down"],
)
def test_else_the_first_is_asked(gap: float, mini: Candidate) -> None:
    policy = GAPS.model_copy(update={"max_cloud_gap": gap})
    assert order(decided(score(0.2), SMALL, BIG, mini, policy=policy))[0] == "big"


def test_without_a_known_score_or_the_first_ones_price_the_first_is_asked() -> None:
    policy = GAPS.model_copy(update={"max_cloud_gap": 0.5})
    assert order(decided(score(0.2, known=False), SMALL, BIG, MINI, policy=policy))[0] == "big"
    assert order(decided(score(0.2), SMALL, replace(BIG, usd=None), MINI, policy=policy))[0] == "big"


@pytest.mark.parametrize("first", [MINI, replace(MINI, measured=False), replace(MINI, usd=None)])
def test_without_a_budget_the_baseline_changes_neither_the_order_nor_the_choice(first: Candidate) -> None:
    baseline_second = (SMALL, first, BIG)
    assert order(decided(score(0.2), *baseline_second, policy=GAPS)) == ["mini", "big", "small"]
    assert order(decided(score(0.2, known=False), *baseline_second, policy=GAPS))[0] == "mini"
    # The local model is near enough to the first cloud model, and would not be to the baseline.
    scored = Score({"small": 0.6, "mini": 0.7, "big": 0.9}, "knowledge", 0.3)
    found = decided(scored, *baseline_second, policy=GAPS)
    assert (order(found), found.code) == (["small", "mini", "big"], "local_likely_right")


def test_under_a_risk_budget_no_other_cloud_model_takes_the_baselines_place() -> None:
    policy = BUDGET.model_copy(update={"max_cloud_gap": 1.0})
    assert order(decided(score(0.2), SMALL, MINI, BIG, policy=policy)) == ["big", "mini", "small"]


@pytest.mark.parametrize("policy", [GAPS, BUDGET])
def test_a_local_model_that_costs_more_than_the_cloud_is_not_asked_first(policy: Policy) -> None:
    dear = replace(SMALL, usd=0.02)
    found = decided(score(0.85), dear, BIG, policy=policy)
    assert (order(found), found.code) == (["big", "small"], "cloud_cheaper")
    assert found.reason == "big is expected to cost less"
    assert order(decided(score(0.85), dear, replace(BIG, usd=None), policy=policy))[0] == "small"


def test_a_cascade_must_pay_with_what_its_escalations_cost() -> None:
    # 40 % of its answers are turned down: it may cost up to 60 % of the cloud's price.
    assert order(decided(score(0.6), replace(SMALL, usd=0.0059), BIG))[0] == "small"
    assert order(decided(score(0.6), replace(SMALL, usd=0.0061), BIG))[0] == "big"


def test_privacy_is_stronger_than_any_budget_and_price() -> None:
    private = BUDGET.model_copy(update={"privacy": "local"})
    found = decided(score(0.1), replace(SMALL, usd=1.0), BIG, policy=private, allowances={})
    assert (order(found), found.code) == (["small"], "privacy_local")
