"""Prometheus metrics of one gateway, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .ledger import Entry

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OVERHEAD = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)

# A gauge's values by label names and values; all of a gauge have the same names, and their number is bounded.
Labelled = Mapping[tuple[tuple[str, str], ...], float]
# What is read at scrape time: metric name -> (help, value).
Gauges = Callable[[], Mapping[str, tuple[str, float | Labelled]]]


class Metrics:
    """Counts requests as they are recorded. Labels are bounded: configured models, routes, statuses.

    Args:
        gauges: Read at every scrape.
    """

    def __init__(self, gauges: Gauges) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "smallfirst_requests_total",
            "Requests served, by route and status",
            ["route", "model", "status"],
            registry=self._registry,
        )
        self._tokens = Counter(
            "smallfirst_tokens_total", "Tokens, by model and type", ["model", "type"], registry=self._registry
        )
        self._cost = Counter(
            "smallfirst_cost_usd_total", "Cost in US dollars where known", ["model"], registry=self._registry
        )
        self._saved = Counter(
            "smallfirst_baseline_cost_usd_total",
            "What the baseline model would have cost",
            registry=self._registry,
        )
        self._duration = Histogram(
            "smallfirst_request_duration_seconds",
            "Time from request to the end of the answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._overhead = Histogram(
            "smallfirst_overhead_seconds",
            "Time that the gateway itself added",
            buckets=_OVERHEAD,
            registry=self._registry,
        )
        self._failures = Counter(
            "smallfirst_model_failures_total",
            "Attempts that did not succeed",
            ["model", "outcome"],
            registry=self._registry,
        )
        self._escalations = Counter(
            "smallfirst_escalations_total",
            "Answers that were turned down for the next model's, by cause (unsure, disagreed, invalid)",
            ["model", "cause"],
            registry=self._registry,
        )
        self._early = Counter(
            "smallfirst_early_starts_total",
            "Calls that were started before their turn, by outcome (ok: used; unused: stopped and paid for)",
            ["model", "outcome"],
            registry=self._registry,
        )
        self._registry.register(_GaugeCollector(gauges))

    def observe(self, entry: Entry) -> None:
        """Count one finished request; of a comparison with the baseline, what it used and cost."""
        model = entry.model or "none"
        self._tokens.labels(model, "input").inc(entry.input_tokens)
        self._tokens.labels(model, "output").inc(entry.output_tokens)
        if entry.cost_usd is not None:
            self._cost.labels(model).inc(entry.cost_usd)
        if entry.baseline_cost_usd is not None:
            self._saved.inc(entry.baseline_cost_usd)
        if entry.kind != "request":
            return
        self._requests.labels(entry.route, model, entry.status).inc()
        self._duration.labels(entry.route).observe(entry.duration_ms / 1000)
        self._overhead.observe(entry.overhead_ms / 1000)
        for attempt in entry.attempts:
            if attempt.early:
                self._early.labels(attempt.model, attempt.outcome).inc()
            if attempt.outcome == "discarded":
                self._escalations.labels(attempt.model, attempt.error_code or "unsure").inc()
            elif attempt.outcome not in ("ok", "unused"):
                self._failures.labels(attempt.model, attempt.outcome).inc()

    def render(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _GaugeCollector(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for name, (documentation, value) in self._gauges().items():
            if not isinstance(value, Mapping):
                yield GaugeMetricFamily(name, documentation, value=value)
                continue
            names = [label for label, _ in next(iter(value), ())]
            family = GaugeMetricFamily(name, documentation, labels=names)
            for labels, number in value.items():
                family.add_metric([of for _, of in labels], number)
            yield family
