"""Savings: what was saved, how sure that is, and what it is made of."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smallfirst.router.ledger import AttemptRecord, Entry, Ledger, Outcome
from smallfirst.router.ledger.bootstrap import BUCKETS, Moments
from smallfirst.router.ledger.reading import facts_of
from smallfirst.router.ledger.render import table
from smallfirst.router.ledger.report import make_report
from smallfirst.router.ledger.savings import LEAST_CHECKED, LEAST_CLUSTERS, ClusterSums, savings
from smallfirst.router.ledger.savings_query import cluster_sums, read_lengths
from smallfirst.router.settings import LedgerSettings

INPUT, CACHED, OUTPUT = 2e-6, 5e-7, 8e-6


def sums(count: int, seed: int = 0, **fields: Any) -> ClusterSums:
    """Clusters of some requests each, that cost a tenth of what the baseline would have."""
    rng = np.random.default_rng(seed)
    requests = rng.integers(1, 20, count).astype(float)
    baseline = requests * rng.lognormal(-6, 0.5, count)
    made = ClusterSums(
        requests=requests,
        cost=baseline * 0.1,
        baseline=baseline,
        predicted=baseline * 0.5,
        actual_tokens=requests * 100,
        predicted_tokens=requests * 100,
        checked=LEAST_CHECKED,
    )
    return replace(made, **fields)


def test_the_point_is_the_baselines_bill_less_what_was_paid() -> None:
    found = savings(sums(50))
    clusters = sums(50)
    assert found.point == pytest.approx(math.fsum(clusters.baseline) - math.fsum(clusters.cost), abs=1e-12)
    assert found.booked == pytest.approx(found.point)
    assert found.share == pytest.approx(0.9)
    assert found.predicted_share == pytest.approx(0.5)


def test_the_point_lies_within_its_interval() -> None:
    found = savings(sums(200))
    ends = (found.low, found.high)
    assert None not in ends
    assert (found.low or 0) < found.point < (found.high or 0)


def test_a_share_that_is_the_same_in_every_session_is_certain() -> None:
    found = savings(sums(50))
    assert [found.share_low, found.share_high] == pytest.approx([0.9, 0.9], abs=1e-6)


def test_the_same_ledger_gives_the_same_interval() -> None:
    assert savings(sums(80), seed=3) == savings(sums(80), seed=3)
    assert savings(sums(80), seed=3).low != savings(sums(80), seed=4).low


def test_predictions_are_put_right_by_what_the_baseline_needed_itself() -> None:
    """Half of the bill is predicted, and predictions are twice too long: a quarter of the bill is too much."""
    clusters = sums(50)
    found = savings(replace(clusters, predicted_tokens=clusters.actual_tokens * 2))
    assert found.correction == pytest.approx(0.5)
    assert found.point == pytest.approx(found.booked - 0.25 * clusters.baseline.sum())
    assert "times 0.500" in found.method


def test_a_few_checks_put_nothing_right() -> None:
    clusters = sums(50)
    found = savings(replace(clusters, predicted_tokens=clusters.actual_tokens * 2, checked=LEAST_CHECKED - 1))
    assert [found.correction, found.point] == pytest.approx([1.0, found.booked])
    assert f"{LEAST_CHECKED - 1} could be checked" in found.method


def test_predictions_that_err_widely_widen_the_interval() -> None:
    clusters = sums(100)
    wild = clusters.actual_tokens * np.random.default_rng(1).lognormal(0, 1, 100)
    wild *= clusters.actual_tokens.sum() / wild.sum()
    calm, unsure = savings(clusters), savings(replace(clusters, actual_tokens=wild))
    assert None not in (calm.low, calm.high, unsure.low, unsure.high)
    assert (unsure.high or 0) - (unsure.low or 0) > 1.02 * ((calm.high or 0) - (calm.low or 0))


@pytest.mark.parametrize("count", [0, 1, LEAST_CLUSTERS - 1])
def test_a_few_sessions_give_no_interval(count: int) -> None:
    found = savings(sums(count))
    assert (found.low, found.high, found.share_low, found.share_high) == (None, None, None, None)
    assert "too few" in found.method


def test_what_was_spent_besides_requests_counts() -> None:
    """A comparison with the baseline costs money, and nobody asked for it."""
    clusters = sums(50)
    more = replace(clusters, cost=clusters.cost + 1.0)
    assert savings(more).point == pytest.approx(savings(clusters).point - 50.0)


def test_more_clusters_than_buckets_are_added_together() -> None:
    many = sums(5 * BUCKETS)
    assert many.table().shape == (BUCKETS, 6)
    assert many.table().sum(axis=0)[1] == pytest.approx(many.cost.sum())


@pytest.mark.parametrize("wrong", [np.ones(3), np.full(50, np.nan), np.ones((50, 1))])
def test_sums_that_do_not_fit_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"cluster|finite"):
        sums(50, cost=wrong)


def test_a_standard_error_is_what_resamples_scatter_by() -> None:
    """Held against scipy's own bootstrap."""
    stats = pytest.importorskip("scipy.stats")
    rows = np.random.default_rng(5).lognormal(0, 1, (300, 2))
    total = rows.sum(axis=0)
    slopes = np.array([[1 / total[1], -total[0] / total[1] ** 2]])
    drawn = stats.bootstrap(
        (rows[:, 0], rows[:, 1]),
        lambda top, under, axis: top.sum(axis=axis) / under.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    assert Moments.of(rows).total().spread(slopes)[0] == pytest.approx(drawn.standard_error, rel=0.1)


def simulated(seed: int, sessions: int) -> tuple[ClusterSums, int]:
    """A ledger whose predictions are 15 % too long, sessions alike within and bills with a long tail."""
    rng = np.random.default_rng(seed)
    size = 1 + rng.poisson(3, sessions)
    of = np.repeat(np.arange(sessions), size)
    local = rng.random(len(of)) < (0.3 + 0.5 * rng.random(sessions))[of]
    mean = np.array([20.0, 120.0, 600.0])[rng.integers(0, 3, len(of))]
    output = mean * np.exp(rng.normal(0, 0.6, sessions)[of] + rng.normal(0, 0.6, len(of)))
    predicted = mean * np.exp(0.36) * 1.15
    prompt = 300 * np.exp(rng.normal(0, 1, len(of))) * INPUT
    whole = prompt + output * OUTPUT

    def add(values: Any) -> Any:
        return np.bincount(of, values, sessions)

    made = ClusterSums(
        requests=add(np.ones(len(of))),
        cost=add(np.where(local, prompt / 20, whole)),
        baseline=add(prompt + np.where(local, predicted, output) * OUTPUT),
        predicted=add(np.where(local, predicted * OUTPUT, 0)),
        actual_tokens=add(np.where(local, 0, output)),
        predicted_tokens=add(np.where(local, 0, predicted)),
        checked=int((~local).sum()),
    )
    return made, len(of)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 ledgers; docs/savings.md has the figures of a thousand, and of longer tails."""
    large, n = simulated(1, 200_000)
    corrected = savings(large, resamples=100)
    each, share = corrected.point / n, corrected.share or 0.0
    held = np.zeros(2)
    for seed in range(200):
        clusters, requests = simulated(100 + seed, 200)
        found = savings(clusters, seed=seed, resamples=500)
        held += [
            (found.low or 0) <= each * requests <= (found.high or 0),
            (found.share_low or 0) <= share <= (found.share_high or 0),
        ]
    assert (held / 200 > 0.90).all(), held / 200


# --- from a ledger --------------------------------------------------------------------------------------------------


def entry(at: int, **fields: Any) -> Entry:
    """A request that the baseline answered: 100 tokens in, 40 of them cached, and `at` out; 200 were expected."""
    bill = 60 * INPUT + 40 * CACHED + at * OUTPUT
    given = {
        "request_id": f"r{at}",
        "session": f"s{at % 40}",
        "started_at": 1_700_000_000.0 + at,
        "duration_ms": 1.0,
        "route": "cloud",
        "model": "big",
        "baseline_model": "big",
        "task": "chat",
        "input_tokens": 100 + at % 7,
        "cached_tokens": 40,
        "output_tokens": at,
        "cost_usd": bill + (at % 7) * INPUT,
        "baseline_cost_usd": bill + (at % 7) * INPUT,
        "baseline_output_tokens": 200,
        **fields,
    }
    return Entry(**given)


def local(at: int, **fields: Any) -> Entry:
    bill = 100 * INPUT + 200 * OUTPUT
    return entry(
        at, **{"route": "local", "model": "small", "cost_usd": 0.0, "baseline_cost_usd": bill, **fields}
    )


def test_the_predicted_part_of_a_bill_is_found_by_the_price_of_an_output_token() -> None:
    entries = [*(entry(at) for at in range(100)), *(local(at, request_id=f"l{at}") for at in range(50))]
    found = cluster_sums(facts_of(entries))
    assert found.predicted.sum() == pytest.approx(50 * 200 * OUTPUT)
    assert (found.actual_tokens.sum(), found.predicted_tokens.sum()) == (sum(range(100)), 100 * 200)
    assert (found.requests.sum(), found.checked, found.unknown) == (150, 100, 0)


def test_requests_that_were_tried_on_the_baseline_by_lot_are_better_checks_than_others() -> None:
    entries = [*(entry(at) for at in range(100)), *(local(at, request_id=f"l{at}") for at in range(50))]
    tried = [entry(at, request_id=f"t{at}", explored=True, output_tokens=300) for at in range(LEAST_CHECKED)]
    found = cluster_sums(facts_of([*entries, *tried]))
    assert found.checked == LEAST_CHECKED
    assert found.actual_tokens.sum() / found.predicted_tokens.sum() == pytest.approx(1.5)


def test_a_request_of_unknown_cost_is_counted_and_in_no_sum() -> None:
    found = cluster_sums(facts_of([entry(1), entry(2, cost_usd=None), local(3, baseline_cost_usd=None)]))
    assert (found.requests.sum(), found.unknown) == (1, 2)
    assert savings(found).unknown == 2


def test_what_was_paid_for_no_answer_is_counted_and_what_cost_nothing_is_not() -> None:
    nobody: dict[str, Any] = {"route": "none", "status": "error", "model": None, "baseline_cost_usd": None}
    costs = (0.0, 0.01, None)
    found = cluster_sums(
        facts_of([entry(1), *(entry(2 + at, **nobody, cost_usd=usd) for at, usd in enumerate(costs))])
    )
    assert (found.requests.sum(), found.unknown) == (1, 2)


def test_a_comparison_costs_and_is_no_request() -> None:
    found = cluster_sums(facts_of([entry(1), entry(2, kind="shadow", baseline_cost_usd=0.0)]))
    assert (found.requests.sum(), found.checked) == (1, 1)
    assert found.baseline.sum() == pytest.approx(entry(1).baseline_cost_usd)
    assert found.cost.sum() > found.baseline.sum()


def test_a_cached_answer_of_the_baseline_is_known_and_checks_nothing() -> None:
    found = cluster_sums(facts_of([entry(50), *(entry(at, route="cache", cost_usd=0.0) for at in range(40))]))
    assert (found.checked, found.predicted.sum()) == (1, 0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(LedgerSettings(path=tmp_path / "ledger.db"))


def test_a_report_says_what_was_saved_and_how_that_is_known(ledger: Ledger) -> None:
    for at in range(100):
        ledger.record(entry(at))
        ledger.record(local(at, request_id=f"l{at}"))
    ledger.close()
    report = make_report(ledger.store, since=None, until=None, by=(), prices="p")
    assert report.savings is not None
    assert report.savings.clusters == 40
    told = json.loads(json.dumps(report.to_json()))["savings"]
    assert (told["point"], told["method"]) == (report.savings.point, report.savings.method)
    assert told["low"] < told["point"] < told["high"]
    text = table(report)
    assert text.splitlines()[-2].startswith(f"saved ${report.savings.point:.4f} (95 %: $")
    assert text.splitlines()[-1] == report.savings.method


def test_a_report_without_requests_that_can_be_compared_says_nothing_of_savings(ledger: Ledger) -> None:
    ledger.record(entry(1, baseline_cost_usd=None))
    ledger.close()
    report = make_report(ledger.store, since=None, until=None, by=(), prices="p")
    assert report.savings is None
    assert report.to_json()["savings"] is None
    assert "saved $" not in table(report)


def test_what_earlier_answers_teach_is_read_oldest_first(ledger: Ledger) -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
    ask = AttemptRecord("big", "cloud", "ok", 0, 1.0, 1, 1, 0.0)
    for at in (30, 10, 20):
        ledger.record(local(at, started_at=now - at, attempts=(ask,)))
    ledger.record(local(5, started_at=now - 90 * 86400))
    ledger.record(local(6, started_at=now, status="error"))
    ledger.record(entry(77, request_id="shadow_r10", kind="shadow", started_at=now))
    ledger.record(Outcome(request_id="r10", source="shadow", tenant="default", recorded_at=now, score=1.0))
    ledger.close()
    with ledger.store.read() as connection:
        answers, pairs = read_lengths(connection, now)
    assert answers == [("small", "chat", 30), ("small", "chat", 20), ("small", "chat", 10)]
    assert pairs == [("big", "chat", 77, "small", 10)]
