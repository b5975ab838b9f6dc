"""Prometheus metrics of one gateway, in a registry of its own. docs/operations.md lists them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .ledger import AttemptRecord, Entry
from .telemetry.labels import code_label

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OVERHEAD = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)

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
        build.labels(version("smallfirst"), platform.python_version()).set(1)
        self._registry.register(self._gauges)
        # The gateway's own memory, processor time and open files, under their usual names (`process_…`).
        ProcessCollector(registry=self._registry)

    def _define_requests(self) -> None:
        self._requests = self._counters(
            "smallfirst_requests_total", "Requests served, by route and status", "route", "model", "status"
        )
        self._errors = self._counters(
            "smallfirst_errors_total", "Requests that failed, by error code", "code"
        )
        self._refused = self._counters(
            "smallfirst_refused_total", "Requests refused for a key's limits or budget", "reason"
        )
        self._in_flight = self._gauge("smallfirst_requests_in_flight", "Requests being served")
        self._saved = self._counter(
            "smallfirst_baseline_cost_usd_total", "What the baseline model would have cost"
        )
        self._duration = self._histograms(
            "smallfirst_request_duration_seconds",
            "Time from request to the end of the answer",
            "route",
            buckets=_SECONDS,
        )
        self._first = self._histograms(
            "smallfirst_time_to_first_token_seconds",
            "Time from request to the first chunk of a stream",
            "route",
            buckets=_SECONDS,
        )
        self._overhead = self._histogram(
            "smallfirst_overhead_seconds", "Time that the gateway itself added", buckets=_OVERHEAD
        )

    def _define_models(self) -> None:
        self._tokens = self._counters(
            "smallfirst_tokens_total",
            "Tokens of all attempts, by type; cached and cache_write are among input, reasoning among output",
            "model",
            "type",
        )
        self._cost = self._counters(
            "smallfirst_cost_usd_total", "Cost of all attempts in US dollars where known", "model"
        )
        self._unknown = self._counters(
            "smallfirst_unknown_cost_total", "Attempts whose cost is not known", "model"
        )
        self._retries = self._counters("smallfirst_retries_total", "Tries beyond an attempt's first", "model")
        self._failures = self._counters(
            "smallfirst_model_failures_total", "Attempts that did not succeed", "model", "outcome"
        )
        self._escalations = self._counters(
            "smallfirst_escalations_total",
            "Answers that were turned down for the next model's, by cause (unsure, disagreed, invalid)",
            "model",
            "cause",
        )
        self._early = self._counters(
            "smallfirst_early_starts_total",
            "Calls that were started before their turn, by outcome (ok: used; unused: stopped and paid for)",
            "model",
            "outcome",
        )
        self._hedges = self._counters(
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
        self._in_flight.inc()

    def refused(self, reason: str) -> None:
        """Count a request that was refused for a key's limits.

        Args:
            reason: Which limit, as one of a few stable words.
        """
        self._refused(reason).inc()

    def observe(self, entry: Entry) -> None:
        """Count one finished request; of one of our own (a comparison, a refresh) what it used and cost."""
        for attempt in entry.attempts:
            self._used(attempt)
        if entry.baseline_cost_usd is not None:
            self._saved.inc(entry.baseline_cost_usd)
        if entry.kind != "request":
            return
        self._in_flight.dec()
        self._requests(entry.route, entry.model or "none", entry.status).inc()
        self._duration(entry.route).observe(entry.duration_ms / 1000)
        self._overhead.observe(entry.overhead_ms / 1000)
        if entry.ttft_ms is not None:
            self._first(entry.route).observe(entry.ttft_ms / 1000)
        if entry.status == "error":
            self._errors(code_label(entry.error_code)).inc()
        for attempt in entry.attempts:
            if attempt.hedge:
                self._hedges(attempt.model, attempt.outcome).inc()
            elif attempt.early:
                self._early(attempt.model, attempt.outcome).inc()
            if attempt.outcome == "discarded":
                self._escalations(attempt.model, attempt.error_code or "unsure").inc()
            elif attempt.outcome not in ("ok", "unused"):
                self._failures(attempt.model, attempt.outcome).inc()

    def _used(self, attempt: AttemptRecord) -> None:
        model, tokens = attempt.model, self._tokens
        tokens(model, "input").inc(attempt.input_tokens)
        tokens(model, "output").inc(attempt.output_tokens)
        for kind, count in (
            ("cached", attempt.cached_tokens),
            ("cache_write", attempt.cache_write_tokens),
            ("reasoning", attempt.reasoning_tokens),
        ):
            if count:
                tokens(model, kind).inc(count)
        if attempt.cost_usd is None:
            self._unknown(model).inc()
        else:
            self._cost(model).inc(attempt.cost_usd)
        if attempt.retries:
            self._retries(model).inc(attempt.retries)

    def collect(self) -> Iterable[Metric]:
        """Return what `render` shows."""
        return _Shown(self._registry).collect()

    def render(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(_Shown(self._registry))

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(name, words, labels, registry=self._registry)

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(name, words, labels, registry=self._registry)

    def _histogram(self, name: str, words: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, words, labels, buckets=buckets, registry=self._registry)

    # Looking a label's counter up takes longer than counting; their number is bounded, so each is looked up once.

    def _counters(self, name: str, words: str, *labels: str) -> Callable[..., Counter]:
        return cache(self._counter(name, words, *labels).labels)

    def _histograms(
        self, name: str, words: str, *labels: str, buckets: tuple[float, ...]
    ) -> Callable[..., Histogram]:
        return cache(self._histogram(name, words, *labels, buckets=buckets).labels)


class _Shown(Collector):
    """A registry without the times at which each counter began, which would nearly double what is scraped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


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
