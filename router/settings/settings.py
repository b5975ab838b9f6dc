"""Everything together: one frozen object.

Every field has a default, so that the gateway starts without a file. Secrets are `SecretStr`: they print as stars.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from smallfirst.policies import PRESETS, Policy, load_preset

from ..errors import SettingsError
from .models import AnyModelSettings, LocalModelSettings, ModelSettings
from .section import Section, user_cache_dir, user_data_dir
from .sections import (
    CacheSettings,
    DriftSettings,
    EnergySettings,
    LedgerSettings,
    LogSettings,
    PrivacySettings,
    ResponsesSettings,
    TelemetrySettings,
)
from .server import Limits, ServerSettings, check_rules


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


class Settings(Section):
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
