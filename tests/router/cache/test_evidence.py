"""Wrong hits make a namespace stricter, then exact only; and no other."""

import logging

import pytest

from smallfirst.router.cache.evidence import HITS, NAMESPACES, Evidence


def evidence(max_error: float = 0.01) -> Evidence:
    """Thresholds 1 - max_error, down to a share of 0.001."""
    return Evidence(max_error, lambda error: 1 - error if error >= 0.001 else None)


def observe(known: Evidence, prefix: str, *, wrong: int, right: int = 0, tenant: str = "ann") -> None:
    for each in [1.0] * wrong + [0.0] * right:
        known.observe(tenant, prefix, wrong=each)


def test_right_hits_change_nothing() -> None:
    known = evidence()
    observe(known, "a", wrong=0, right=2000)
    assert known.threshold("ann", "a") == 0.99


def test_few_wrong_hits_among_many_are_within_what_is_allowed() -> None:
    known = evidence()
    for _ in range(20):
        observe(known, "a", wrong=1, right=150)
    assert known.threshold("ann", "a") == 0.99


def test_wrong_hits_make_it_stricter_and_then_exact_only(caplog: pytest.LogCaptureFixture) -> None:
    known = evidence()
    with caplog.at_level(logging.WARNING):
        observe(known, "a", wrong=15)
        assert known.threshold("ann", "a") == 0.998
        assert known.report() == {"stricter": 1, "exact_only": 0}
        observe(known, "a", wrong=15)
    assert known.threshold("ann", "a") is None
    assert known.report() == {"stricter": 0, "exact_only": 1}
    assert "stricter" in caplog.text
    assert "exact only" in caplog.text


def test_another_namespace_is_not_touched() -> None:
    known = evidence()
    observe(known, "a", wrong=40)
    assert known.threshold("ann", "b") == 0.99


def test_a_tenant_with_many_namespaces_pushes_out_nobody_elses_alarm() -> None:
    known = evidence()
    observe(known, "a", wrong=40)
    for at in range(NAMESPACES + 1):
        observe(known, f"b{at}", wrong=1, tenant="bob")
    assert known.threshold("ann", "a") is None


def test_where_no_threshold_keeps_the_share_there_are_no_hits_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        known = evidence(1e-6)
    assert not known.possible
    assert known.threshold("ann", "a") is None
    assert "equal requests only" in caplog.text


def test_a_share_of_zero_is_no_semantic_cache_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not evidence(0.0).possible
    assert caplog.text == ""


def test_ratings_count_once_and_for_semantic_hits_only() -> None:
    known = evidence()
    known.remember("ann", "r1", "a")
    for _ in range(3):
        known.rated("ann", "r1", 0.0)
        known.rated("ann", "r2", 0.0)
        known.rated("bob", "r1", 0.0)
    assert known.taken == {"right": 0, "wrong": 1}


def test_ratings_of_wrong_hits_switch_it_off() -> None:
    known = evidence()
    for at in range(40):
        known.remember("ann", f"r{at}", "a")
        known.rated("ann", f"r{at}", 0.0)
    assert known.threshold("ann", "a") is None


def test_what_is_remembered_is_bounded() -> None:
    known = evidence()
    for at in range(HITS + 1):
        known.remember("ann", f"r{at}", "a")
    known.rated("ann", "r0", 0.0)
    assert known.taken["wrong"] == 0


def test_an_alarm_is_never_forgotten_for_other_namespaces_of_the_tenant() -> None:
    known = evidence()
    observe(known, "a", wrong=40)
    for at in range(NAMESPACES + 1):
        observe(known, f"b{at}", wrong=1)
    assert known.threshold("ann", "a") is None
