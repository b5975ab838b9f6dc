"""What other policies would have come to: against a simulation whose truth is known, and from a ledger."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smallfirst.router.ledger import AttemptRecord, Entry, Ledger, Outcome
from smallfirst.router.ledger.off_policy import LEAST_SIZE, POLICIES, Logged, OffPolicy, off_policy
from smallfirst.router.ledger.render import table, usd
from smallfirst.router.ledger.report import Report, make_report
from smallfirst.router.ledger.savings_query import read_logged
from smallfirst.router.settings import LedgerSettings

Truth = dict[str, dict[str, float]]


def simulated(seed: int, sessions: int, explore: float) -> tuple[Logged, Truth]:
    """Hard requests cost more, go to the cloud, and local answers to them are worse: plain means would mislead."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(sessions), 1 + rng.poisson(3, sessions))
    n = len(of)
    hard = 1 / (1 + np.exp(-rng.normal(0, 1, sessions)[of] - rng.normal(0, 1, n)))
    own = hard < 0.6
    other = rng.random(n) < explore / 2
    local = own ^ other
    cloud_cost = 0.002 * np.exp(hard + rng.normal(0, 0.8, n))
    local_cost = 0.00005 + (rng.random(n) < 0.3 * hard) * cloud_cost
    cloud_right, local_right = (rng.random(n) < 0.95 - slope * hard for slope in (0.1, 0.7))
    quality = np.where(local, local_right, cloud_right).astype(float)
    quality[rng.random(n) < 0.5] = np.nan
    logged = Logged(
        local=local,
        propensity=np.where(other, explore / 2, 1 - explore / 2),
        cost=np.where(local, local_cost, cloud_cost),
        quality=quality,
        features=np.column_stack([0.95 - 0.7 * hard, 0.95 - 0.1 * hard]),
        cluster=of,
    )
    truth = {
        name: {
            "all_local": float(at_local.mean()),
            "all_cloud": float(at_cloud.mean()),
            "policy": float(np.where(own, at_local, at_cloud).mean()),
        }
        for name, at_local, at_cloud in (
            ("cost", local_cost, cloud_cost),
            ("quality", local_right, cloud_right),
        )
    }
    return logged, truth


@pytest.fixture(scope="module")
def runs() -> list[OffPolicy]:
    """Sixty ledgers of some 8,000 requests, a tenth explored."""
    return [off_policy(simulated(seed, 2000, 0.1)[0], seed=seed, resamples=300) for seed in range(60)]


@pytest.fixture(scope="module")
def truth() -> Truth:
    return simulated(999, 200_000, 0.1)[1]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("what", ["cost", "quality"])
def test_both_estimates_are_unbiased(runs: list[OffPolicy], truth: Truth, what: str, policy: Any) -> None:
    found = [getattr(run, what)[policy] for run in runs]
    for name in ("weighted", "robust"):
        values = np.array([getattr(one, name) for one in found])
        # Within three standard errors of a mean of sixty.
        assert abs(values.mean() - truth[what][policy]) < 3 * values.std() / 60**0.5, name


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("what", ["cost", "quality"])
def test_intervals_hold_the_truth(runs: list[OffPolicy], truth: Truth, what: str, policy: Any) -> None:
    """Of 60 that hold it with 95 %, fewer than 50 do once in a million times; docs/savings.md has more runs."""
    found = [getattr(run, what)[policy] for run in runs]
    for name in ("weighted", "robust"):
        ends = [(getattr(one, f"{name}_low"), getattr(one, f"{name}_high")) for one in found]
        assert sum(low <= truth[what][policy] <= high for low, high in ends) >= 50, name


def test_plain_means_would_mislead(truth: Truth) -> None:
    """Cloud answers cost so much because the hard requests are there."""
    logged, _ = simulated(3, 20_000, 0.1)
    plain = float(logged.cost[~logged.local].mean())
    found = off_policy(logged, resamples=100).cost["all_cloud"]
    assert plain > 1.2 * truth["cost"]["all_cloud"]
    assert found.weighted == pytest.approx(truth["cost"]["all_cloud"], rel=0.1)


def test_the_regression_narrows_what_it_can_explain() -> None:
    logged, _ = simulated(4, 5000, 0.1)
    informed = replace(logged, features=np.column_stack([logged.cost * 0, logged.features]))
    found = off_policy(informed, resamples=300).quality["all_local"]
    assert None not in (found.robust_low, found.robust_high, found.weighted_low, found.weighted_high)
    robust = (found.robust_high or 0) - (found.robust_low or 0)
    assert robust < (found.weighted_high or 0) - (found.weighted_low or 0)


def test_too_few_explored_requests_say_so() -> None:
    found = off_policy(simulated(5, 100, 0.02)[0])
    one = found.cost["all_cloud"]
    assert one.size < LEAST_SIZE
    assert "too few explored requests" in one.note
    assert (one.weighted_low, one.robust, one.robust_low) == (None, None, None)


def test_an_empty_log_gives_no_estimate() -> None:
    nothing = np.empty(0)
    logged = Logged(nothing.astype(bool), nothing, nothing, nothing, np.empty((0, 2)), nothing.astype(int))
    found = off_policy(logged)
    assert (found.requests, found.explored) == (0, 0)
    assert {one.weighted for one in found.cost.values()} == {None}


def test_a_report_has_the_estimates_where_something_was_drawn(tmp_path: Path) -> None:
    logged, _ = simulated(3, 400, 0.2)
    ledger = Ledger(LedgerSettings(path=tmp_path / "ledger.db", max_pending=100_000))
    for at in range(len(logged)):
        asked = AttemptRecord("m", "local" if logged.local[at] else "cloud", "ok", 0, 1.0, 1, 1, 0.5)
        ledger.record(
            Entry(
                request_id=f"r{at}",
                started_at=100.0 + at,
                duration_ms=1.0,
                tenant="curious",
                session=str(logged.cluster[at]),
                attempts=(asked,),
                cost_usd=float(logged.cost[at]),
                propensity=float(logged.propensity[at]),
            )
        )
    ledger.record(Entry(request_id="sure", started_at=100.0, duration_ms=1.0, tenant="calm", propensity=1.0))
    ledger.close()

    def made(tenant: str) -> Report:
        return make_report(ledger.store, since=None, until=None, by=(), prices="", tenant=tenant)

    assert made("calm").off_policy is None
    assert made("calm").to_json()["off_policy"] is None
    assert "by lot" not in table(made("calm"))
    report = made("curious")
    assert report.off_policy is not None
    assert (report.off_policy.requests, report.off_policy.explored) == (
        len(logged),
        int((logged.favoured() != logged.local).sum()),
    )
    mean = report.off_policy.cost["all_cloud"].weighted
    assert (
        json.loads(json.dumps(report.to_json(), allow_nan=False))["off_policy"]["cost"]["all_cloud"][
            "weighted"
        ]
        == mean
    )
    assert f"  all cloud: {usd(mean or 0.0)} (95 %: " in table(report)


@pytest.mark.parametrize("propensity", [0.0, 1.0])
def test_what_was_not_drawn_by_lot_is_refused(propensity: float) -> None:
    logged, _ = simulated(6, 10, 0.1)
    with pytest.raises(ValueError, match="by lot"):
        replace(logged, propensity=np.full(len(logged), propensity))


def test_a_ledgers_explored_requests_are_read(tmp_path: Path) -> None:
    ledger = Ledger(LedgerSettings(path=tmp_path / "ledger.db"))
    calls = {
        "own": [("local", False), ("cloud", False)],
        "early": [("cloud", True), ("local", False)],
        "tried": [("cloud", False)],
    }
    for at, (name, tiers) in enumerate(calls.items()):
        attempts = tuple(
            AttemptRecord("m", tier, "ok", 0, 1.0, 1, 1, 0.5, early=early)  # type: ignore[arg-type]
            for tier, early in tiers
        )
        ledger.record(
            Entry(
                request_id=name,
                started_at=100.0 + at,
                duration_ms=1.0,
                session="s",
                attempts=attempts,
                cost_usd=0.1 * (at + 1),
                propensity=0.05 if name == "tried" else 0.95,
                explored=name == "tried",
                scores={"small": 0.4, "big": 0.9},
                baseline_model="big",
                difficulty=0.3,
                task="chat",
            )
        )
    ledger.record(Entry(request_id="sure", started_at=100.0, duration_ms=1.0, propensity=1.0))
    ledger.record(Entry(request_id="cached", started_at=100.0, duration_ms=1.0, propensity=None))
    ledger.record(Outcome(request_id="own", source="feedback", tenant="default", recorded_at=1.0, score=0.5))
    ledger.close()
    found = read_logged(ledger.store)
    assert found.local.tolist() == [False, True, True]
    assert found.favoured().tolist() == [True, True, True]
    assert found.propensity.tolist() == [0.05, 0.95, 0.95]
    assert found.cost == pytest.approx([0.3, 0.2, 0.1])
    assert found.quality.tolist()[2] == 0.5
    assert np.isnan(found.quality).sum() == 2
    assert found.features[0].tolist() == [0.9, 0.4, 0.3, 1.0]
    assert len(set(found.cluster.tolist())) == 1
    assert len(read_logged(ledger.store, tenant="another")) == 0
