"""The settings: one frozen object, read from `smallfirst.yaml` (see `file`) or made of defaults."""

from .defaults import default_local_model, default_settings, with_otel, with_redis_url
from .models import (
    ADAPTER_MARK,
    OPENAI_BASE_URL,
    Adapter,
    AnyModelSettings,
    Breaker,
    ClassifierSettings,
    CloudModelSettings,
    LocalCost,
    LocalModelSettings,
    Price,
    Retries,
    TierPrice,
    Timeouts,
)
from .section import user_cache_dir, user_data_dir
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
from .server import Key, KeyRules, Limits, ServerSettings, check_rules
from .settings import Settings

__all__ = [
    "ADAPTER_MARK",
    "OPENAI_BASE_URL",
    "Adapter",
    "AnyModelSettings",
    "Breaker",
    "CacheSettings",
    "ClassifierSettings",
    "CloudModelSettings",
    "DriftSettings",
    "EnergySettings",
    "Key",
    "KeyRules",
    "LedgerSettings",
    "Limits",
    "LocalCost",
    "LocalModelSettings",
    "LogSettings",
    "Price",
    "PrivacySettings",
    "ResponsesSettings",
    "Retries",
    "ServerSettings",
    "Settings",
    "TelemetrySettings",
    "TierPrice",
    "Timeouts",
    "check_rules",
    "default_local_model",
    "default_settings",
    "user_cache_dir",
    "user_data_dir",
    "with_otel",
    "with_redis_url",
]
