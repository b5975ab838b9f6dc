"""From logits to tokens: what is drawn, how often, and how sure the model was."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.models.local.engine.sampling import FloatArray, Sampler, SamplingParams

# Less likely than the others, but none so much that it would never be drawn.
LOGITS = [1.0, 0.5, -0.5, 0.0]
DRAWS = 4000


def array(values: list[float]) -> FloatArray:
    return np.array(values, np.float32)


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp((value - max(values)) / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def drawn(params: SamplingParams, logits: list[float], draws: int = DRAWS) -> Counter[int]:
    sampler = Sampler(params, len(logits))
    return Counter(sampler.choose(array(logits)) for _ in range(draws))


def assert_shares(found: Counter[int], shares: dict[int, float]) -> None:
    """Each share is within four standard errors of what is expected; nothing else was drawn."""
    assert set(found) == set(shares)
    draws = found.total()
    for token, share in shares.items():
        assert found[token] / draws == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / draws))


logit_lists = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12)


@given(logits=logit_lists, temperature=st.sampled_from([0.0, -1.0]))
def test_without_temperature_the_likeliest_is_taken(logits: list[float], temperature: float) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature), len(logits))
    assert sampler.choose(array(logits)) == logits.index(max(logits))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_models_probabilities_by_temperature(temperature: float) -> None:
    found = drawn(SamplingParams(temperature=temperature, seed=1), LOGITS)
    assert_shares(found, dict(enumerate(softmax(LOGITS, temperature))))


@pytest.mark.parametrize(("top_p", "nucleus"), [(0.0, [0]), (0.4, [0]), (0.7, [0, 1]), (0.8, [0, 1, 3])])
def test_only_the_nucleus_is_drawn_from(top_p: float, nucleus: list[int]) -> None:
    found = drawn(SamplingParams(temperature=1.0, top_p=top_p, seed=2), LOGITS)
    assert_shares(found, dict(zip(nucleus, softmax([LOGITS[token] for token in nucleus]), strict=True)))


@given(logits=logit_lists, top_p=st.floats(0, 1), temperature=st.floats(0.01, 5), seed=st.integers(0, 99))
def test_a_draw_is_of_the_fewest_tokens_that_have_top_p(
    logits: list[float], top_p: float, temperature: float, seed: int
) -> None:
    shares = softmax(logits)
    token = Sampler(SamplingParams(temperature, top_p, seed), len(logits)).choose(array(logits))
    likelier = math.fsum(
        share
        for share, logit in zip(softmax(logits, temperature), logits, strict=True)
        if logit > logits[token]
    )
    assert likelier <= top_p + 1e-6 or logits[token] == max(logits)
    assert shares[token] >= 0.05 * max(shares) * (1 - 1e-5)


@given(
    logits=logit_lists,
    forbidden=st.sets(st.integers(0, 11)),
    params=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.1, 1.0, 100.0]),
        top_p=st.sampled_from([0.1, 1.0]),
        seed=st.integers(0, 9),
        frequency_penalty=st.sampled_from([0.0, -2.0, 2.0]),
        presence_penalty=st.sampled_from([0.0, -2.0, 2.0]),
    ),
)
def test_what_is_forbidden_is_never_drawn(
    logits: list[float], forbidden: set[int], params: SamplingParams
) -> None:
    allowed = [token for token in range(len(logits)) if token not in forbidden] or [0]
    masked = array([logit if token in allowed else -math.inf for token, logit in enumerate(logits)])
    sampler = Sampler(params, len(logits))
    for _ in range(5):
        token = sampler.choose(masked)
        assert token in allowed
        sampler.accept(token)


def test_a_tail_of_noise_is_never_drawn_however_hot() -> None:
    found = drawn(SamplingParams(temperature=50.0, seed=3), [0.0, math.log(0.06), math.log(0.04), -20.0], 400)
    assert set(found) == {0, 1}


@pytest.mark.parametrize(
    ("frequency", "presence", "seen", "chosen"),
    [
        (0.0, 0.0, [0, 0, 0], 0),
        (0.0, 0.6, [0], 1),
        (0.0, 0.4, [0], 0),
        (0.0, 0.4, [0, 0, 0], 0),  # once, however often it was seen
        (0.2, 0.0, [0, 0], 0),
        (0.2, 0.0, [0, 0, 0], 1),
        (0.2, 0.2, [0, 0], 1),
        (0.0, -0.6, [1], 1),
        (-0.2, 0.0, [1, 1, 1], 1),
    ],
)
def test_what_was_said_is_less_likely_by_the_penalties(
    frequency: float, presence: float, seen: list[int], chosen: int
) -> None:
    params = SamplingParams(frequency_penalty=frequency, presence_penalty=presence)
    sampler = Sampler(params, 4)
    for token in seen:
        sampler.accept(token)
    assert sampler.choose(array(LOGITS)) == chosen


def test_choosing_leaves_the_logits_as_they_are() -> None:
    sampler = Sampler(SamplingParams(1.0, 0.9, 5, 1.0, 1.0), 4)
    sampler.accept(0)
    logits = array(LOGITS)
    sampler.choose(logits)
    sampler.describe(logits, 0, alternatives=3)
    assert logits.tolist() == LOGITS


@pytest.mark.parametrize("seed", [0, -1, 2**63, -(2**63), 10**30])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert sequence_of(seed) == sequence_of(seed) != sequence_of(seed + 1)


def sequence_of(seed: int | None) -> list[int]:
    sampler = Sampler(SamplingParams(temperature=1.5, seed=seed), 4)
    return [sampler.choose(array(LOGITS)) for _ in range(40)]


def test_the_same_seed_draws_the_same() -> None:
    assert sequence_of(1) == sequence_of(1) != sequence_of(2)


def test_without_a_seed_each_draws_anew() -> None:
    assert sequence_of(None) != sequence_of(None)


@given(logits=logit_lists, at=st.integers(0, 11), offset=st.sampled_from([0.0, 500.0, -500.0]))
def test_a_token_is_described_by_its_log_probability_and_margin(
    logits: list[float], at: int, offset: float
) -> None:
    values = array([logit + offset for logit in logits])
    at %= len(logits)
    token = Sampler(SamplingParams(), len(logits)).describe(values, at)
    exact = values.astype(np.float64)
    log_total = float(exact.max() + np.log(np.exp(exact - exact.max()).sum()))
    assert (token.id, token.top, token.forced) == (at, (), False)
    assert token.logprob == pytest.approx(float(exact[at]) - log_total, abs=1e-4)
    assert token.margin == float(exact[at]) - float(np.delete(exact, at).max())


@pytest.mark.parametrize(("token", "margin"), [(0, 0.5), (1, -0.5), (3, -1.0)])
def test_the_margin_is_negative_where_the_model_was_overruled(token: int, margin: float) -> None:
    assert Sampler(SamplingParams(), 4).describe(array(LOGITS), token).margin == margin


@pytest.mark.parametrize("token", [0, 1])
def test_of_two_equals_neither_has_a_margin(token: int) -> None:
    assert Sampler(SamplingParams(), 3).describe(array([2.0, 2.0, 1.0]), token).margin == 0.0


@pytest.mark.parametrize("count", [0, 1, 3, 4, 20])
def test_alternatives_are_the_likeliest_in_their_order(count: int) -> None:
    found = Sampler(SamplingParams(), 4).describe(array(LOGITS), 2, alternatives=count).top
    shares = softmax(LOGITS)
    assert [token for token, _ in found] == [0, 1, 3, 2][:count]
    assert [math.exp(logprob) for _, logprob in found] == pytest.approx([shares[token] for token, _ in found])


def test_a_token_has_the_same_log_probability_among_the_alternatives() -> None:
    token = Sampler(SamplingParams(), 4).describe(array(LOGITS), 1, alternatives=4)
    assert dict(token.top)[1] == token.logprob


@pytest.mark.parametrize("watched", [[0], [1, 3], [0, 1, 2, 3]])
def test_watched_tokens_have_their_probability_together(watched: list[int]) -> None:
    token = Sampler(SamplingParams(), 4).describe(array(LOGITS), 0, watched=np.array(watched))
    shares = softmax(LOGITS)
    assert token.watched == pytest.approx(math.log(math.fsum(shares[at] for at in watched)), abs=1e-6)


@pytest.mark.parametrize("watched", [[], [1]])
def test_watched_tokens_may_have_no_probability(watched: list[int]) -> None:
    ids = np.array(watched, np.int64)
    token = Sampler(SamplingParams(), 2).describe(array([0.0, -500.0]), 0, watched=ids)
    assert token.watched is not None
    assert math.exp(token.watched) == pytest.approx(0.0)


def test_without_watched_tokens_there_is_no_share() -> None:
    assert Sampler(SamplingParams(), 4).describe(array(LOGITS), 0).watched is None
