"""The test of exchangeability: quiet while nothing changes, for ever; loud soon after a change."""

import math
import random
from collections.abc import Callable

import msgspec
import pytest

from smallfirst.router.drift import Histogram, ScoreDrift, ScoreReference

Draw = Callable[[random.Random], float]


def beta(a: float, b: float) -> Draw:
    return lambda source: source.betavariate(a, b)


def coin(p: float) -> Draw:
    return lambda source: float(source.random() < p)


def watch(draw: Draw, *, seed: int, calibrated: int = 500, alpha: float = 0.01) -> ScoreDrift:
    source = random.Random(-seed - 1)
    reference = Histogram.of(draw(source) for _ in range(calibrated))
    # Another seed than the streams': ranks among equals must be drawn apart from the scores.
    return ScoreDrift(alpha=alpha, reference=reference, seed=seed + 1_000_000)


def feed(drift: ScoreDrift, draw: Draw, n: int, seed: int) -> ScoreDrift:
    source = random.Random(seed)
    for _ in range(n):
        drift.add(draw(source))
    return drift


def test_false_alarms_are_at_most_as_frequent_as_said() -> None:
    calm = beta(2, 5)
    streams = [feed(watch(calm, seed=seed, alpha=0.05), calm, 1000, seed) for seed in range(200)]
    # 15 is the 0.95 quantile of as many coins that fall so with a probability of exactly 0.05.
    assert sum(stream.alarm for stream in streams) <= 15


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(beta(2, 5), beta(3.5, 3.5), id="harder"),
        pytest.param(beta(5, 2), beta(3.5, 3.5), id="easier"),
        pytest.param(beta(3, 3), beta(1, 1), id="wider"),
        pytest.param(beta(2, 2), beta(6, 6), id="narrower"),
        pytest.param(coin(0.02), coin(0.2), id="more unknown"),
    ],
)
def test_a_change_is_found_soon_though_a_long_calm_went_before(before: Draw, after: Draw) -> None:
    found = 0
    for seed in range(10):
        drift = feed(watch(before, seed=seed), before, 2000, seed)
        assert not drift.alarm
        found += feed(drift, after, 300, -seed - 1).alarm
    assert found >= 9


def test_traffic_unlike_the_calibration_from_its_first_request_is_found() -> None:
    assert feed(watch(beta(2, 5), seed=1), beta(3.5, 3.5), 150, 2).alarm


def test_without_calibration_scores_a_change_within_traffic_is_found() -> None:
    drift = ScoreDrift(alpha=0.01)
    assert not feed(drift, beta(2, 5), 1000, 1).alarm
    assert feed(drift, beta(3.5, 3.5), 300, 2).alarm


def test_an_alarm_stays_though_traffic_calms_down() -> None:
    drift = feed(watch(beta(2, 5), seed=1), beta(5, 2), 200, 2)
    assert drift.alarm
    feed(drift, beta(2, 5), 2000, 3)
    assert drift.alarm
    assert drift.n == 2200


def test_scores_that_are_all_the_same_are_no_evidence() -> None:
    drift = watch(coin(0), seed=1)
    assert drift.evidence == 0
    assert not feed(drift, coin(0), 2000, 1).alarm


def test_evidence_stays_a_number_however_clear_the_change_is() -> None:
    drift = feed(watch(beta(1, 50), seed=1, calibrated=100_000), beta(50, 1), 5000, 1)
    assert drift.alarm
    assert math.isfinite(drift.evidence)


def test_the_same_scores_and_seed_give_the_same_evidence() -> None:
    first, second = (feed(watch(beta(2, 5), seed=7), beta(2, 5), 50, 3) for _ in range(2))
    assert first.evidence == second.evidence


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="number"):
        ScoreDrift(alpha=0.1).add(math.nan)


def test_scores_beyond_the_range_count_at_its_ends() -> None:
    counts = Histogram.of([-5.0, 0.0, 1.0, 7.0]).counts
    assert (counts[0], counts[-1], sum(counts)) == (2, 2, 4)


def test_a_reference_counts_unknown_rows_apart() -> None:
    rows = [
        {"difficulty": 0.205, "gap": -0.5, "known": True},
        {"difficulty": 0.9, "gap": 0.9, "known": False},
    ]
    reference = ScoreReference.of(rows)
    assert sum(reference.difficulty.counts) == sum(reference.gap.counts) == 1
    assert reference.difficulty.counts[20] == 1
    assert reference.gap.counts[25] == 1
    assert (reference.unknown.counts[0], reference.unknown.counts[-1]) == (1, 1)


def test_a_reference_survives_json() -> None:
    reference = ScoreReference.of([{"difficulty": 0.2, "gap": 0.1, "known": True}])
    assert msgspec.json.decode(msgspec.json.encode(reference), type=ScoreReference) == reference


def test_a_histogram_with_other_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="100 counts"):
        Histogram(0.0, 1.0, (1, 2, 3))
