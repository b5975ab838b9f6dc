"""Traces: one span a request, one an attempt, and the model's server is told of the attempt's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from fixtures.loopback_cloud import LoopbackCloud, status
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeSettings
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from smallfirst.router.gateway import Gateway
from smallfirst.router.ledger import Entry
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import AnyModelSettings
from smallfirst.router.telemetry.context import trace_id_of
from smallfirst.router.telemetry.otel import OpenTelemetry, Providers
from smallfirst.router.wire import ChatRequest

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INCOMING = f"00-{TRACE}-{PARENT}-01"
SECRET = "the prompt's canary 7f3a"


@dataclass
class Traced:
    """A gateway that is traced into memory."""

    gateway: Gateway
    spans: InMemorySpanExporter
    reader: InMemoryMetricReader
    entries: list[Entry] = field(default_factory=list)

    def finished(self) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """The request's span and those of its attempts, in the order in which they ended."""
        *attempts, request = self.spans.get_finished_spans()
        return request, attempts

    def points(self) -> dict[str, list[Any]]:
        """All measurements by metric name."""
        data = self.reader.get_metrics_data()
        assert data is not None
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: list(metric.data.data_points) for metric in metrics}


class _Recording(OpenTelemetry):
    """Keeps the entries that it is told of."""

    def __init__(self, models: tuple[AnyModelSettings, ...], open_providers: Callable[[], Providers]) -> None:
        super().__init__(models, open_providers)
        self.entries: list[Entry] = []

    def observe(self, entry: Entry) -> None:
        self.entries.append(entry)
        super().observe(entry)


@pytest.fixture
async def traced(
    make_settings: MakeSettings, local_model: LocalModel
) -> AsyncIterator[Callable[..., Traced]]:
    """Makes gateways that are traced into memory."""
    made: list[Traced] = []

    def make(**fields: Any) -> Traced:
        spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracer = TracerProvider(shutdown_on_exit=False)
        tracer.add_span_processor(SimpleSpanProcessor(spans))
        meter = MeterProvider([reader], shutdown_on_exit=False)
        settings = make_settings(**fields)
        telemetry = _Recording(settings.models, lambda: Providers(tracer, meter))
        gateway = Gateway(settings, models={LOCAL: local_model}, telemetry=telemetry)
        made.append(Traced(gateway, spans, reader, telemetry.entries))
        return made[-1]

    yield make
    for each in made:
        await each.gateway.aclose()


def ask(text: str, *, traceparent: str | None = None, **fields: Any) -> ChatRequest:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
    return ChatRequest.parse(body, headers={} if traceparent is None else {"traceparent": traceparent})


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


async def test_a_request_has_a_span_by_the_conventions(traced: Callable[..., Traced]) -> None:
    made = traced()
    answer = await made.gateway.complete(ask(HARD, metadata={"agent": "planner"}))
    request, (attempt,) = made.finished()
    assert (request.name, request.kind) == ("chat auto", SpanKind.SERVER)
    found = attributes(request)
    assert {name: found[name] for name in found if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "smallfirst",
        "gen_ai.request.model": "auto",
        "gen_ai.request.stream": False,
        "gen_ai.response.model": CLOUD,
        "gen_ai.agent.name": "planner",
        "gen_ai.conversation.id": found["gen_ai.conversation.id"],
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 8,
    }
    assert found["smallfirst.route"] == "cloud"
    assert found["smallfirst.request_id"] == answer.receipt.request_id
    assert found["smallfirst.cost_usd"] == answer.receipt.cost_usd
    assert found["smallfirst.score"] == answer.receipt.score
    assert found["smallfirst.reason_code"]
    assert (attempt.name, attempt.kind) == (f"chat {CLOUD}", SpanKind.CLIENT)
    assert attempt.parent is not None
    assert attempt.parent.span_id == request.context.span_id
    said = attributes(attempt)
    assert said["gen_ai.provider.name"] == "openai"
    assert said["server.address"] == "127.0.0.1"
    assert said["smallfirst.attempt.outcome"] == "ok"


async def test_the_models_server_gets_the_attempt_as_its_parent(
    traced: Callable[..., Traced], cloud: LoopbackCloud
) -> None:
    made = traced()
    await made.gateway.complete(ask("Hello", traceparent=INCOMING, model=CLOUD))
    request, (attempt,) = made.finished()
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert f"{request.context.trace_id:032x}" == TRACE
    assert cloud.requests[-1].headers["traceparent"] == f"00-{TRACE}-{attempt.context.span_id:016x}-01"


async def test_a_callers_decision_not_to_sample_is_kept_and_passed_on(
    traced: Callable[..., Traced], cloud: LoopbackCloud
) -> None:
    made = traced()
    await made.gateway.complete(ask("Hello", traceparent=f"00-{TRACE}-{PARENT}-00", model=CLOUD))
    assert made.spans.get_finished_spans() == ()
    assert cloud.requests[-1].headers["traceparent"].startswith(f"00-{TRACE}-")
    assert cloud.requests[-1].headers["traceparent"].endswith("-00")


async def test_a_traceparent_that_is_not_valid_begins_a_trace(
    traced: Callable[..., Traced], cloud: LoopbackCloud
) -> None:
    made = traced()
    await made.gateway.complete(ask("Hello", traceparent="00-nonsense", model=CLOUD))
    request, (attempt,) = made.finished()
    assert request.parent is None
    trace = f"{request.context.trace_id:032x}"
    # Sampled, and of a random id.
    assert cloud.requests[-1].headers["traceparent"] == f"00-{trace}-{attempt.context.span_id:016x}-03"


async def test_without_telemetry_the_callers_traceparent_is_passed_on_as_it_is(
    make_settings: MakeSettings, cloud: LoopbackCloud
) -> None:
    async with Gateway(make_settings(local=False)) as gateway:
        await gateway.complete(ask("Hello", traceparent=INCOMING))
    assert cloud.requests[-1].headers["traceparent"] == INCOMING


async def test_a_failed_attempt_and_the_one_that_answers_are_both_seen(
    traced: Callable[..., Traced], cloud: LoopbackCloud
) -> None:
    cloud.enqueue(status(500))
    made = traced()
    await made.gateway.complete(ask(HARD, max_tokens=4))
    request, attempts = made.finished()
    outcomes = {span.name: attributes(span).get("error.type") for span in attempts}
    assert outcomes == {f"chat {CLOUD}": "error", f"chat {LOCAL}": None}
    assert {span.status.status_code for span in attempts} == {StatusCode.ERROR, StatusCode.UNSET}
    assert "error.type" not in attributes(request)


async def test_an_upstreams_own_error_code_is_no_label(
    traced: Callable[..., Traced], cloud: LoopbackCloud
) -> None:
    error = {"message": SECRET, "type": "x", "code": SECRET, "param": None}
    cloud.enqueue(status(400, error))
    made = traced()
    with pytest.raises(Exception, match="answered 400"):
        await made.gateway.complete(ask("Hello", model=CLOUD))
    request, (attempt,) = made.finished()
    assert attributes(request)["error.type"] == "400"
    assert attributes(attempt)["error.type"] == "error"
    assert request.status.status_code is StatusCode.ERROR


async def test_no_prompt_and_no_answer_is_in_any_span_or_measurement(
    traced: Callable[..., Traced], cloud: LoopbackCloud
) -> None:
    cloud.answer_text = f"Answering {SECRET}"
    cloud.enqueue(status(400, {"message": f"bad: {SECRET}", "code": SECRET, "type": "x"}))
    made = traced()
    with pytest.raises(Exception, match="answered 400"):
        await made.gateway.complete(ask(SECRET, model=CLOUD))
    await made.gateway.complete(ask(SECRET, model=CLOUD))
    stream = await made.gateway.stream(ask(SECRET + "!", model=CLOUD))
    assert [chunk async for chunk in stream]
    everything = "".join(span.to_json() for span in made.spans.get_finished_spans())
    assert len(made.spans.get_finished_spans()) == 6
    assert SECRET not in everything
    assert SECRET not in str(made.reader.get_metrics_data())


async def test_a_stream_is_traced_to_its_end(traced: Callable[..., Traced]) -> None:
    made = traced()
    stream = await made.gateway.stream(ask("Hello", model=CLOUD))
    assert made.spans.get_finished_spans() == ()
    assert [chunk async for chunk in stream]
    request, (attempt,) = made.finished()
    found = attributes(request)
    assert found["gen_ai.request.stream"] is True
    begun, ended = times(request)
    assert 0 < found["gen_ai.response.time_to_first_chunk"] <= (ended - begun) / 1e9
    assert begun <= times(attempt)[0] <= times(attempt)[1]


async def test_a_stream_that_is_left_ends_its_spans(traced: Callable[..., Traced]) -> None:
    made = traced()
    stream = await made.gateway.stream(ask("Hello", model=CLOUD))
    await anext(aiter(stream))
    await stream.aclose()
    request, (attempt,) = made.finished()
    assert attributes(attempt)["smallfirst.attempt.outcome"] == "cancelled"
    assert request.status.status_code is StatusCode.UNSET


async def test_an_answer_from_the_cache_has_no_attempt(traced: Callable[..., Traced]) -> None:
    made = traced()
    await made.gateway.complete(ask(EASY, model=CLOUD))
    assert made.gateway.reuse is not None
    await made.gateway.reuse.settled()
    await made.gateway.complete(ask(EASY, model=CLOUD))
    request, before = made.finished()
    assert attributes(request)["smallfirst.route"] == "cache"
    assert [span.name for span in before] == [f"chat {CLOUD}", f"chat {CLOUD}"]  # both of the first request


async def test_a_local_attempt_is_a_span_of_this_process(traced: Callable[..., Traced]) -> None:
    made = traced()
    await made.gateway.complete(ask(EASY, model=LOCAL, max_tokens=4))
    _, (attempt,) = made.finished()
    assert attempt.kind is SpanKind.INTERNAL
    assert attributes(attempt)["gen_ai.provider.name"] == "llama.cpp"
    assert "server.address" not in attributes(attempt)


async def test_the_ledgers_entry_has_the_trace_id(traced: Callable[..., Traced]) -> None:
    made = traced()
    await made.gateway.complete(ask("Hello", model=CLOUD))
    request, _ = made.finished()
    assert [entry.trace_id for entry in made.entries] == [f"{request.context.trace_id:032x}"]


def test_without_telemetry_the_entry_has_the_callers_trace_id() -> None:
    assert trace_id_of({"traceparent": INCOMING}) == TRACE
    assert trace_id_of({"traceparent": f"01-{TRACE}-{PARENT}-01-what-later-versions-add"}) == TRACE
    broken = ("", "00-nonsense", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"{INCOMING}-more")
    for header in broken:
        assert trace_id_of({"traceparent": header}) is None


async def test_measurements_follow_the_conventions(traced: Callable[..., Traced]) -> None:
    made = traced()
    stream = await made.gateway.stream(ask("Hello", model=CLOUD))
    assert [chunk async for chunk in stream]
    points = made.points()
    assert set(points) == {
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
    }
    tokens = {
        point.attributes["gen_ai.token.type"]: point.sum for point in points["gen_ai.client.token.usage"]
    }
    assert tokens == {"input": 20, "output": 5}
    (call,) = points["gen_ai.client.operation.duration"]
    assert call.attributes["gen_ai.operation.name"] == "chat"
    assert call.attributes["gen_ai.provider.name"] == "openai"
    assert call.attributes["gen_ai.request.model"] == call.attributes["gen_ai.response.model"] == CLOUD
    assert call.explicit_bounds[0] == 0.01
    (request,) = points["gen_ai.server.request.duration"]
    assert request.attributes["smallfirst.route"] == "cloud"


def test_a_spans_json_is_what_msgspec_reads() -> None:
    """The canary tests above look into it."""
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("a", attributes={"b": SECRET})
    span.end()
    assert isinstance(span, ReadableSpan)
    assert msgspec.json.decode(span.to_json())["attributes"] == {"b": SECRET}


async def test_a_comparison_with_the_baseline_belongs_to_its_request(
    traced: Callable[..., Traced], cloud: LoopbackCloud
) -> None:
    made = traced(drift={"shadow": 1.0}, policy="thrifty")
    await made.gateway.complete(ask(EASY, max_tokens=8, traceparent=INCOMING))
    await made.gateway.shadow.settled()
    request, _ = made.finished()
    assert attributes(request)["smallfirst.route"] == "local"
    assert cloud.requests[-1].headers["traceparent"] == f"00-{TRACE}-{request.context.span_id:016x}-01"
