"""Watt-hours and grams of CO2 of this machine, by its processor time."""

from typing import Any

import pytest

from smallfirst.router.money.charge import NO_FOOTPRINT, UNKNOWN_FOOTPRINT, Footprint
from smallfirst.router.money.energy import Energy, local_footprint
from smallfirst.router.money.prices import PriceList
from smallfirst.router.money.usage import Usage
from smallfirst.router.settings import CloudModelSettings, EnergySettings, Settings, default_local_model

LOCAL = default_local_model()
CLOUD = CloudModelSettings(name="gpt-4.1", kind="openai")


def energy(**fields: Any) -> Energy:
    return Energy(Settings(models=(LOCAL, CLOUD), energy=EnergySettings(**fields)), PriceList())


@pytest.mark.parametrize(
    ("fields", "footprint"),
    [
        ({"watts_per_core": 10, "pue": 1.5}, Footprint(10 * 1.5, None)),
        ({"watts_per_core": 10, "pue": 1, "grid_gco2e_per_kwh": 250}, Footprint(10.0, 2.5)),
        ({"watts_per_core": 10, "pue": 1, "grid_gco2e_per_kwh": 0}, Footprint(10.0, 0.0)),
        ({}, Footprint(12 * 1.58, None)),
    ],
)
def test_an_hour_of_one_core_takes_its_watts(fields: dict[str, Any], footprint: Footprint) -> None:
    assert local_footprint(EnergySettings(**fields), 3600.0) == footprint
    assert energy(**fields).of(LOCAL, Usage(10, 5, cpu_seconds=3600.0), 1.0) == footprint


def test_what_was_measured_by_nobody_is_unknown() -> None:
    assert energy().of(LOCAL, Usage(10, 5), 1.0) == UNKNOWN_FOOTPRINT
    assert energy().of(CLOUD, Usage(10, 5), 1.0) == UNKNOWN_FOOTPRINT


def test_a_call_that_took_nothing_has_no_footprint() -> None:
    assert energy().of(CLOUD, Usage(), 1.0) == NO_FOOTPRINT
