"""The documents say what the program does."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from smallfirst.policies import PRESETS, Policy
from smallfirst.router import settings

ROOT = Path(__file__).parent.parent
SECTIONS = (
    settings.Settings,
    settings.LocalModelSettings,
    settings.ClassifierSettings,
    settings.Adapter,
    settings.CloudModelSettings,
    settings.Timeouts,
    settings.Retries,
    settings.Breaker,
    settings.Price,
    settings.LocalCost,
    settings.EnergySettings,
    settings.CacheSettings,
    settings.LedgerSettings,
    settings.DriftSettings,
    settings.PrivacySettings,
    settings.ResponsesSettings,
    settings.Limits,
    settings.ServerSettings,
    settings.TelemetrySettings,
    settings.LogSettings,
    settings.Key,
    Policy,
)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_setting_is_documented(section: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    missing = [name for name in section.model_fields if name not in text]
    assert missing == []


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_in_the_readme(preset: str) -> None:
    assert f"`{preset}`" in (ROOT / "README.md").read_text()
