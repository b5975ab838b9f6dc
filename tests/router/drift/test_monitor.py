"""One monitor over several policies: what counts, what is said, and how much stricter routing becomes."""

import logging
import random
from typing import Any

import pytest

from smallfirst.router.drift import DriftMonitor, ScoreReference
from smallfirst.router.drift.monitor import EVERYTHING, SESSION_SECONDS
from smallfirst.router.ledger import Entry
from smallfirst.router.settings import DriftSettings

LOCAL, CLOUD = "small", "big"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def monitor(clock: Clock | None = None, *, references: bool = False, **settings: Any) -> DriftMonitor:
    known = {"careful": _reference()} if references else {}
    return DriftMonitor(
        DriftSettings(**settings),
        budgets={"careful": 0.02, "other": 0.05},
        local=[LOCAL],
        references=known,
        clock=clock or Clock(),
    )


def _reference() -> ScoreReference:
    source = random.Random("calibration")
    return ScoreReference.of(
        {
            "difficulty": source.betavariate(2, 5),
            "gap": source.uniform(-0.2, 0.6),
            "known": source.random() < 0.95,
        }
        for _ in range(1000)
    )


def entry(at: int, **fields: Any) -> Entry:
    usual = {
        "request_id": f"r{at}",
        "started_at": 0.0,
        "duration_ms": 1.0,
        "policy": "careful",
        "session": f"s{at}",
        "route": "local",
        "model": LOCAL,
        "baseline_model": CLOUD,
        "difficulty": 0.5,
        "scores": {LOCAL: 0.6, CLOUD: 0.9},
        "known": True,
    }
    return Entry(**{**usual, **fields})


def counts(drift: DriftMonitor, policy: str = "careful") -> dict[str, int]:
    return {name: test["n"] for name, test in drift.report()["policies"][policy]["tests"].items()}


def lose(drift: DriftMonitor, n: int, source: Any = "feedback", policy: str = "careful") -> None:
    for _ in range(n):
        drift.outcome(policy, source, 1.0)


def test_a_scored_request_counts_in_the_tests_of_its_policy() -> None:
    drift = monitor()
    drift.observe(entry(1))
    assert counts(drift) == {"difficulty": 1, "gap": 1, "unknown": 1, "feedback": 0, "shadow": 0}
    assert set(counts(drift, "other").values()) == {0}


def test_of_an_unknown_request_only_that_counts() -> None:
    drift = monitor()
    drift.observe(entry(1, known=False))
    assert (counts(drift)["unknown"], counts(drift)["difficulty"], counts(drift)["gap"]) == (1, 0, 0)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"difficulty": None, "known": None, "scores": {}}, id="not scored"),
        pytest.param({"policy": "no budget"}, id="a policy without a budget"),
        pytest.param({"kind": "shadow"}, id="our own comparison"),
    ],
)
def test_other_requests_do_not_count(fields: dict[str, Any]) -> None:
    drift = monitor()
    drift.observe(entry(1, **fields))
    assert set(counts(drift).values()) == {0}


def test_a_session_counts_once_in_a_while() -> None:
    clock = Clock()
    drift = monitor(clock)
    for at in range(5):
        drift.observe(entry(at, session="the same"))
    assert counts(drift)["difficulty"] == 1
    clock.now = SESSION_SECONDS
    drift.observe(entry(6, session="the same"))
    drift.observe(entry(7, session="the same", tenant="another"))
    assert counts(drift)["difficulty"] == 3


def test_traffic_unlike_the_calibration_is_said_once_and_named(caplog: pytest.LogCaptureFixture) -> None:
    drift = monitor(references=True)
    source = random.Random("traffic")
    with caplog.at_level(logging.WARNING, logger="smallfirst.drift"):
        for at in range(300):
            drift.observe(
                entry(
                    at,
                    difficulty=source.betavariate(4, 3),
                    scores={LOCAL: 0.5, CLOUD: 0.5 + source.uniform(-0.2, 0.45)},
                    known=source.random() < 0.95,
                )
            )
    report = drift.report()
    assert report["alarm"] is True
    assert report["policies"]["careful"]["tests"]["difficulty"]["alarm"] is True
    assert report["policies"]["other"]["tests"]["difficulty"]["alarm"] is False
    assert [r.getMessage() for r in caplog.records if "harder or easier" in r.getMessage()] == [
        next(r.getMessage() for r in caplog.records if "harder or easier" in r.getMessage())
    ]
    assert drift.tightened("careful") == 0.0, "harder requests are no loss yet"


def test_losses_tighten_by_a_margin_then_by_everything_and_no_further(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drift = monitor(margin=0.15)
    steps = []
    with caplog.at_level(logging.WARNING, logger="smallfirst.drift"):
        for _ in range(100):
            lose(drift, 1)
            steps.append(drift.tightened("careful"))
    assert sorted(set(steps)) == [0.0, 0.15, EVERYTHING]
    assert steps == sorted(steps)
    # The second alarm is about what came after the first: it needs as many outcomes again.
    assert steps.count(0.15) == steps.count(0.0) + 1
    assert drift.tightened("other") == 0.0
    assert [record.getMessage() for record in caplog.records][1:] == [
        "policy 'careful' is tightened: by 0.15",
        "policy 'careful' is tightened: all goes to the cloud",
    ]


def test_an_alarm_stays_in_the_report_after_tightening() -> None:
    drift = monitor()
    while not drift.tightened("careful"):
        lose(drift, 1)
    found = drift.report()["policies"]["careful"]
    assert found["tests"]["feedback"] == {"alarm": True, "evidence": 0.0, "n": 0}
    assert found["tightened"] == 0.1


def test_with_tighten_off_an_alarm_is_only_said() -> None:
    drift = monitor(tighten=False)
    lose(drift, 200)
    assert drift.report()["policies"]["careful"]["tests"]["feedback"]["alarm"] is True
    assert drift.tightened("careful") == 0.0


def test_a_reset_takes_alarm_and_tightening_back() -> None:
    drift = monitor()
    lose(drift, 200)
    lose(drift, 200, policy="other")
    drift.reset("careful")
    assert (drift.tightened("careful"), drift.tightened("other")) == (0.0, EVERYTHING)
    drift.reset()
    assert drift.report()["alarm"] is False
    with pytest.raises(KeyError):
        drift.reset("unheard of")


def _until_alarm(local_in_ten: int) -> int:
    drift = monitor(tighten=False)
    for at in range(1000):
        drift.observe(entry(at, route="local" if at % 10 < local_in_ten else "cloud"))
    for n in range(1, 2000):
        lose(drift, 1, "shadow", "careful")
        if drift.report()["alarm"]:
            return n
    raise AssertionError("no alarm")


def test_what_local_answers_lose_weighs_as_much_as_the_local_share() -> None:
    assert _until_alarm(9) < _until_alarm(1)


def test_a_policy_without_a_budget_is_never_tightened() -> None:
    drift = monitor()
    lose(drift, 200, policy="no budget")
    assert drift.tightened("no budget") == 0.0


def test_without_budgets_there_is_nothing_to_say() -> None:
    drift = DriftMonitor(DriftSettings(), budgets={}, local=[LOCAL])
    drift.observe(entry(1))
    assert drift.report() == {"alarm": False, "policies": {}}
    assert drift.gauges() == {}


def test_gauges_have_one_value_a_policy_and_test() -> None:
    gauges = monitor().gauges()
    names = {"difficulty", "gap", "unknown", "feedback", "shadow"}
    expected = {(("policy", policy), ("test", test)) for policy in ("careful", "other") for test in names}
    for name in ("alarm", "evidence", "observations"):
        assert set(gauges[f"smallfirst_drift_{name}"][1]) == expected
    assert set(gauges["smallfirst_drift_tightened"][1]) == {(("policy", "careful"),), (("policy", "other"),)}
