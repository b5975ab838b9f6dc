"""How long answers are: means under limits, cut answers, pairs."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.money.lengths import RECENT, Lengths, Pairs

TOKENS = st.lists(st.integers(0, 20_000), min_size=1, max_size=RECENT - 1)


def seen(*tokens: int, limit: int | None = None) -> Lengths:
    made = Lengths()
    for count in tokens:
        made.add(count, limit)
    return made


@given(TOKENS)
def test_without_limits_it_is_the_plain_mean(tokens: list[int]) -> None:
    assert seen(*tokens).expected() == pytest.approx(sum(tokens) / len(tokens))


@given(TOKENS, st.integers(1, 20_000))
def test_a_limit_is_never_exceeded(tokens: list[int], limit: int) -> None:
    assert seen(*tokens).expected(limit) <= limit


def test_a_limit_cuts_the_long_answers_and_leaves_the_short_ones() -> None:
    """The mean of min(length, limit), and not the smaller of mean and limit: that would be 100."""
    assert seen(10, 1000).expected(100) == pytest.approx((10 + 100) / 2)


def test_an_answer_that_was_cut_counts_as_longer() -> None:
    """Half of the answers under a limit of 100 are cut; of those without it, half have 500 tokens."""
    lengths = seen(20, 500)
    for _ in range(10):
        lengths.add(20, 100)
        lengths.add(100, 100)
    assert lengths.expected() == pytest.approx((20 + 500) / 2, rel=0.05)
    assert lengths.expected(100) == pytest.approx((20 + 100) / 2, rel=0.05)


def test_where_every_long_answer_was_cut_the_longest_is_taken() -> None:
    assert seen(64, 64, 64, limit=64).expected() == 64


def test_lengths_under_mixed_limits_are_learned_without_bias() -> None:
    rng = random.Random(4)
    lengths, whole = Lengths(), []
    for _ in range(RECENT - 1):
        tokens, limit = int(rng.expovariate(1 / 200)) + 1, rng.choice((50, 300, None))
        whole.append(tokens)
        lengths.add(min(tokens, limit or tokens), limit)
    assert lengths.expected() == pytest.approx(sum(whole) / len(whole), rel=0.15)


def test_a_guess_counts_as_one_answer() -> None:
    assert seen(100).expected(guess=300) == pytest.approx(200)
    assert seen(100).expected() == 100
    assert Lengths().expected(50, guess=300) == 50


def test_without_an_answer_or_a_guess_nothing_is_expected() -> None:
    with pytest.raises(ValueError, match="no answer"):
        Lengths().expected()


def test_old_answers_are_forgotten() -> None:
    lengths = seen(*[1000] * 50, *[10] * 10 * RECENT)
    assert lengths.expected() == pytest.approx(10, abs=0.1)


def test_pairs_follow_the_others_length() -> None:
    pairs = Pairs()
    for others in range(1, 101):
        pairs.add(others, 3 * others + 5)
    slope = (pairs.expected(80, 400.0) - pairs.expected(20, 400.0)) / 60
    # Of a hundred pairs ten count as what was known without them, for the height and for the slope.
    assert slope == pytest.approx(3 * (100 / 110) ** 2)


def test_few_pairs_change_little() -> None:
    pairs = Pairs()
    pairs.add(10, 30)
    assert 300 < pairs.expected(10, 400.0) < 400


def test_an_answer_longer_than_any_that_was_paired_is_not_guessed_from_pairs() -> None:
    pairs = Pairs()
    for _ in range(50):
        pairs.add(10, 10)
    assert pairs.expected(10, 400.0) < 100
    assert pairs.expected(11, 400.0) == 400.0


def test_a_bill_of_paired_predictions_is_about_right() -> None:
    """The true relation is no line; the sum is right all the same."""
    rng = random.Random(2)
    pairs, drawn = Pairs(), [(rng.randint(1, 60), rng.random()) for _ in range(4000)]
    truth = [round(10 + 40 * others**0.5 * (0.5 + noise)) for others, noise in drawn]
    for (others, _), own in zip(drawn[:2000], truth[:2000], strict=True):
        pairs.add(others, own)
    predicted = sum(pairs.expected(others, 250.0) for others, _ in drawn[2000:])
    assert predicted == pytest.approx(sum(truth[2000:]), rel=0.05)
