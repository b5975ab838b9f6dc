"""The metrics of several processes as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# Of gauges, what each process has for itself is added up ...
_ADDED = frozenset(
    {
        "smallfirst_requests_in_flight",
        "smallfirst_ledger_pending",
        "smallfirst_local_outstanding",
        "smallfirst_drift_observations",
        "smallfirst_connections",
        "smallfirst_server_in_flight",
        "smallfirst_server_held_bytes",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
    }
)
# ... what should be up in all of them is down where one of them says so, and of the rest the largest counts.
_LEAST = frozenset({"smallfirst_model_up", "smallfirst_cache_semantic", "process_start_time_seconds"})
# Counted by a local model's process, of which all of them tell the same.
_OF_ENGINES = "smallfirst_local_tokens"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One number with its labels."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with its samples."""

    name: str
    documentation: str
    kind: str
    samples: list[Sample]


Dump = list[Family]


def dump_of(metrics: Iterable[Metric]) -> Dump:
    """Return metrics as what can be sent."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [
                Sample(sample.name, tuple(sample.labels.items()), float(sample.value))
                for sample in metric.samples
            ],
        )
        for metric in metrics
    ]


def metrics_of(dump: Dump) -> Iterable[Metric]:
    """Return what was sent as metrics."""
    from prometheus_client.core import Metric

    for family in dump:
        metric = Metric(family.name, family.documentation, family.kind)
        for sample in family.samples:
            metric.add_sample(sample.name, dict(sample.labels), sample.value)
        yield metric


def merged(living: Sequence[Dump], dead: Sequence[Dump] = ()) -> Dump:
    """Return the metrics of all. Of processes that are dead what they counted goes on to count: no counter falls."""
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for dump in (*living, *map(counted, dead)):
        for family in dump:
            families.setdefault(family.name, family)
            found = values.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, sample.labels
                found[key] = _joined(family, found[key], sample.value) if key in found else sample.value
    return [
        Family(
            family.name,
            family.documentation,
            family.kind,
            [Sample(name, labels, value) for (name, labels), value in values[family.name].items()],
        )
        for family in families.values()
    ]


def counted(dump: Dump) -> Dump:
    """Return what counts on when a process is gone."""
    return [
        family for family in dump if family.kind in ("counter", "histogram") and family.name != _OF_ENGINES
    ]


def _joined(family: Family, one: float, other: float) -> float:
    name = family.name
    if name == _OF_ENGINES:
        return max(one, other)
    if family.kind in ("counter", "histogram") or name in _ADDED:
        return one + other
    if name in _LEAST or name.endswith("_healthy"):
        return min(one, other)
    return max(one, other)
