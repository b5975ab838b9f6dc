"""Expected costs: answers' lengths, cached prefixes, and what switching models in a session costs."""

from dataclasses import dataclass
from typing import Any

import pytest

from smallfirst.router.money import expected
from smallfirst.router.money.expected import CACHE_SECONDS, CACHE_TOKENS, FIRST_GUESS, Asked, ExpectedCost
from smallfirst.router.money.prices import PriceList
from smallfirst.router.settings import AnyModelSettings, CloudModelSettings, Price, default_local_model
from smallfirst.router.wire import Usage

LOCAL = default_local_model()
DEAR = CloudModelSettings(
    name="dear",
    kind="openai",
    price=Price(input=10, cached_input=1, output=40),
    base_url="http://127.0.0.1:9",
)
CHEAP = CloudModelSettings(
    name="cheap",
    kind="openai",
    price=Price(input=2, cached_input=0.5, output=8),
    base_url="http://127.0.0.1:9",
)
UNKNOWN = CloudModelSettings(name="nobody-knows-it", kind="openai", base_url="http://127.0.0.1:9/v1")
MODELS: tuple[AnyModelSettings, ...] = (LOCAL, DEAR, CHEAP, UNKNOWN)
LONG = Usage(input_tokens=4000, output_tokens=100)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def costs(clock: Clock) -> ExpectedCost:
    return ExpectedCost(MODELS, PriceList().price, clock=clock)


def usd(costs: ExpectedCost, model: str, tokens: int = 5000, **fields: Any) -> float | None:
    asked = {"limit": 10, "tenant": "t", "session": "s", **fields}
    return costs.usd(model, "chat", input_tokens=tokens, **asked)


def answered(costs: ExpectedCost, model: str, usage: Usage = LONG, **fields: Any) -> None:
    costs.answered(model, "chat", usage=usage, **{"tenant": "t", "session": "s", **fields})


def test_without_a_history_all_of_the_prompt_is_paid(costs: ExpectedCost) -> None:
    assert usd(costs, "dear") == pytest.approx((5000 * 10 + 10 * 40) / 1e6)
    assert usd(costs, LOCAL.name) == 0


def test_what_the_provider_has_of_the_session_is_at_the_cached_price(costs: ExpectedCost) -> None:
    answered(costs, "dear")
    # It has the prompt and its own answer: 4,100 tokens.
    assert usd(costs, "dear") == pytest.approx((900 * 10 + 4100 * 1 + 10 * 40) / 1e6)


def test_switching_models_in_a_session_pays_the_whole_prefix(costs: ExpectedCost) -> None:
    fresh = {"dear": (5000 * 10 + 10 * 40) / 1e6, "cheap": (5000 * 2 + 10 * 8) / 1e6}
    assert {name: usd(costs, name) for name in fresh} == pytest.approx(fresh)
    answered(costs, "dear")
    # Five times as dear on a fresh prompt, and hardly any dearer once it has the prefix.
    assert usd(costs, "cheap") == pytest.approx(fresh["cheap"])
    assert usd(costs, "dear") == pytest.approx((900 * 10 + 4100 * 1 + 10 * 40) / 1e6)


def test_a_prefix_never_counts_for_more_than_the_prompt(costs: ExpectedCost) -> None:
    answered(costs, "dear")
    assert costs.cached_tokens("dear", "t", "s", 2000) == 2000


def test_a_short_prefix_is_not_kept_by_providers(costs: ExpectedCost) -> None:
    answered(costs, "dear", Usage(input_tokens=CACHE_TOKENS - 11, output_tokens=10))
    assert costs.cached_tokens("dear", "t", "s", 5000) == 0
    answered(costs, "dear", Usage(input_tokens=CACHE_TOKENS - 10, output_tokens=10))
    assert costs.cached_tokens("dear", "t", "s", 5000) == CACHE_TOKENS
    assert costs.cached_tokens("dear", "t", "s", CACHE_TOKENS - 1) == 0


def test_a_prefix_is_forgotten_after_some_minutes(costs: ExpectedCost, clock: Clock) -> None:
    answered(costs, "dear")
    clock.now += CACHE_SECONDS
    assert costs.cached_tokens("dear", "t", "s", 5000) == 4100
    clock.now += 1
    assert costs.cached_tokens("dear", "t", "s", 5000) == 0


@pytest.mark.parametrize("other", [{"tenant": "u"}, {"session": "z"}])
def test_tenants_and_sessions_are_apart(costs: ExpectedCost, other: dict[str, Any]) -> None:
    answered(costs, "dear")
    assert usd(costs, "dear", **other) == pytest.approx((5000 * 10 + 10 * 40) / 1e6)


def test_an_unknown_price_is_none_and_not_nothing(costs: ExpectedCost) -> None:
    assert usd(costs, "nobody-knows-it") is None


def test_the_callers_limit_bounds_the_answer(costs: ExpectedCost) -> None:
    assert costs.output_tokens("dear", "chat", 3) == 3
    assert costs.output_tokens("dear", "chat", None) == FIRST_GUESS["chat"]
    assert usd(costs, "dear", 0, limit=None) == pytest.approx(FIRST_GUESS["chat"] * 40 / 1e6)


def test_lengths_of_answers_are_learned_by_model_and_task(costs: ExpectedCost) -> None:
    answered(costs, "dear", Usage(input_tokens=1, output_tokens=10))
    once = costs.output_tokens("dear", "chat", None)
    assert FIRST_GUESS["chat"] > once > 10
    for _ in range(1000):
        answered(costs, "dear", Usage(input_tokens=1, output_tokens=10))
    assert costs.output_tokens("dear", "chat", None) == pytest.approx(10, abs=1)
    assert costs.output_tokens("cheap", "chat", None) == FIRST_GUESS["chat"]
    assert costs.output_tokens("dear", "code", None) == FIRST_GUESS["code"]


def test_an_answer_of_an_unknown_task_says_who_has_the_prefix_and_no_length(costs: ExpectedCost) -> None:
    costs.answered("dear", None, usage=LONG, tenant="t", session="s")
    assert costs.cached_tokens("dear", "t", "s", 5000) == 4100
    assert costs.output_tokens("dear", "chat", None) == FIRST_GUESS["chat"]


def test_only_the_latest_sessions_are_remembered(costs: ExpectedCost) -> None:
    answered(costs, "dear", session="first")
    answered(costs, "dear", session="second")
    for at in range(expected.SESSIONS - 1):
        answered(costs, "dear", session=str(at))
        if at == 5:
            answered(costs, "cheap", session="first")
    assert len(costs._sessions) == expected.SESSIONS
    # The second is the oldest by now; the first was there again meanwhile.
    assert costs.cached_tokens("dear", "t", "first", 5000) == 4100
    assert costs.cached_tokens("dear", "t", "second", 5000) == 0


# --- another model's request on the baseline --------------------------------------------------------------------------


def asked(limit: int | None = None, session: str = "s") -> Asked:
    return Asked("chat", limit, "t", session)


def taught(costs: ExpectedCost, *tokens: int, model: str = "dear") -> None:
    for at, count in enumerate(tokens):
        usage = Usage(input_tokens=100, output_tokens=count)
        costs.answered(model, "chat", usage=usage, tenant="t", session=f"other{at}", counted=100)


def test_an_answer_is_as_long_as_the_baselines_own_are(costs: ExpectedCost) -> None:
    taught(costs, *[100, 300] * 10)
    found = costs.instead("dear", asked(), LOCAL.name, Usage(input_tokens=100, output_tokens=7))
    assert found == Usage(input_tokens=100, output_tokens=200, estimated=True)


def test_until_the_baseline_has_answered_some_the_others_own_length_stands(costs: ExpectedCost) -> None:
    taught(costs, *[300] * 4)
    usage = Usage(input_tokens=100, output_tokens=7)
    assert costs.predicted_tokens("dear", "chat", None) is None
    assert costs.instead("dear", asked(), LOCAL.name, usage).output_tokens == 7
    taught(costs, 300)
    assert costs.instead("dear", asked(), LOCAL.name, usage).output_tokens == 300


def test_the_callers_limit_cuts_a_predicted_answer(costs: ExpectedCost) -> None:
    taught(costs, *[300] * 10)
    usage = Usage(input_tokens=100, output_tokens=7)
    assert costs.instead("dear", asked(limit=40), LOCAL.name, usage).output_tokens == 40


def test_pairs_of_answers_say_more_than_the_mean(costs: ExpectedCost) -> None:
    taught(costs, *[300] * 10)
    for _ in range(100):
        costs.paired("dear", "chat", own=12, other=LOCAL.name, others=6)
    short = costs.instead("dear", asked(), LOCAL.name, Usage(input_tokens=100, output_tokens=6))
    assert short.output_tokens < 60
    long = costs.instead("dear", asked(), LOCAL.name, Usage(input_tokens=100, output_tokens=200))
    assert long.output_tokens == 300, "longer than any that was compared"


def test_a_prompt_is_converted_between_tokenizers(costs: ExpectedCost) -> None:
    """The baseline counts a fifth fewer tokens than this gateway does, the local model a quarter more."""
    for at in range(1000):
        session: dict[str, Any] = {"tenant": "t", "session": f"other{at}", "counted": 1000}
        costs.answered("dear", "chat", usage=Usage(800, 300), **session)
        costs.answered(LOCAL.name, "chat", usage=Usage(1250, 300), **session)
    found = costs.instead("dear", asked(), LOCAL.name, Usage(input_tokens=1250, output_tokens=9))
    assert found.input_tokens == pytest.approx(800, rel=0.02)
    ours = costs.instead("dear", asked(), LOCAL.name, Usage(1000, 9, estimated=True))
    assert ours.input_tokens == pytest.approx(800, rel=0.02)


def test_the_baseline_would_have_had_a_sessions_prompt_in_its_cache(
    costs: ExpectedCost, clock: Clock
) -> None:
    """Whoever answered the last request: all would have gone to the baseline. What another has cached is its own."""
    usage = Usage(input_tokens=2 * CACHE_TOKENS, output_tokens=10, cached_tokens=7)
    assert costs.instead("dear", asked(), LOCAL.name, usage).cached_tokens == 0
    costs.seen(LOCAL.name, usage=usage, tenant="t", session="s")
    assert costs.instead("dear", asked(), LOCAL.name, usage).cached_tokens == 2 * CACHE_TOKENS
    assert costs.instead("dear", asked(session="other"), LOCAL.name, usage).cached_tokens == 0
    clock.now += CACHE_SECONDS + 1
    assert costs.instead("dear", asked(), LOCAL.name, usage).cached_tokens == 0


def test_answers_of_earlier_days_are_learned_from(costs: ExpectedCost) -> None:
    costs.remember([("dear", "chat", 70)] * 10 + [("gone", "chat", 1), ("dear", "no such task", 1)])
    assert costs.predicted_tokens("dear", "chat", None) == pytest.approx(70)


def test_without_a_task_nothing_is_predicted(costs: ExpectedCost) -> None:
    with pytest.raises(ValueError, match="task"):
        costs.instead("dear", Asked(None, None, "t", "s"), LOCAL.name, LONG)
