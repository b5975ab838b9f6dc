"""Prometheus metrics of one gateway, in a registry of its own. docs/operations.md lists them."""

from __future__ import annotations

import math
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import version
from itertools import accumulate
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .ledger import AttemptRecord, Entry
from .telemetry.labels import code_label

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OVERHEAD = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)

C = TypeVar("C", bound=Collector)

# A metric's values by label names and values; all of a metric have the same names, and their number is bounded.
Labelled = Mapping[tuple[tuple[str, str], ...], float]
# What is read at scrape time: metric name -> (help, value). One whose name ends in `_total` is a counter.
Gauges = Callable[[], Mapping[str, tuple[str, float | Labelled]]]


class Metrics:
    """Counts requests as they are recorded.

    Labels are bounded: configured models, routes, statuses, and error codes of our own. Tenants, agents and sessions
    are none: those are for the ledger.

    Args:
        gauges: Read at every scrape; must not wait for anything.
    """

    def __init__(self, gauges: Gauges) -> None:
        self._registry = CollectorRegistry()
        self._gauges = _Reader(gauges)
        self._define_requests()
        self._define_models()
        build = self._gauge("smallfirst_build_info", "1, with the version as a label", "version", "python")
        build.add(1, version("smallfirst"), platform.python_version())
        self._registry.register(self._gauges)
        # The gateway's own memory, processor time and open files, under their usual names (`process_…`).
        ProcessCollector(registry=self._registry)

    def _define_requests(self) -> None:
        self._requests = self._counter(
            "smallfirst_requests_total", "Requests served, by route and status", "route", "model", "status"
        )
        self._errors = self._counter("smallfirst_errors_total", "Requests that failed, by error code", "code")
        self._refused = self._counter(
            "smallfirst_refused_total", "Requests refused for a key's limits or budget", "reason"
        )
        self._in_flight = self._gauge("smallfirst_requests_in_flight", "Requests being served")
        self._saved = self._counter(
            "smallfirst_baseline_cost_usd_total", "What the baseline model would have cost"
        )
        self._duration = self._histogram(
            "smallfirst_request_duration_seconds",
            "Time from request to the end of the answer",
            "route",
            buckets=_SECONDS,
        )
        self._first = self._histogram(
            "smallfirst_time_to_first_token_seconds",
            "Time from request to the first chunk of a stream",
            "route",
            buckets=_SECONDS,
        )
        self._overhead = self._histogram(
            "smallfirst_overhead_seconds", "Time that the gateway itself added", buckets=_OVERHEAD
        )

    def _define_models(self) -> None:
        self._tokens = self._counter(
            "smallfirst_tokens_total",
            "Tokens of all attempts, by type; cached and cache_write are among input, reasoning among output",
            "model",
            "type",
        )
        self._cost = self._counter(
            "smallfirst_cost_usd_total", "Cost of all attempts in US dollars where known", "model"
        )
        self._unknown = self._counter(
            "smallfirst_unknown_cost_total", "Attempts whose cost is not known", "model"
        )
        self._retries = self._counter("smallfirst_retries_total", "Tries beyond an attempt's first", "model")
        self._failures = self._counter(
            "smallfirst_model_failures_total", "Attempts that did not succeed", "model", "outcome"
        )
        self._escalations = self._counter(
            "smallfirst_escalations_total",
            "Answers that were turned down for the next model's, by cause (unsure, disagreed, invalid)",
            "model",
            "cause",
        )
        self._early = self._counter(
            "smallfirst_early_starts_total",
            "Calls that were started before their turn, by outcome (ok: used; unused: stopped and paid for)",
            "model",
            "outcome",
        )
        self._hedges = self._counter(
            "smallfirst_hedges_total",
            "Calls beside one that had not begun to answer in time, by outcome (ok: began first; unused: did not)",
            "model",
            "outcome",
        )

    def read_from(self, gauges: Gauges) -> None:
        """Read other gauges from now on: the settings were read again."""
        self._gauges.read = gauges

    def begun(self) -> None:
        """Note that a request is being served; `observe` is told of its end."""
        self._in_flight.add(1)

    def refused(self, reason: str) -> None:
        """Count a request that was refused for a key's limits.

        Args:
            reason: Which limit, as one of a few stable words.
        """
        self._refused.add(1, reason)

    def observe(self, entry: Entry) -> None:
        """Count one finished request; of one of our own (a comparison, a refresh) what it used and cost."""
        for attempt in entry.attempts:
            self._used(attempt)
        if entry.baseline_cost_usd is not None:
            self._saved.add(entry.baseline_cost_usd)
        if entry.kind != "request":
            return
        self._in_flight.add(-1)
        self._requests.add(1, entry.route, entry.model or "none", entry.status)
        self._duration.observe(entry.duration_ms / 1000, entry.route)
        self._overhead.observe(entry.overhead_ms / 1000)
        if entry.ttft_ms is not None:
            self._first.observe(entry.ttft_ms / 1000, entry.route)
        if entry.status == "error":
            self._errors.add(1, code_label(entry.error_code))
        for attempt in entry.attempts:
            if attempt.hedge:
                self._hedges.add(1, attempt.model, attempt.outcome)
            elif attempt.early:
                self._early.add(1, attempt.model, attempt.outcome)
            if attempt.outcome == "discarded":
                self._escalations.add(1, attempt.model, attempt.error_code or "unsure")
            elif attempt.outcome not in ("ok", "unused"):
                self._failures.add(1, attempt.model, attempt.outcome)

    def _used(self, attempt: AttemptRecord) -> None:
        model = attempt.model
        self._tokens.add(attempt.input_tokens, model, "input")
        self._tokens.add(attempt.output_tokens, model, "output")
        for kind, count in (
            ("cached", attempt.cached_tokens),
            ("cache_write", attempt.cache_write_tokens),
            ("reasoning", attempt.reasoning_tokens),
        ):
            if count:
                self._tokens.add(count, model, kind)
        if attempt.cost_usd is None:
            self._unknown.add(1, model)
        else:
            self._cost.add(attempt.cost_usd, model)
        if attempt.retries:
            self._retries.add(attempt.retries, model)

    def collect(self) -> Iterable[Metric]:
        """Return what `render` shows."""
        return self._registry.collect()

    def render(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, words: str, *labels: str) -> _Sums:
        return self._registered(_Sums(labels, partial(CounterMetricFamily, name, words, labels=labels)))

    def _gauge(self, name: str, words: str, *labels: str) -> _Sums:
        return self._registered(_Sums(labels, partial(GaugeMetricFamily, name, words, labels=labels)))

    def _histogram(self, name: str, words: str, *labels: str, buckets: tuple[float, ...]) -> _Histograms:
        family = partial(HistogramMetricFamily, name, words, labels=labels)
        return self._registered(_Histograms(labels, family, buckets))

    def _registered(self, metric: C) -> C:
        self._registry.register(metric)
        return metric


# `prometheus_client` counts under locks, and notes when it began, which would nearly double what is scraped. Here only
# the event loop counts.


class _Sums(Collector):
    """A sum for each of a metric's labels, by their values; without labels, one from the start."""

    def __init__(
        self, labels: tuple[str, ...], family: Callable[[], CounterMetricFamily | GaugeMetricFamily]
    ) -> None:
        self._family = family
        self._sums: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, amount: float, *labels: str) -> None:
        sums = self._sums
        sums[labels] = sums.get(labels, 0.0) + amount

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        for labels, value in tuple(self._sums.items()):
            family.add_metric(labels, value)
        yield family


class _Histograms(Collector):
    """How often values were seen up to each bound, likewise."""

    def __init__(
        self,
        labels: tuple[str, ...],
        family: Callable[[], HistogramMetricFamily],
        bounds: tuple[float, ...],
    ) -> None:
        self._family = family
        self._bounds = (*bounds, math.inf)
        # The last one is the sum of the values themselves.
        self._counts: dict[tuple[str, ...], list[float]] = {} if labels else {(): self._none()}

    def observe(self, value: float, *labels: str) -> None:
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = self._none()
        counts[bisect_left(self._bounds, value)] += 1
        counts[-1] += value

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        for labels, (*counts, total) in tuple(self._counts.items()):
            up_to = zip(map(floatToGoString, self._bounds), accumulate(counts), strict=True)
            family.add_metric(labels, list(up_to), total)
        yield family

    def _none(self) -> list[float]:
        return [0.0] * (len(self._bounds) + 1)


class _Reader(Collector):
    """Reads what others count, at every scrape."""

    def __init__(self, read: Gauges) -> None:
        self.read = read

    def collect(self) -> Iterable[Metric]:
        for name, (documentation, value) in self.read().items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            if not isinstance(value, Mapping):
                yield kind(name, documentation, value=value)
                continue
            names = [label for label, _ in next(iter(value), ())]
            family = kind(name, documentation, labels=names)
            for labels, number in value.items():
                family.add_metric([of for _, of in labels], number)
            yield family

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is depends on the gateway, which is not whole yet when this is registered."""
        return ()
