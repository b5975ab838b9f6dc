"""Whether OpenTelemetry is wanted, and where it sends what it has: OTLP over HTTP. Needs the extra `otel`."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

from ..errors import SettingsError
from ..settings import Settings, TelemetrySettings
from .otel import SCOPE, OpenTelemetry, Providers


def telemetry_of(settings: Settings) -> OpenTelemetry | None:
    """Return what the settings ask for, not started yet; None where telemetry is off.

    Raises:
        SettingsError: The extra `otel` is not installed.
    """
    wanted = settings.telemetry
    if not (wanted.endpoint is not None if wanted.enabled is None else wanted.enabled):
        return None
    if not _is_installed():
        raise _missing()
    return OpenTelemetry(settings.models, partial(open_providers, wanted))


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter") is not None
    except ModuleNotFoundError:
        return False


def _missing() -> SettingsError:
    return SettingsError(
        "OpenTelemetry is switched on, by 'telemetry' in the settings or by an OTEL_… variable, and not installed: "
        "pip install 'smallfirst[otel]', or set 'telemetry: {enabled: false}'"
    )


def open_providers(settings: TelemetrySettings) -> Providers:
    """Return providers that export over OTLP/HTTP; what the settings leave open is read from `OTEL_…` variables.

    Raises:
        SettingsError: The extra `otel` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise _missing() from exc
    resource = Resource.create()
    named = str(resource.attributes.get(SERVICE_NAME, "unknown_service"))
    name = settings.service_name or (SCOPE if named.startswith("unknown_service") else named)
    resource = resource.merge(Resource({SERVICE_NAME: name}))
    headers = {key: value.get_secret_value() for key, value in settings.headers.items()} or None
    base = None if settings.endpoint is None else settings.endpoint.rstrip("/")
    tracer = meter = None
    if settings.traces:
        tracer = TracerProvider(resource=resource, shutdown_on_exit=False)
        to = None if base is None else f"{base}/v1/traces"
        tracer.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=to, headers=headers)))
    if settings.metrics:
        to = None if base is None else f"{base}/v1/metrics"
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=to, headers=headers))
        meter = MeterProvider([reader], resource=resource, shutdown_on_exit=False)

    def shutdown() -> None:
        if tracer is not None:
            tracer.shutdown()
        if meter is not None:
            meter.shutdown()

    return Providers(tracer, meter, shutdown)
