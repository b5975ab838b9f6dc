"""Traces and metrics by OpenTelemetry's conventions for generative AI. Needs the extra `otel`.

One span a request and one an attempt, whose id is what the model's server is given as its parent. No prompt, no answer,
no key is in any of them. Names are those of the GenAI semantic conventions
(https://github.com/open-telemetry/semantic-conventions-genai); they stand here as text, since the Python package marks
its constants as deprecated since the conventions moved. What these have no name for is called `smallfirst.…`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from smallfirst.policies import Attempt

from ..ledger import AttemptRecord, Entry
from ..settings import AnyModelSettings, CloudModelSettings
from ..wire import ChatRequest
from .labels import CODES

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

OPERATION = "chat"
SCOPE = "smallfirst"

# By the conventions' own advice for each histogram.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TOKENS = tuple(float(4**power) for power in range(14))

# The price list's ids for providers, as the conventions call them; others keep their own.
_PROVIDERS = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "x-ai": "x_ai",
}

Attributes = dict[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Providers:
    """Where spans and measurements go; `shutdown` sends what is left."""

    tracer: TracerProvider | None
    meter: MeterProvider | None
    shutdown: Callable[[], None] = lambda: None


class OpenTelemetry:
    """Traces requests; see `Telemetry`.

    Args:
        models: The configured ones.
        open_providers: Called at the start; a test passes providers with exporters of its own.
    """

    def __init__(self, models: tuple[AnyModelSettings, ...], open_providers: Callable[[], Providers]) -> None:
        self.told = {model.name: _told_of(model) for model in models}
        self._open = open_providers
        self._started: _Started | None = None

    def start(self) -> None:
        """Begin to export. May be called more than once."""
        if self._started is None:
            self._started = _Started(self._open())

    def serves(self, models: tuple[AnyModelSettings, ...]) -> None:
        """Take note of other models: the settings were read again. Those known before stay so."""
        self.told |= {model.name: _told_of(model) for model in models}

    def begin(self, request: ChatRequest) -> _Trace:
        """Begin a request's trace: a part of the caller's by its `traceparent`, else of the current span."""
        self.start()
        assert self._started is not None
        return _Trace(self, self._started, request)

    def observe(self, entry: Entry) -> None:
        """Record the conventions' metrics of a finished request and its attempts."""
        started = self._started
        if started is None or started.meters is None:
            return
        started.meters.observe(entry, self.told)

    def close(self) -> None:
        """Send what is left, and stop. Blocks, at most for the exporter's own timeouts."""
        started, self._started = self._started, None
        if started is not None:
            started.providers.shutdown()


class _Started:
    def __init__(self, providers: Providers) -> None:
        from opentelemetry.trace import NoOpTracer
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.providers = providers
        self.tracer = providers.tracer.get_tracer(SCOPE) if providers.tracer is not None else NoOpTracer()
        self.meters = None if providers.meter is None else _Meters(providers.meter)
        self.propagator = TraceContextTextMapPropagator()


class _Trace:
    """One request's spans; see `Trace`."""

    def __init__(self, telemetry: OpenTelemetry, started: _Started, request: ChatRequest) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._telemetry = telemetry
        self._started = started
        context = None
        if "traceparent" in request.headers:
            context = started.propagator.extract(request.headers, Context())
        self._begun = time.time_ns()
        self._span = started.tracer.start_span(
            f"{OPERATION} {request.fields.model}",
            context,
            SpanKind.SERVER,
            # What a sampler may decide by.
            {"gen_ai.operation.name": OPERATION, "gen_ai.request.model": request.fields.model},
            start_time=self._begun,
        )
        self._context = set_span_in_context(self._span, context)
        self._asked: list[tuple[Attempt, Span, int]] = []

    @property
    def trace_id(self) -> str | None:
        """In hex, 32 digits; None where nothing is traced and the caller sent none."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else None

    def asking(self, request: ChatRequest, attempt: Attempt) -> ChatRequest:
        """Begin an attempt's span; returns the request with it as the parent of what the model's server does."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        begun = time.time_ns()
        told = self._telemetry.told[attempt.model]
        span = self._started.tracer.start_span(
            f"{OPERATION} {told['gen_ai.request.model']}",
            self._context,
            SpanKind.CLIENT if attempt.tier == "cloud" else SpanKind.INTERNAL,
            told,
            start_time=begun,
        )
        self._asked.append((attempt, span, begun))
        return self._under(request, set_span_in_context(span, self._context))

    def beside(self, request: ChatRequest) -> ChatRequest:
        """Return a request of our own, that belongs to this one, with this one as its parent."""
        return self._under(request, self._context)

    def _under(self, request: ChatRequest, context: Context) -> ChatRequest:
        carried = self._started.propagator.fields
        headers = {name: value for name, value in request.headers.items() if name not in carried}
        self._started.propagator.inject(headers, context)
        return request.with_headers(headers)

    def finish(self, entry: Entry) -> None:
        """End all spans, with what became of the request."""
        waiting = list(self._asked)
        self._asked = []
        for record in entry.attempts:
            at = next((at for at, (asked, _, _) in enumerate(waiting) if asked.model == record.model), None)
            if at is not None:
                _, span, begun = waiting.pop(at)
                _end(span, begun, record.duration_ms, _attempt_attributes(record), _error_of(record))
        # Stopped before they had begun.
        for _, span, _ in waiting:
            span.end()
        error = _error_type(entry.error_code, entry.http_status) if entry.status == "error" else None
        _end(self._span, self._begun, entry.duration_ms, _request_attributes(entry), error)


def _end(span: Span, begun: int, duration_ms: float, attributes: Attributes, error: str | None) -> None:
    from opentelemetry.trace import StatusCode

    if span.is_recording():
        if error is not None:
            attributes["error.type"] = error
            span.set_status(StatusCode.ERROR)
        span.set_attributes(attributes)
    span.end(begun + int(duration_ms * 1e6))


class _Meters:
    """The conventions' histograms."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(SCOPE)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._call = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._request = meter.create_histogram(
            "gen_ai.server.request.duration",
            "s",
            "Generative AI server request duration such as time-to-last byte or last output token.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "Time to generate first token for successful responses.",
            explicit_bucket_boundaries_advisory=_FIRST_SECONDS,
        )

    def observe(self, entry: Entry, told: Mapping[str, Attributes]) -> None:
        for record in entry.attempts:
            attributes: Attributes = {**told[record.model], "gen_ai.response.model": record.model}
            for kind, count in (("input", record.input_tokens), ("output", record.output_tokens)):
                if count:
                    self._tokens.record(count, {**attributes, "gen_ai.token.type": kind})
            error = _error_of(record)
            self._call.record(record.duration_ms / 1000, _with(attributes, error))
        if entry.kind != "request":
            return
        served: Attributes = {
            "gen_ai.operation.name": OPERATION,
            "gen_ai.provider.name": SCOPE,
            "smallfirst.route": entry.route,
        }
        if entry.model is not None:
            served["gen_ai.response.model"] = entry.model
        error = _error_type(entry.error_code, entry.http_status) if entry.status == "error" else None
        self._request.record(entry.duration_ms / 1000, _with(served, error))
        if entry.ttft_ms is not None and entry.status == "ok":
            self._first.record(entry.ttft_ms / 1000, served)


def _with(attributes: Attributes, error: str | None) -> Attributes:
    return attributes if error is None else {**attributes, "error.type": error}


def _told_of(model: AnyModelSettings) -> Attributes:
    """Return what every span and measurement of a model's calls says of it."""
    if not isinstance(model, CloudModelSettings):
        engine = "llama.cpp" if model.kind == "llama" else SCOPE
        return {**_base(engine), "gen_ai.request.model": model.name}
    address = urlsplit(model.base_url)
    provider = model.provider or "openai"
    told = _base(_PROVIDERS.get(provider, provider))
    told["gen_ai.request.model"] = model.model or model.name
    if address.hostname is not None:
        told["server.address"] = address.hostname
        told["server.port"] = address.port or (443 if address.scheme == "https" else 80)
    return told


def _base(provider: str) -> Attributes:
    return {"gen_ai.operation.name": OPERATION, "gen_ai.provider.name": provider}


def _usage(input_tokens: int, output_tokens: int, cached: int, written: int, reasoning: int) -> Attributes:
    found: Attributes = {
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": output_tokens,
    }
    further = {"cache_read.input": cached, "cache_creation.input": written, "reasoning.output": reasoning}
    return found | {f"gen_ai.usage.{name}_tokens": count for name, count in further.items() if count}


def _attempt_attributes(record: AttemptRecord) -> Attributes:
    attributes = _usage(
        record.input_tokens,
        record.output_tokens,
        record.cached_tokens,
        record.cache_write_tokens,
        record.reasoning_tokens,
    )
    attributes |= {
        "gen_ai.response.model": record.model,
        "smallfirst.attempt.outcome": record.outcome,
        "smallfirst.attempt.retries": record.retries,
        "smallfirst.attempt.early": record.early,
        "smallfirst.attempt.hedge": record.hedge,
    }
    if record.cost_usd is not None:
        attributes["smallfirst.cost_usd"] = record.cost_usd
    return attributes


def _request_attributes(entry: Entry) -> Attributes:
    optional: dict[str, Any] = {
        "gen_ai.response.model": entry.model,
        "gen_ai.agent.name": entry.agent,
        "gen_ai.conversation.id": entry.session,
        "gen_ai.response.time_to_first_chunk": None if entry.ttft_ms is None else entry.ttft_ms / 1000,
        "smallfirst.score": None if entry.model is None else entry.scores.get(entry.model),
        "smallfirst.task": entry.task,
        "smallfirst.cost_usd": entry.cost_usd,
        "smallfirst.saved_usd": entry.saved_usd,
    }
    attributes = _usage(
        entry.input_tokens,
        entry.output_tokens,
        entry.cached_tokens,
        entry.cache_write_tokens,
        entry.reasoning_tokens,
    )
    return attributes | {
        "gen_ai.provider.name": SCOPE,
        "gen_ai.request.stream": entry.stream,
        "http.response.status_code": entry.http_status,
        "smallfirst.request_id": entry.request_id,
        "smallfirst.tenant": entry.tenant,
        "smallfirst.policy": entry.policy,
        "smallfirst.route": entry.route,
        "smallfirst.reason_code": entry.reason_code,
        "smallfirst.cache": entry.cache,
        "smallfirst.overhead_ms": entry.overhead_ms,
        "smallfirst.attempts": len(entry.attempts),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _error_of(record: AttemptRecord) -> str | None:
    """Return an attempt's `error.type`; None where it did what was asked of it."""
    if record.outcome in ("ok", "discarded", "unused", "cancelled"):
        return None
    return record.error_code if record.error_code in CODES else record.outcome


def _error_type(code: str | None, status: int) -> str:
    """Return a request's `error.type`: our own code, else the status; an upstream's words are without bound."""
    return code if code is not None and code in CODES else str(status)
