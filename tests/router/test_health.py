"""A model that keeps failing rests for a while, and is tried by one call before it is asked as before."""

from typing import Any

import pytest

from smallfirst.router.health import ModelHealth
from smallfirst.router.settings import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def health_of(clock: Clock, **rules: Any) -> ModelHealth:
    return ModelHealth({"m": Breaker(**{"failures": 1, "rest": 5, **rules})}, clock=clock)


def test_a_model_rests_after_three_failures_and_comes_back(clock: Clock) -> None:
    health = ModelHealth(clock=clock)
    for _ in range(2):
        health.failed("m")
    assert health.available("m")
    health.failed("m")
    assert not health.available("m")
    assert health.rest_left("m") == 5
    clock.now += 5
    assert health.available("m")


def test_it_rests_longer_each_time_up_to_a_bound(clock: Clock) -> None:
    health = health_of(clock, max_rest=12)
    for rest in (5, 10, 12, 12):
        health.failed("m")
        clock.now += rest - 0.1
        assert not health.available("m")
        clock.now += 0.1
        assert health.available("m")


def test_a_success_forgets_the_failures(clock: Clock) -> None:
    health = health_of(clock, failures=2)
    health.failed("m")
    health.succeeded("m")
    health.failed("m")
    assert health.available("m")


def test_after_a_rest_one_call_is_let_through_until_it_has_ended(clock: Clock) -> None:
    health = health_of(clock)
    health.failed("m")
    clock.now += 5
    assert [health.admits("m") for _ in range(3)] == [True, False, False]
    health.succeeded("m", clock.now)
    assert [health.admits("m") for _ in range(3)] == [True, True, True]


def test_a_call_that_says_nothing_lets_the_next_one_find_out(clock: Clock) -> None:
    health = health_of(clock)
    health.failed("m")
    clock.now += 5
    assert health.admits("m")
    health.released("m", clock.now)
    assert health.admits("m")


def test_a_call_that_never_tells_its_end_does_not_keep_others_out_for_good(clock: Clock) -> None:
    health = health_of(clock, max_rest=60)
    health.failed("m")
    clock.now += 5
    assert health.admits("m")
    clock.now += 60.1
    assert health.admits("m")


def test_calls_that_fail_at_once_make_one_rest(clock: Clock) -> None:
    """With 64 connections the first fault would else make it rest as long as it ever may."""
    health = health_of(clock, failures=3)
    begun = clock.now
    clock.now += 1
    for _ in range(64):
        health.failed("m", begun)
    assert health.rest_left("m") == 5


def test_an_answer_from_before_the_rest_does_not_end_it(clock: Clock) -> None:
    health = health_of(clock)
    begun = clock.now
    clock.now += 1
    health.failed("m")
    health.succeeded("m", begun)
    assert not health.available("m")


def test_a_stream_that_begins_ends_the_rest_but_its_break_begins_the_next_longer_one(clock: Clock) -> None:
    health = health_of(clock, failures=3)
    for _ in range(3):
        health.failed("m")
    clock.now += 5
    assert health.admits("m")
    health.answering("m", clock.now)
    assert health.available("m")
    health.failed("m", clock.now)
    assert health.rest_left("m") == 10


def test_a_model_that_fails_every_second_call_rests_too(clock: Clock) -> None:
    """Failures in a row would never find it out."""
    health = health_of(clock, failures=3, least_calls=20, rate=0.5)
    for _ in range(9):
        health.succeeded("m")
        health.failed("m")
    assert health.available("m")
    health.succeeded("m")
    health.failed("m")
    assert not health.available("m")


def test_failures_of_long_ago_do_not_count_in_the_share(clock: Clock) -> None:
    health = health_of(clock, failures=3, least_calls=20, rate=0.5, window=30)
    for _ in range(9):
        health.succeeded("m")
        health.failed("m")
    clock.now += 31
    health.succeeded("m")
    health.failed("m")
    assert health.available("m")


def test_other_rules_begin_anew_and_equal_ones_go_on(clock: Clock) -> None:
    health = health_of(clock)
    health.failed("m")
    health.follow({"m": Breaker(failures=1, rest=5)})
    assert not health.available("m")
    health.follow({"m": Breaker(failures=2, rest=5)})
    assert health.available("m")


# --- servers that ask to be left alone ------------------------------------------------------------------------------


def test_a_server_that_asks_for_it_is_left_alone_for_so_long(clock: Clock) -> None:
    health = health_of(clock)
    health.rests("m", 30, 429)
    assert (health.available("m"), health.admits("m"), health.rest_left("m")) == (False, False, 30)
    assert health.told_by("m") == 429
    clock.now += 30
    assert (health.admits("m"), health.rest_left("m"), health.told_by("m")) == (True, 0, None)


def test_it_is_left_alone_no_longer_than_a_rest_may_be(clock: Clock) -> None:
    health = health_of(clock, max_rest=60)
    health.rests("m", 3600, 429)
    assert health.rest_left("m") == 60


def test_of_several_words_the_longest_counts(clock: Clock) -> None:
    health = health_of(clock)
    health.rests("m", 30, 429)
    health.rests("m", 10, 503)
    assert (health.rest_left("m"), health.told_by("m")) == (30, 429)


def test_calls_that_end_meanwhile_do_not_end_it(clock: Clock) -> None:
    health = health_of(clock, failures=9)
    health.rests("m", 30, 429)
    health.succeeded("m", begun=clock.now - 1)
    health.failed("m", begun=clock.now - 1)
    assert health.rest_left("m") == 30


def test_it_is_no_failure(clock: Clock) -> None:
    health = health_of(clock, failures=2)
    health.failed("m")
    health.rests("m", 30, 503)
    clock.now += 30
    assert health.available("m")
    health.failed("m")
    assert health.rest_left("m") == 5


def test_it_rests_until_both_are_over(clock: Clock) -> None:
    health = health_of(clock)
    health.failed("m")
    health.rests("m", 2, 429)
    assert health.rest_left("m") == 5
    health.rests("m", 30, 429)
    clock.now += 5
    assert not health.available("m")
    assert health.rest_left("m") == 25


def test_another_model_of_the_name_is_not_left_alone(clock: Clock) -> None:
    health = health_of(clock)
    health.rests("m", 30, 429)
    health.succeeded("m")
    assert health.available("m")
