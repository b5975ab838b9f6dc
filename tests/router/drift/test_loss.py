"""The test of the loss budget: quiet while it is kept, loud soon after it is not."""

import math
import random

import pytest

from smallfirst.router.drift import LossDrift


def feed(drift: LossDrift, rate: float, n: int, seed: int, share: float = 1.0) -> LossDrift:
    """Feed outcomes that lose everything at some rate, else nothing."""
    source = random.Random(seed)
    for _ in range(n):
        drift.add(float(source.random() < rate), share=share)
    return drift


def test_false_alarms_are_at_most_as_frequent_as_said_though_the_loss_is_just_the_budget() -> None:
    streams = [feed(LossDrift(budget=0.05, alpha=0.05), 0.05, 2000, seed) for seed in range(200)]
    # 15 is the 0.95 quantile of as many coins that fall so with a probability of exactly 0.05.
    assert sum(stream.alarm for stream in streams) <= 15


def test_gains_make_up_for_losses() -> None:
    alarms = 0
    for seed in range(100):
        source, drift = random.Random(seed), LossDrift(budget=0.02, alpha=0.05)
        for _ in range(1000):
            u = source.random()
            drift.add(1.0 if u < 0.12 else -1.0 if u < 0.22 else 0.0)
        alarms += drift.alarm
    assert alarms <= 5


@pytest.mark.parametrize(("budget", "rate", "within"), [(0.02, 0.1, 600), (0.05, 0.2, 350)])
def test_a_loss_over_the_budget_is_found_soon_though_a_long_calm_went_before(
    budget: float, rate: float, within: int
) -> None:
    found = 0
    for seed in range(20):
        drift = feed(LossDrift(budget=budget, alpha=0.01), budget / 2, 2000, seed)
        assert not drift.alarm
        found += feed(drift, rate, within, -seed - 1).alarm
    assert found >= 18


def test_an_alarm_stays_though_nothing_is_lost_any_more() -> None:
    drift = feed(feed(LossDrift(budget=0.02, alpha=0.01), 0.5, 100, 1), 0.0, 5000, 2)
    assert (drift.alarm, drift.n) == (True, 5100)
    assert drift.evidence < 0


def test_what_a_share_of_traffic_loses_is_diluted_by_the_rest() -> None:
    full = feed(LossDrift(budget=0.05, alpha=0.01), 0.15, 1500, 3, share=1.0)
    diluted = feed(LossDrift(budget=0.05, alpha=0.01), 0.15, 1500, 3, share=0.3)
    assert (full.alarm, diluted.alarm) == (True, False)


def _unevenly_sampled(seed: int, *, weighed: bool) -> LossDrift:
    """Hard requests (half of them) lose 9 % and are sampled ten times as often: the mean loss is 4.5 %."""
    source = random.Random(seed)
    drift = LossDrift(budget=0.05, alpha=0.05, least_propensity=0.05 if weighed else 1.0)
    for _ in range(10_000):
        hard = source.random() < 0.5
        propensity = 0.5 if hard else 0.05
        if source.random() < propensity:
            loss = float(hard and source.random() < 0.09)
            drift.add(loss, propensity=propensity if weighed else 1.0)
    return drift


def test_outcomes_that_were_sampled_more_often_count_less() -> None:
    weighed = sum(_unevenly_sampled(seed, weighed=True).alarm for seed in range(20))
    taken_as_they_come = sum(_unevenly_sampled(seed, weighed=False).alarm for seed in range(20))
    assert weighed <= 1
    assert taken_as_they_come >= 15


@pytest.mark.parametrize(
    "outcome", [{"loss": 1.5}, {"loss": math.nan}, {"loss": 0, "share": 2}, {"loss": 0, "propensity": 0.05}]
)
def test_an_outcome_out_of_range_is_refused(outcome: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        LossDrift(budget=0.1, alpha=0.1, least_propensity=0.1).add(**outcome)


def test_the_evidence_is_zero_at_first_and_stays_a_number() -> None:
    drift = LossDrift(budget=0.0, alpha=0.01)
    assert drift.evidence == 0
    assert math.isfinite(feed(drift, 1.0, 20_000, 1).evidence)
