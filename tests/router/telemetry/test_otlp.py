"""Traces and metrics over OTLP/HTTP, to a collector on loopback that reads what it is sent."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from fixtures.serving import CLOUD, MakeSettings
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from smallfirst.router.gateway import Gateway
from smallfirst.router.settings import TelemetrySettings, with_otel
from smallfirst.router.settings.file import load_settings
from smallfirst.router.telemetry.exporting import telemetry_of


@dataclass
class Collector:
    """An OpenTelemetry collector, as far as a sender can tell."""

    url: str = ""
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.headers.append(headers)
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if scope["path"] == "/v1/traces":
            self.traces.append(ExportTraceServiceRequest.FromString(body))
        elif scope["path"] == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class _Server(uvicorn.Server):
    def __init__(self, collector: Collector) -> None:
        super().__init__(uvicorn.Config(collector, port=0, log_level="warning", lifespan="off"))
        self.collector = collector

    async def startup(self, sockets: object = None) -> None:
        await super().startup()
        port = self.servers[0].sockets[0].getsockname()[1]
        self.collector.url = f"http://127.0.0.1:{port}"
        self.collector.ready.set()


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = _Server(Collector())
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),), name="collector")
    thread.start()
    assert server.collector.ready.wait(20)
    yield server.collector
    server.should_exit = True
    thread.join(20)


def names(collector: Collector) -> list[str]:
    return [
        span.name
        for request in collector.traces
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


async def test_what_settings_name_is_sent(collector: Collector, make_settings: MakeSettings) -> None:
    telemetry = TelemetrySettings(
        endpoint=collector.url, headers={"x-collector-key": SecretStr("sesame")}, service_name="gateway-1"
    )
    async with Gateway(make_settings(local=False, telemetry=telemetry)) as gateway:
        await gateway.complete("Hello", model=CLOUD)
    assert sorted(names(collector)) == [f"chat {CLOUD}", f"chat {CLOUD}"]
    resource = collector.traces[0].resource_spans[0].resource
    told = {attribute.key: attribute.value.string_value for attribute in resource.attributes}
    assert told["service.name"] == "gateway-1"
    assert {headers["x-collector-key"] for headers in collector.headers} == {"sesame"}
    sent = {
        metric.name
        for request in collector.metrics
        for resource_metrics in request.resource_metrics
        for scope in resource_metrics.scope_metrics
        for metric in scope.metrics
    }
    assert {"gen_ai.client.token.usage", "gen_ai.server.request.duration"} <= sent


async def test_opentelemetrys_own_variables_hold(
    collector: Collector, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_SERVICE_NAME": "by-variable",
        "OTEL_METRICS_EXPORTER": "none",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    telemetry = with_otel(TelemetrySettings(), environ)
    async with Gateway(make_settings(local=False, telemetry=telemetry)) as gateway:
        await gateway.complete("Hello", model=CLOUD)
    resource = collector.traces[0].resource_spans[0].resource
    told = {attribute.key: attribute.value.string_value for attribute in resource.attributes}
    assert told["service.name"] == "by-variable"
    assert collector.metrics == []


async def test_a_gateway_that_is_opened_again_sends_again(
    collector: Collector, make_settings: MakeSettings
) -> None:
    telemetry = TelemetrySettings(endpoint=collector.url, metrics=False)
    gateway = Gateway(make_settings(local=False, telemetry=telemetry))
    await gateway.complete("Hello", model=CLOUD)
    await gateway.aclose()
    await gateway.complete("Hello again", model=CLOUD)
    await gateway.aclose()
    assert len(names(collector)) == 4


def test_nothing_is_traced_by_default(make_settings: MakeSettings) -> None:
    assert telemetry_of(make_settings()) is None
    assert with_otel(TelemetrySettings(), {}).enabled is None


@pytest.mark.parametrize(
    ("environ", "enabled"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_SERVICE_NAME": "alone"}, None),
    ],
)
def test_an_endpoint_in_the_environment_switches_it_on(environ: dict[str, str], enabled: bool | None) -> None:
    assert with_otel(TelemetrySettings(), environ).enabled is enabled


WITHOUT_IT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from smallfirst.router.errors import SettingsError
from smallfirst.router.settings import TelemetrySettings, default_settings, with_otel
from smallfirst.router.telemetry.exporting import telemetry_of
settings = default_settings({})
print(telemetry_of(settings))
wanted = with_otel(TelemetrySettings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})
try:
    telemetry_of(settings.model_copy(update={"telemetry": wanted}))
except SettingsError as exc:
    print(exc)
"""


def test_without_the_extra_what_asks_for_it_is_told_how_to_get_it() -> None:
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_IT], capture_output=True, text=True, check=True
    ).stdout
    off, error = said.splitlines()
    assert off == "None"
    assert "an OTEL_… variable" in error
    assert "pip install 'smallfirst[otel]'" in error


def test_what_the_settings_say_outright_wins() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
    assert with_otel(TelemetrySettings(enabled=False), environ).enabled is False


def test_the_settings_file_and_the_environment_are_read_together(tmp_path: Path) -> None:
    file = tmp_path / "smallfirst.yaml"
    file.write_text("telemetry: {service_name: gateway-2, metrics: false}\n")
    read = load_settings(file, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}).settings.telemetry
    assert read == TelemetrySettings(enabled=True, service_name="gateway-2", metrics=False)
