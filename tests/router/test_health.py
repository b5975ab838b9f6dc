"""A model that keeps failing rests for a while."""

from smallfirst.router.health import ModelHealth


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_model_rests_after_three_failures_and_comes_back() -> None:
    clock = Clock()
    health = ModelHealth(clock=clock, rest=5)
    for _ in range(2):
        health.failed("m")
    assert health.available("m")
    health.failed("m")
    assert not health.available("m")
    clock.now += 5
    assert health.available("m")


def test_it_rests_longer_each_time_up_to_a_bound() -> None:
    clock = Clock()
    health = ModelHealth(clock=clock, rest=5, max_rest=12, threshold=1)
    for rest in (5, 10, 12, 12):
        health.failed("m")
        clock.now += rest - 0.1
        assert not health.available("m")
        clock.now += 0.1
        assert health.available("m")


def test_a_success_forgets_the_failures() -> None:
    health = ModelHealth(threshold=2)
    health.failed("m")
    health.succeeded("m")
    health.failed("m")
    assert health.available("m")
