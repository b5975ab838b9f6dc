"""The metrics of several processes as one."""

from __future__ import annotations

from smallfirst.router.processes.merging import Family, Sample, dump_of, merged, metrics_of


def family(name: str, kind: str, **values: float) -> Family:
    """A metric with a sample for each label."""
    samples = [Sample(name, (("of", label),), value) for label, value in values.items()]
    return Family(name, "words", kind, samples)


def values(dump: list[Family]) -> dict[str, dict[str, float]]:
    return {one.name: {sample.labels[0][1]: sample.value for sample in one.samples} for one in dump}


def test_what_each_counts_is_added_up() -> None:
    one, other = family("requests", "counter", a=1, b=2), family("requests", "counter", b=3, c=4)
    assert values(merged([[one], [other]])) == {"requests": {"a": 1, "b": 5, "c": 4}}


def test_of_a_process_that_is_gone_what_it_counted_counts_on_and_nothing_else() -> None:
    living = [family("requests", "counter", a=1), family("smallfirst_ledger_pending", "gauge", a=1)]
    dead = [family("requests", "counter", a=5), family("smallfirst_ledger_pending", "gauge", a=7)]
    found = values(merged([living], [dead, dead]))
    assert found == {"requests": {"a": 11}, "smallfirst_ledger_pending": {"a": 1}}


def test_gauges_are_joined_by_what_they_mean() -> None:
    names = ("smallfirst_requests_in_flight", "smallfirst_ledger_healthy", "smallfirst_local_busy")
    one, other = ([family(name, "gauge", a=value) for name in names] for value in (0, 1))
    found = {name: labels["a"] for name, labels in values(merged([one, other])).items()}
    assert found == dict(zip(names, (1, 0, 1), strict=True))


def test_what_a_shared_process_counts_is_not_added_up() -> None:
    tokens = [family("smallfirst_local_tokens", "counter", a=9)]
    assert values(merged([tokens, tokens], [tokens])) == {"smallfirst_local_tokens": {"a": 9}}


def test_metrics_survive_the_way() -> None:
    dump = [family("requests", "counter", a=1), family("smallfirst_local_busy", "gauge", b=2)]
    assert dump_of(metrics_of(dump)) == dump
