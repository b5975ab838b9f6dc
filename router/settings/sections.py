"""Sections beside models, keys and policies: what is kept, watched and told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from .section import Section, plain_url, user_data_dir


class CacheSettings(Section):
    """Answers that are given again: to equal requests, and to those that surely have the same answer."""

    enabled: bool = True
    url: SecretStr | None = Field(
        default=None, description="redis://…; default: REDIS_URL, else in this process"
    )
    ttl: float = Field(default=3600, gt=0, description="seconds")
    max_cache_error: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="share of answers to similar requests that may be wrong; 0: to equal requests only",
    )
    check: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="share of answers to similar requests that are compared with a fresh one, in the background",
    )
    stale: float = Field(
        default=0,
        ge=0,
        description="seconds beyond `ttl` that an answer is still given while it is asked again",
    )
    wait: float = Field(
        default=10,
        ge=0,
        description="seconds from its beginning that a request under way is waited for by equal ones",
    )
    max_bytes: int = Field(default=64 * 1024 * 1024, ge=0, description="of the in-process store")
    timeout: float = Field(default=0.05, gt=0, description="seconds that Redis may take before it is skipped")


class EnergySettings(Section):
    """How energy and emissions are estimated; see docs/money.md."""

    watts_per_core: float = Field(
        default=12.0, gt=0, allow_inf_nan=False, description="that one busy core of this machine draws"
    )
    pue: float = Field(
        default=1.58,
        ge=1,
        allow_inf_nan=False,
        description="power usage effectiveness of where it stands; 1 for a machine under a desk",
    )
    grid_gco2e_per_kwh: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="of the electricity; default: unknown"
    )
    cloud: Literal["ecologits"] | None = Field(
        default=None,
        description="what estimates cloud models; needs the extra `energy`; default: their energy is unknown",
    )


class LedgerSettings(Section):
    """Where every request is written down."""

    path: Path = Field(default_factory=lambda: user_data_dir() / "ledger.db")
    url: SecretStr | None = Field(
        default=None, description="postgresql://…, shared by replicas; default: the file at `path`"
    )
    flush_interval: float = Field(
        default=0.25, gt=0, le=1.0, description="seconds; with one write, the most that may be lost"
    )
    max_pending: int = Field(
        default=100_000, ge=1, description="entries kept while the disk does not take them"
    )
    keep: float | None = Field(
        default=None, gt=0, description="days after which entries are deleted; default: never"
    )
    texts: Literal["off", "redacted", "full"] = Field(
        default="off",
        description="keep prompts and answers: never, without what its form gives away (docs/ledger.md), or all",
    )


class PrivacySettings(Section):
    """What finds names and addresses, where a policy's `pii_types` ask for them."""

    spacy_model: str = Field(
        default="en_core_web_lg", description="a spaCy model that is installed, for Presidio (extra `pii`)"
    )
    language: str = Field(default="en", description="the model's")


class DriftSettings(Section):
    """Watching whether the risk budgets of policies still hold."""

    alpha: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="P(a false alarm, ever) of a policy's scores, and of its outcomes",
    )
    tighten: bool = Field(default=True, description="send more to the cloud by itself where too much is lost")
    margin: float = Field(
        default=0.1, gt=0, le=1, description="by how much at the first alarm; at the second, all goes there"
    )
    shadow: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of locally answered requests that the baseline is asked as well, in the background",
    )
    comments: bool = Field(default=False, description="keep the comments of feedback in the ledger")


class ResponsesSettings(Section):
    """What `/v1/responses` keeps, for `previous_response_id`: in the cache's Redis, else in this process."""

    max_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="of all responses in this process; one may take a tenth, in Redis too; 0 keeps none",
    )
    ttl: float = Field(default=24 * 3600, gt=0, description="seconds")


class LogSettings(Section):
    """What `smallfirst serve` writes to standard error. Never a prompt, an answer, a key or a header."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "text"


class TelemetrySettings(Section):
    """Traces and metrics by OpenTelemetry, over OTLP/HTTP. What is not set here is read from `OTEL_…` variables."""

    enabled: bool | None = Field(
        default=None,
        description="needs the extra `otel`; default: where an endpoint is set, here or in the environment",
    )
    endpoint: str | None = Field(
        default=None, pattern=r"^https?://", description="of the collector, without `/v1/traces`"
    )
    headers: Mapping[str, SecretStr] = Field(default_factory=dict)
    service_name: str | None = Field(
        default=None, description="default: `OTEL_SERVICE_NAME`, else `smallfirst`"
    )
    traces: bool = True
    metrics: bool = True

    @field_validator("endpoint")
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        return None if value is None else plain_url(value)
