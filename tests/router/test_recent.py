"""Counts over a sliding window."""

from smallfirst.router.recent import Recent


class Clock:
    now = 7.3

    def __call__(self) -> float:
        return self.now


def test_what_happened_within_the_window_counts_and_the_rest_is_forgotten() -> None:
    clock = Clock()
    recent = Recent(10, clock)
    recent.add(1)
    clock.now += 5
    recent.add(1, 2)
    assert recent.counts() == (2, 2)
    clock.now += 5.5
    assert recent.counts() == (1, 2)
    clock.now += 100
    assert recent.counts() == (0, 0)


def test_it_keeps_no_more_than_its_slices() -> None:
    clock = Clock()
    recent = Recent(10, clock)
    for _ in range(1000):
        recent.add(1)
        clock.now += 0.1
    # A tenth of the window is the finest that is told apart.
    assert 90 <= recent.counts()[0] <= 100


def test_all_can_be_forgotten() -> None:
    recent = Recent(10, Clock())
    recent.add(3, 4)
    recent.clear()
    assert recent.counts() == (0, 0)
