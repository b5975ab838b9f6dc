"""Watt-hours and grams of CO2 of cloud models, by EcoLogits."""

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.money.charge import UNKNOWN_FOOTPRINT
from smallfirst.router.money.energy import Energy
from smallfirst.router.money.prices import PriceList
from smallfirst.router.money.usage import Usage
from smallfirst.router.settings import (
    AnyModelSettings,
    CloudModelSettings,
    EnergySettings,
    Settings,
    default_local_model,
)

llm_impacts = pytest.importorskip("ecologits.tracers.utils", reason="needs the extra 'energy'").llm_impacts

PRICES = PriceList()
LOCAL = default_local_model()
GPT = CloudModelSettings(name="gpt-4.1", kind="openai")
MODELS: tuple[AnyModelSettings, ...] = (
    LOCAL,
    GPT,
    CloudModelSettings(name="claude", kind="openai", model="claude-sonnet-4-5", base_url="https://api.anthropic.com/v1"),
    CloudModelSettings(name="in-no-list", kind="openai"),
    CloudModelSettings(name="llama-3.3-70b-versatile", kind="openai", provider="groq"),
    CloudModelSettings(name="house", kind="openai", tier="local", base_url="http://127.0.0.1:9/v1"),
)  # fmt: skip


ENERGY = EnergySettings(cloud="ecologits")
CLOUD = Energy(Settings(models=MODELS, energy=ENERGY), PRICES)


def middle(value: Any) -> float:
    return float((value.min + value.max) / 2) if hasattr(value, "min") else float(value)


@given(
    tokens=st.integers(1, 50_000),
    seconds=st.floats(0, 1000),
    asked=st.sampled_from([(MODELS[1], "openai", "gpt-4.1"), (MODELS[2], "anthropic", "claude-sonnet-4-5")]),
)
def test_a_cloud_call_is_what_ecologits_says(
    tokens: int, seconds: float, asked: tuple[AnyModelSettings, str, str]
) -> None:
    model, provider, name = asked
    said = llm_impacts(provider, name, tokens, seconds)
    found = CLOUD.of(model, Usage(100, tokens), seconds)
    assert found.energy_wh == pytest.approx(middle(said.energy.value) * 1000, rel=1e-9)
    assert found.gco2e == pytest.approx(middle(said.gwp.value) * 1000, rel=1e-9)


@pytest.mark.parametrize("model", MODELS[3:], ids=lambda model: str(model.name))
def test_a_model_that_ecologits_does_not_know_is_unknown(model: AnyModelSettings) -> None:
    assert CLOUD.of(model, Usage(10, 5), 1.0) == UNKNOWN_FOOTPRINT


def test_a_local_model_is_not_asked_about() -> None:
    assert CLOUD.of(LOCAL, Usage(10, 5, cpu_seconds=3600.0), 1.0).energy_wh == pytest.approx(12 * 1.58)


def test_ecologits_leaves_logging_as_it_was() -> None:
    # In a process of its own: here it was imported without us.
    program = """
import logging
from smallfirst.router.money.energy import Energy
from smallfirst.router.money.prices import PriceList
from smallfirst.router.settings import CloudModelSettings, EnergySettings, Settings
models = (CloudModelSettings(name="gpt-4.1", kind="openai"),)
Energy(Settings(models=models, energy=EnergySettings(cloud="ecologits")), PriceList())
assert logging.getLoggerClass() is logging.Logger
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_footprint_is_finite_however_long_a_call_took() -> None:
    assert math.isfinite(CLOUD.of(GPT, Usage(10, 5), math.inf).energy_wh or math.nan)
