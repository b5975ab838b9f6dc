"""Energy and emissions of a call: of this machine by its processor time, of the cloud by EcoLogits if wanted.

All figures are estimates; docs/money.md says how they come about.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from ..errors import SettingsError
from ..settings import AnyModelSettings, EnergySettings, Settings
from .charge import NO_FOOTPRINT, UNKNOWN_FOOTPRINT, Footprint
from .prices import PriceList
from .usage import Usage

_SECONDS_AN_HOUR = 3600.0
# EcoLogits' providers by the price list's; it knows no others.
_PROVIDERS = {
    "anthropic": "anthropic",
    "azure": "openai",
    "cohere": "cohere",
    "google": "google_genai",
    "mistral": "mistralai",
    "openai": "openai",
}
# Answers' lengths that EcoLogits is asked about: it is linear between them.
_SHORT, _LONG = 0, 100_000


class Energy:
    """Estimates footprints.

    Args:
        settings: The models, and `energy`.
        prices: Says whose a cloud model is.

    Raises:
        SettingsError: EcoLogits is asked for and not installed.
    """

    def __init__(self, settings: Settings, prices: PriceList) -> None:
        self._settings = settings.energy
        self._cloud: dict[str, _CloudModel] = {}
        if settings.energy.cloud == "ecologits":
            # Asked now: a question takes it some tenths of a millisecond, and loading it a quarter of a second.
            found = {
                model.name: _cloud_model(model, prices) for model in settings.models if model.tier == "cloud"
            }
            self._cloud = {name: cloud for name, cloud in found.items() if cloud is not None}

    def of(self, model: AnyModelSettings, usage: Usage, seconds: float) -> Footprint:
        """Estimate a call.

        Args:
            model: Who was asked.
            usage: What it took; a call that nothing was used for has no footprint.
            seconds: How long it took.
        """
        if usage.cpu_seconds is not None:
            return local_footprint(self._settings, usage.cpu_seconds)
        if not usage.input_tokens and not usage.output_tokens:
            return NO_FOOTPRINT
        cloud = self._cloud.get(model.name)
        return UNKNOWN_FOOTPRINT if cloud is None else cloud.footprint(usage.output_tokens, seconds)


def local_footprint(settings: EnergySettings, cpu_seconds: float) -> Footprint:
    """Return Wh = CPU seconds x watts of a busy core x PUE / 3600, and from that gCO2e by the grid's intensity."""
    energy_wh = cpu_seconds * settings.watts_per_core * settings.pue / _SECONDS_AN_HOUR
    grid = settings.grid_gco2e_per_kwh
    if grid is None:
        return Footprint(energy_wh, None if energy_wh else 0.0)
    return Footprint(energy_wh, energy_wh * grid / 1000)


@dataclass(frozen=True, slots=True)
class _Curve:
    """An impact by EcoLogits: of the graphics cards by the tokens, of the rest of the server by the time.

    Its time is what it expects of the model for that many tokens, or the time that was measured if that is less.
    """

    base: float
    a_token: float
    a_second: float
    expected_base: float
    expected_a_token: float

    def at(self, tokens: int, seconds: float) -> float:
        expected = self.expected_base + self.expected_a_token * tokens
        return self.base + self.a_token * tokens + min(self.a_second * seconds, expected)


@dataclass(frozen=True, slots=True)
class _CloudModel:
    """One cloud model. EcoLogits gives ranges, since the models' sizes are not published; of these the middle is taken.

    Attributes:
        energy: In kWh, at the low and the high end.
        gwp: In kg CO2 equivalent, making the hardware included; likewise.
    """

    energy: tuple[_Curve, _Curve]
    gwp: tuple[_Curve, _Curve]

    def footprint(self, tokens: int, seconds: float) -> Footprint:
        kwh = sum(curve.at(tokens, seconds) for curve in self.energy) / 2
        kg = sum(curve.at(tokens, seconds) for curve in self.gwp) / 2
        return Footprint(kwh * 1000, kg * 1000)


def _cloud_model(model: AnyModelSettings, prices: PriceList) -> _CloudModel | None:
    """Ask EcoLogits at the corners of what it computes; None where it does not know the model."""
    loggers = logging.getLoggerClass()
    try:
        # Its model alone: nothing of what patches clients is called.
        from ecologits.tracers.utils import llm_impacts
        from ecologits.utils.range_value import RangeValue
    except ImportError as exc:
        raise SettingsError(
            "'energy.cloud: ecologits' needs the extra 'energy': pip install 'smallfirst[energy]'"
        ) from exc
    finally:
        logging.setLoggerClass(loggers)  # it puts its own there, for everybody
    provider = _PROVIDERS.get(prices.provider(model) or "")
    if provider is None:
        return None
    name = getattr(model, "model", None) or model.name

    def ends(value: object) -> tuple[float, float]:
        if isinstance(value, RangeValue):
            return float(value.min), float(value.max)
        assert isinstance(value, (int, float))
        return float(value), float(value)

    asked: dict[tuple[int, float], tuple[tuple[float, float], tuple[float, float]]] = {}
    for tokens, seconds in ((_SHORT, 0.0), (_LONG, 0.0), (_LONG, 1.0), (_SHORT, math.inf), (_LONG, math.inf)):
        found = llm_impacts(provider, name, tokens, seconds)
        if found.energy is None or found.gwp is None:
            return None
        asked[tokens, seconds] = ends(found.energy.value), ends(found.gwp.value)

    def curve(what: int, end: int) -> _Curve:
        def value(tokens: int, seconds: float) -> float:
            return asked[tokens, seconds][what][end]

        base = value(_SHORT, 0.0)
        expected = value(_SHORT, math.inf) - base
        expected_long = value(_LONG, math.inf) - value(_LONG, 0.0)
        return _Curve(
            base=base,
            a_token=(value(_LONG, 0.0) - base) / _LONG,
            a_second=value(_LONG, 1.0) - value(_LONG, 0.0),
            expected_base=expected,
            expected_a_token=(expected_long - expected) / _LONG,
        )

    return _CloudModel((curve(0, 0), curve(0, 1)), (curve(1, 0), curve(1, 1)))
