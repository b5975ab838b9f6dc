"""Records hold what reports need of an entry."""

import math
from typing import Any

import pytest

from smallfirst.router.ledger import AttemptRecord, Entry
from smallfirst.router.ledger.facts import (
    CLUSTERS,
    ESTIMATED,
    EXPLORED,
    FELL_BACK,
    NO_COUNT,
    STREAM,
    Label,
    cluster_of,
    label_id,
    pack,
    row_of,
    unpacked,
)


def entry(**fields: Any) -> Entry:
    return Entry(**{"request_id": "r1", "started_at": 1000.5, "duration_ms": 5.0, **fields})


def packed(made: Entry) -> dict[str, Any]:
    record = pack(made, 7)
    assert record is not None
    (row,) = unpacked([record])
    return {name: row[name].item() for name in row.dtype.names}


def test_numbers_come_back_as_they_went() -> None:
    row = packed(
        entry(
            cost_usd=0.1 + 0.2,
            baseline_cost_usd=1e-9,
            input_tokens=2**32 - 1,
            ttft_ms=2.5,
            baseline_output_tokens=9,
        )
    )
    assert (row["started_at"], row["label"], row["cost"], row["baseline"]) == (1000.5, 7, 0.1 + 0.2, 1e-9)
    assert (row["input"], row["duration"], row["ttft"], row["baseline_output"]) == (2**32 - 1, 5.0, 2.5, 9)


def test_what_is_not_known_is_not_0() -> None:
    row = packed(entry())
    assert all(
        math.isnan(row[name]) for name in ("cost", "baseline", "energy", "gco2e", "ttft", "propensity")
    )
    assert row["baseline_output"] == NO_COUNT


def test_flags_say_what_was_so() -> None:
    ok = AttemptRecord("m", "cloud", "ok", 0, 1.0, 1, 1, 0.0)
    failed = AttemptRecord("m", "cloud", "error", 0, 1.0, 1, 1, 0.0)
    assert (
        packed(entry(usage_estimated=True, explored=True, stream=True))["flags"]
        == ESTIMATED | EXPLORED | STREAM
    )
    assert packed(entry(attempts=(failed, ok)))["flags"] == FELL_BACK
    assert packed(entry(attempts=(failed, failed), status="error"))["flags"] == 0


def test_requests_of_one_session_are_one_cluster_and_others_are_spread() -> None:
    assert cluster_of(entry(session="s")) == cluster_of(entry(request_id="r2", session="s"))
    found = {cluster_of(entry(request_id=f"r{at}")) for at in range(5000)}
    assert len(found) > 0.95 * CLUSTERS
    assert max(found) < CLUSTERS


def test_tags_make_one_label_in_whichever_order() -> None:
    one, other = (Label.of(entry(tags=tags)) for tags in (("b", "a"), ("a", "b", "a")))
    assert one == other
    assert label_id(one.encode()) == label_id(other.encode())
    assert Label.decode(one.encode()) == one


@pytest.mark.parametrize("fields", [{"input_tokens": 2**32}, {"duration_ms": 1e300}, {"output_tokens": -1}])
def test_a_number_that_does_not_fit_leaves_the_entry_to_its_columns(fields: dict[str, Any]) -> None:
    assert pack(entry(**fields), 7) is None
    (row,) = row_of(entry(cost_usd=0.5, **fields), 7)
    assert (row["cost"], row["baseline_output"]) == (0.5, NO_COUNT)
