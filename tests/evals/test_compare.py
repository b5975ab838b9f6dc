"""The gate: what fails it, and what is noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from smallfirst.evals.compare import compare
from smallfirst.evals.suite_report import suite_report
from smallfirst.router.training.files import DataError


def suite(
    rights: Mapping[str, Sequence[bool]], *, cost: float | None = 0.001, errors: int = 0
) -> dict[str, Any]:
    answer = {"cost_usd": cost, "latency_ms": 1.0, "route": None, "answered_by": "m", "finish_reason": "stop"}
    tokens = {"input_tokens": 1, "output_tokens": 1}
    lines: list[dict[str, Any]] = []
    for task, of in rights.items():
        for at, right in enumerate(of):
            about = {"task": task, "subset": "s", "id": str(at), "outcome": "right" if right else "wrong"}
            lines.append({**about, **answer, **tokens})
    lines += [
        {"task": "t", "subset": "s", "id": f"e{at}", "outcome": "error", "error": "x"} for at in range(errors)
    ]
    return suite_report(lines, model="m")


def rows(right: int, n: int = 100) -> list[bool]:
    return [at < right for at in range(n)]


def worse(a: dict[str, Any], b: dict[str, Any], **fields: Any) -> list[str]:
    found = compare(a, b, **fields)
    assert found["ok"] is (found["worse"] == [])
    return [text.partition(":")[0] for text in found["worse"]]


def test_the_same_run_twice_is_not_worse() -> None:
    assert worse(suite({"t": rows(60)}), suite({"t": rows(60)})) == []


def test_accuracy_that_fell_beyond_noise_is_told_by_figure() -> None:
    found = compare(suite({"t": rows(60), "u": rows(50)}), suite({"t": rows(45), "u": rows(50)}))
    assert [text.partition(" (")[0] for text in found["worse"]] == [
        "accuracy: 0.55 -> 0.475",
        "accuracy of t: 0.6 -> 0.45",
    ]


def test_a_loss_of_few_rows_is_noise() -> None:
    assert worse(suite({"t": rows(3, 3)}), suite({"t": rows(0, 3)})) == []
    assert worse(suite({"t": rows(60)}), suite({"t": rows(57)})) == []


def test_pairing_sees_a_loss_that_intervals_would_not() -> None:
    a, b = suite({"t": rows(60)}), suite({"t": rows(52)})
    assert worse(a, b) == ["accuracy", "accuracy of t"]
    unpaired = [
        {key: of for key, of in report.items() if key not in ("outcomes", "costs")} for report in (a, b)
    ]
    assert worse(*unpaired) == []
    assert worse(unpaired[0], suite({"t": rows(30)})) == ["accuracy", "accuracy of t"]


def test_gains_and_losses_that_cancel_out_are_no_loss() -> None:
    a = suite({"t": rows(50)})
    b = suite({"t": [not right for right in rows(50)]})
    assert worse(a, b) == []


def test_a_tolerated_loss_passes() -> None:
    assert worse(suite({"t": rows(60)}), suite({"t": rows(50)}), tolerance=0.2) == []


def test_only_rows_of_both_runs_are_paired() -> None:
    found = compare(suite({"t": rows(60)}), suite({"t": rows(60, 300)}))
    assert found["ok"]
    assert found["compared"][0]["rows"] == 100


def test_a_dearer_request_fails_unless_it_bought_accuracy() -> None:
    a = suite({"t": rows(50)})
    assert worse(a, suite({"t": rows(50)}, cost=0.0012)) == ["US dollars per 1,000 requests"]
    assert worse(a, suite({"t": rows(50)}, cost=0.00105)) == []
    assert worse(a, suite({"t": rows(50)}, cost=0.0012), cost_tolerance=0.5) == []
    assert worse(a, suite({"t": rows(90)}, cost=0.005)) == []


def test_a_cost_that_is_not_known_any_more_fails_and_one_that_never_was_does_not() -> None:
    known, unknown = suite({"t": rows(50)}), suite({"t": rows(50)}, cost=None)
    assert worse(known, unknown) == ["US dollars per 1,000 requests"]
    assert worse(unknown, unknown) == worse(unknown, known) == []


def test_a_missing_task_and_rows_without_an_answer_fail() -> None:
    both = suite({"t": rows(50), "u": rows(50)})
    assert worse(both, suite({"t": rows(50)})) == ["accuracy of u"]
    assert worse(both, suite({"t": rows(50), "u": rows(50)}, errors=9)) == ["errors"]


def routing_over_many(aiq: float | None) -> dict[str, Any]:
    router = {"aiq": aiq, "aiq_95": aiq and [aiq - 0.01, aiq + 0.01]}
    return {**routing(0.67), "many_models": {"routers": {"router": router}}}


def test_a_lower_frontier_over_many_models_fails() -> None:
    assert worse(routing_over_many(0.70), routing_over_many(0.69)) == []
    assert worse(routing_over_many(0.70), routing_over_many(0.68)) == ["AIQ over many models"]
    assert worse(routing_over_many(0.70), routing(0.67)) == ["AIQ over many models"]


def routing(apgr: float | None, error: float = 0.02, **subsets: Any) -> dict[str, Any]:
    span = None if apgr is None else [apgr - 0.03, apgr + 0.03]
    return {
        "apgr": apgr, "apgr_95": span, "expected_calibration_error": error, "n": 10_000, "by_subset": subsets,
    }  # fmt: skip


def test_routing_is_compared_by_intervals_with_its_subsets() -> None:
    a = routing(0.67, mmlu=routing(0.67), gsm8k=routing(0.61))
    assert worse(a, routing(0.64, mmlu=routing(0.65), gsm8k=routing(0.61))) == []
    assert worse(a, routing(0.62, mmlu=routing(0.60), gsm8k=routing(0.61))) == ["APGR", "APGR of mmlu"]
    assert worse(a, routing(0.62, mmlu=routing(0.60), gsm8k=routing(0.61)), tolerance=0.05) == []
    assert worse(a, routing(0.67, mmlu=routing(0.67))) == ["APGR of gsm8k"]


def test_a_worse_calibration_or_a_figure_that_is_gone_fails() -> None:
    assert worse(routing(0.67, 0.02), routing(0.67, 0.025)) == []
    assert worse(routing(0.67, 0.02), routing(0.67, 0.04)) == ["calibration error"]
    assert worse(routing(0.67, 0.02), {**routing(0.67, 0.04), "n": 100}) == []
    assert worse(routing(0.67), routing(None)) == ["APGR"]
    assert worse(routing(None), routing(None)) == []


def test_reports_of_two_kinds_or_of_none_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        compare(suite({"t": rows(1)}), routing(0.6))
    with pytest.raises(DataError, match="expected a report"):
        compare({"n": 1}, {"n": 1})
