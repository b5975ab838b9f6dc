"""`decide()` as data: needs, score, policy and candidates in; a plan or a refusal out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import ValidationError

from smallfirst.policies import (
    PRESETS,
    Attempt,
    Candidate,
    Decision,
    Needs,
    Policy,
    Refusal,
    Score,
    decide,
    load_preset,
)

SMALL = Candidate("small", "local", 4096, frozenset({"tools", "json_schema"}))
BIG = Candidate("big", "cloud", 128_000, frozenset({"tools", "json_schema", "images"}))
BALANCED = load_preset("balanced")
EASY = Score({"small": 0.95, "big": 0.98}, "knowledge", 0.1)
HARD = Score({"small": 0.20, "big": 0.90}, "reasoning", 0.9)
NEEDS = Needs(input_tokens=20)


def plan(decided: Decision | Refusal) -> tuple[str, ...]:
    assert isinstance(decided, Decision)
    return tuple(attempt.model for attempt in decided.attempts)


def refusal(decided: Decision | Refusal) -> Refusal:
    assert isinstance(decided, Refusal)
    return decided


def test_an_easy_request_runs_locally_with_the_cloud_behind_it() -> None:
    decided = decide(NEEDS, EASY, BALANCED, [SMALL, BIG])
    assert decided == Decision(
        attempts=(Attempt("small", "local"), Attempt("big", "cloud")),
        reason="knowledge: small is likely to be right (0.95, at least 0.70)",
        code="local_likely_right",
        policy="balanced",
        score=EASY,
    )


def test_a_hard_request_goes_to_the_cloud_with_the_local_model_behind_it() -> None:
    decided = decide(NEEDS, HARD, BALANCED, [SMALL, BIG])
    assert plan(decided) == ("big", "small")
    assert isinstance(decided, Decision)
    assert decided.code == "local_likely_wrong"


def test_the_cloud_answers_where_it_is_much_more_likely_to_be_right() -> None:
    score = Score({"small": 0.71, "big": 0.99}, "chat", 0.5)
    decided = decide(NEEDS, score, BALANCED, [SMALL, BIG])
    assert plan(decided) == ("big", "small")
    assert isinstance(decided, Decision)
    assert decided.code == "cloud_likely_better"


@pytest.mark.parametrize(("preset", "first"), [("balanced", "big"), ("quality", "big"), ("thrifty", "small")])
def test_the_policy_says_where_the_unknown_goes(preset: str, first: str) -> None:
    unknown = replace(EASY, known=False)
    assert plan(decide(NEEDS, unknown, load_preset(preset), [SMALL, BIG]))[0] == first


def test_the_first_local_model_that_will_do_is_taken() -> None:
    tiny = replace(SMALL, name="tiny")
    score = Score({"tiny": 0.5, "small": 0.9, "big": 0.95}, "chat", 0.3)
    assert plan(decide(NEEDS, score, BALANCED, [tiny, SMALL, BIG])) == ("small", "big")


def test_without_a_cloud_the_local_model_answers_and_the_reason_says_so() -> None:
    decided = decide(NEEDS, HARD, BALANCED, [SMALL])
    assert plan(decided) == ("small",)
    assert isinstance(decided, Decision)
    assert decided.code == "cloud_not_configured"
    assert decided.reason == "no cloud model is configured; the local model answers"


def test_while_the_cloud_is_down_the_local_model_answers_and_the_reason_says_so() -> None:
    decided = decide(NEEDS, HARD, BALANCED, [SMALL, replace(BIG, available=False)])
    assert plan(decided) == ("small",)
    assert isinstance(decided, Decision)
    assert decided.code == "cloud_down"


def test_a_policy_without_fallback_refuses_while_the_cloud_is_down() -> None:
    strict = BALANCED.model_copy(update={"fallback_to_local": False})
    decided = decide(NEEDS, HARD, strict, [SMALL, replace(BIG, available=False)])
    assert refusal(decided).code == "no_model_available"


def test_what_the_local_model_cannot_do_goes_to_the_cloud_however_easy_it_is() -> None:
    needs = Needs(20, capabilities=frozenset({"images"}))
    decided = decide(needs, EASY, BALANCED, [SMALL, BIG])
    assert plan(decided) == ("big",)
    assert isinstance(decided, Decision)
    assert decided.reason == "the local model cannot take it (needs images)"


def test_what_is_too_long_for_the_local_context_goes_to_the_cloud() -> None:
    assert plan(decide(Needs(4000), EASY, BALANCED, [SMALL, BIG])) == ("big",)
    assert plan(decide(Needs(4000, output_tokens=50), EASY, BALANCED, [SMALL, BIG])) == ("small", "big")


def test_a_high_limit_on_the_answer_is_no_need() -> None:
    needs = Needs(100, output_tokens=64_000)
    flexible = replace(SMALL, answer_tokens=300)
    assert plan(decide(needs, EASY, BALANCED, [flexible, BIG])) == ("small", "big")
    # Its server wants room for all of it.
    assert plan(decide(needs, EASY, BALANCED, [SMALL, BIG])) == ("big",)


@pytest.mark.parametrize("limit", [128_000, 2**31 - 1])
def test_a_limit_that_no_model_can_reach_keeps_nobody_out(limit: int) -> None:
    needs = Needs(100, output_tokens=limit)
    flexible = replace(SMALL, answer_tokens=300)
    assert plan(decide(needs, EASY, BALANCED, [flexible, BIG])) == ("small", "big")
    assert plan(decide(needs, HARD, BALANCED, [flexible, BIG])) == ("big", "small")
    # Where one can, it is asked, and the others are not.
    huge = replace(BIG, name="huge", context_tokens=limit + 100)
    score = replace(HARD, success={**HARD.success, "huge": 0.9})
    assert plan(decide(needs, score, BALANCED, [flexible, BIG, huge])) == ("huge", "small")


def test_an_answer_that_may_well_be_cut_goes_to_the_cloud_with_the_local_model_behind_it() -> None:
    needs = Needs(3700, output_tokens=8192)
    cramped = replace(SMALL, answer_tokens=800)
    decided = decide(needs, EASY, BALANCED, [cramped, BIG])
    assert plan(decided) == ("big", "small")
    assert isinstance(decided, Decision)
    assert decided.code == "local_unable"
    # A longer context, or a lower limit, leaves room enough.
    roomy = replace(cramped, name="roomy", context_tokens=8192)
    score = replace(EASY, success={**EASY.success, "roomy": 0.9})
    assert plan(decide(needs, score, BALANCED, [cramped, roomy, BIG])) == ("roomy", "big")
    assert plan(decide(replace(needs, output_tokens=50), EASY, BALANCED, [cramped, BIG]))[0] == "small"


def test_a_cramped_local_model_answers_where_nobody_else_may() -> None:
    cramped = replace(SMALL, answer_tokens=800)
    for needs in (Needs(3700, output_tokens=8192), Needs(3700)):
        assert plan(decide(needs, EASY, BALANCED, [cramped])) == ("small",)
        assert plan(decide(replace(needs, privacy="local"), EASY, BALANCED, [cramped, BIG])) == ("small",)


def test_without_room_for_a_short_answer_a_local_model_cannot_take_a_request() -> None:
    full = replace(SMALL, answer_tokens=800)
    assert plan(decide(Needs(4000, output_tokens=8192), EASY, BALANCED, [full, BIG])) == ("big",)
    refused = refusal(decide(Needs(4000, output_tokens=8192), EASY, BALANCED, [full]))
    assert refused.code == "context_length_exceeded"
    assert "asks for 256 more" in refused.reason


def test_what_is_too_long_for_every_model_is_refused_with_the_numbers() -> None:
    refused = refusal(decide(Needs(200_000, output_tokens=10), EASY, BALANCED, [SMALL, BIG]))
    assert (refused.code, refused.param) == ("context_length_exceeded", "messages")
    assert "200000" in refused.reason
    assert "128000" in refused.reason


def test_what_no_model_can_do_is_refused_naming_the_field() -> None:
    refused = refusal(decide(Needs(20, capabilities=frozenset({"logprobs"})), EASY, BALANCED, [SMALL, BIG]))
    assert (refused.code, refused.param) == ("unsupported_capability", "logprobs")


@pytest.mark.parametrize("preset", ["private", "offline"])
def test_a_private_policy_never_plans_a_cloud_model(preset: str) -> None:
    assert plan(decide(NEEDS, HARD, load_preset(preset), [SMALL, BIG])) == ("small",)


def test_a_private_request_that_no_local_model_can_take_is_refused() -> None:
    needs = Needs(20, capabilities=frozenset({"images"}), privacy="local")
    refused = refusal(decide(needs, EASY, BALANCED, [SMALL, BIG]))
    assert refused.code == "privacy_local_only"
    assert refused.reason == "privacy asks for a local model: the local model cannot take it (needs images)"


def test_a_named_model_is_taken_whatever_the_score() -> None:
    decided = decide(replace(NEEDS, pinned="big"), None, BALANCED, [SMALL, BIG])
    assert decided == Decision(
        (Attempt("big", "cloud"),), "the caller named this model", "pinned", "balanced"
    )


def test_a_named_cloud_model_is_refused_where_privacy_says_local() -> None:
    needs = replace(NEEDS, pinned="big", privacy="local")
    assert refusal(decide(needs, None, BALANCED, [SMALL, BIG])).code == "privacy_local_only"


def test_a_named_model_that_cannot_do_it_is_refused() -> None:
    needs = Needs(20, capabilities=frozenset({"images"}), pinned="small")
    assert refusal(decide(needs, None, BALANCED, [SMALL, BIG])).code == "unsupported_capability"


def cascade(**fields: object) -> Policy:
    return Policy.model_validate({"name": "mine", **fields})


def attempts(decided: Decision | Refusal) -> tuple[Attempt, ...]:
    assert isinstance(decided, Decision)
    return decided.attempts


def test_local_first_asks_the_local_model_however_hard_it_is_and_checks_its_answer() -> None:
    policy = cascade(cascade="always", min_confidence=0.6, self_consistency=3, early_cloud=0.4)
    decided = decide(NEEDS, HARD, policy, [SMALL, BIG])
    assert decided == Decision(
        attempts=(
            Attempt("small", "local", min_confidence=0.6, samples=3, valid=True, early=0.4),
            Attempt("big", "cloud"),
        ),
        reason="'mine' asks small first and checks its answer",
        code="local_first",
        policy="mine",
        score=HARD,
    )
    assert decided.mode == "cascade"


def test_local_first_asks_the_local_model_that_is_likeliest_to_be_right() -> None:
    tiny = replace(SMALL, name="tiny")
    decided = decide(NEEDS, HARD, cascade(cascade="always"), [tiny, SMALL, BIG])
    assert plan(decided) == ("small", "big")


def test_a_routed_local_answer_is_checked_where_the_policy_asks_for_it() -> None:
    policy = cascade(min_confidence=0.6)
    checked = Attempt("small", "local", min_confidence=0.6, valid=True)
    assert attempts(decide(NEEDS, EASY, policy, [SMALL, BIG])) == (checked, Attempt("big", "cloud"))
    # Behind the cloud there is nobody who could do better.
    assert attempts(decide(NEEDS, HARD, policy, [SMALL, BIG])) == (
        Attempt("big", "cloud"),
        Attempt("small", "local"),
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_check_no_answer(name: str) -> None:
    decided = decide(NEEDS, EASY, load_preset(name), [SMALL, BIG])
    assert isinstance(decided, Decision)
    assert decided.mode == "route"


def test_only_the_clouds_call_is_started_early() -> None:
    tiny = replace(SMALL, name="tiny")
    policy = cascade(privacy="local", min_confidence=0.6, early_cloud=0.4)
    assert [attempt.early for attempt in attempts(decide(NEEDS, HARD, policy, [SMALL, tiny]))] == [0, 0]


def test_a_policy_that_checks_nothing_cannot_ask_for_a_check() -> None:
    with pytest.raises(ValidationError, match="'cascade: off' checks no answer, but 'self_consistency' asks"):
        cascade(cascade="off", self_consistency=2)
    assert not any(a.checked for a in attempts(decide(NEEDS, EASY, cascade(cascade="off"), [SMALL, BIG])))


@pytest.mark.parametrize(
    "fields", [{"self_consistency": 6}, {"self_consistency": 0}, {"early_cloud": 1.1}, {"cascade": "never"}]
)
def test_checks_have_bounds(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        cascade(**fields)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_and_says_what_it_is_for(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.description


chances = st.floats(0, 1)
candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from(["a", "b", "c", "d"]),
        tier=st.sampled_from(["local", "cloud"]),
        context_tokens=st.integers(128, 10_000),
        capabilities=st.frozensets(st.sampled_from(["tools", "images", "json_schema"])),
        available=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda candidate: candidate.name,
)


@given(
    needs=st.builds(
        Needs,
        input_tokens=st.integers(0, 12_000),
        output_tokens=st.none() | st.integers(1, 4000),
        capabilities=st.frozensets(st.sampled_from(["tools", "images", "json_schema"])),
        privacy=st.sampled_from(["any", "local"]),
    ),
    success=st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), chances),
    known=st.booleans(),
    preset=st.sampled_from(PRESETS),
    models=candidates,
)
def test_no_plan_ever_breaks_a_hard_constraint(
    needs: Needs, success: dict[str, float], known: bool, preset: str, models: list[Candidate]
) -> None:
    policy: Policy = load_preset(preset)
    decided = decide(needs, Score(success, "chat", 0.5, known), policy, models)
    by_name = {model.name: model for model in models}
    if isinstance(decided, Refusal):
        return
    assert decided.attempts
    limit = needs.output_tokens or 0
    # One that no model could reach is none.
    least = limit if any(limit < model.context_tokens for model in models) else 256
    for attempt in decided.attempts:
        model = by_name[attempt.model]
        assert needs.capabilities <= model.capabilities
        assert needs.input_tokens + least <= model.context_tokens
        assert model.available
        if needs.privacy == "local" or policy.privacy == "local":
            assert model.tier == "local"


# --- hedging --------------------------------------------------------------------------------------------------------

SPARE = replace(BIG, name="spare")


def hedges(needs: Needs, policy: Policy, *candidates: Candidate, score: Score | None = HARD) -> list[float]:
    return [attempt.hedge for attempt in attempts(decide(needs, score, policy, candidates))]


def test_a_cloud_model_is_hedged_where_another_one_follows() -> None:
    policy = cascade(hedge_after=2.0)
    assert hedges(NEEDS, policy, SMALL, BIG, SPARE) == [2.0, 0.0, 0.0]
    assert hedges(NEEDS, policy, SMALL, BIG) == [0.0, 0.0]


def test_it_is_hedged_with_itself_where_the_policy_says_so() -> None:
    policy = cascade(hedge_after=2.0, hedge_same_model=True)
    assert hedges(NEEDS, policy, SMALL, BIG, SPARE) == [2.0, 2.0, 0.0]
    assert hedges(replace(NEEDS, pinned="big"), policy, SMALL, BIG) == [2.0]


def test_a_model_that_is_named_is_not_hedged_with_another() -> None:
    assert hedges(replace(NEEDS, pinned="big"), cascade(hedge_after=2.0), BIG, SPARE) == [0.0]


def test_no_local_model_is_hedged() -> None:
    policy = cascade(hedge_after=2.0, hedge_same_model=True)
    assert hedges(NEEDS, policy, SMALL, BIG, score=EASY) == [0.0, 2.0]
    assert hedges(replace(NEEDS, privacy="local"), policy, SMALL, BIG) == [0.0]


def test_answers_in_one_piece_may_have_a_time_of_their_own() -> None:
    whole = replace(NEEDS, whole=True)
    assert hedges(whole, cascade(hedge_after=2.0), BIG, SPARE) == [2.0, 0.0]
    assert hedges(whole, cascade(hedge_after=2.0, hedge_whole_after=20), BIG, SPARE) == [20, 0.0]
    assert hedges(whole, cascade(hedge_after=2.0, hedge_whole_after=0), BIG, SPARE) == [0.0, 0.0]
    assert hedges(NEEDS, cascade(hedge_whole_after=20), BIG, SPARE) == [0.0, 0.0]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hedge_nothing(name: str) -> None:
    decided = decide(NEEDS, HARD, load_preset(name), [SMALL, BIG, SPARE])
    assert isinstance(decided, Refusal) or not any(attempt.hedge for attempt in decided.attempts)


def test_a_policy_that_hedges_nothing_cannot_name_the_same_model() -> None:
    with pytest.raises(ValidationError, match="'hedge_same_model' does nothing without 'hedge_after'"):
        cascade(hedge_same_model=True)


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_the_time_to_hedge_after_is_a_number_of_seconds(seconds: float) -> None:
    with pytest.raises(ValidationError):
        cascade(hedge_after=seconds)
