"""What tokens cost, in US dollars: the operator's prices first, else the `genai-prices` list that is installed.

A price is worked out in whole numbers and rounded once, so that it is the figure that decimal arithmetic gives.
"""

from __future__ import annotations

import datetime as dt
import importlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

from ..settings import AnyModelSettings, CloudModelSettings, Price, TierPrice
from .usage import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, StartDateConstraint, TimeOfDateConstraint

# Names by which replies say that they were served as usual.
_STANDARD = frozenset({"default", "auto", "standard", "on_demand"})
# Tiers that are cheaper than usual: where one has no price of its own, the usual one is the most that it may cost.
_CHEAPER = frozenset({"flex", "batch"})
# By what the list's variants tell a tier.
_TIER_KEYS = ("service_tier", "processing", "speed")
_DAY = 86_400
# Models that are kept ready; settings that are read again bring new ones.
_MODELS = 1000

# Tokens by kind, in the order of `_counts`, and by which of a list's prices, the first that is there.
_PRICED_BY = (
    ("input_mtok",),
    ("cache_read_mtok", "input_mtok"),
    ("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
    ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
    ("input_audio_mtok", "input_mtok"),
    ("output_mtok",),
    ("output_reasoning_mtok", "output_mtok"),
    ("output_audio_mtok", "output_mtok"),
)


def _counts(usage: Usage) -> tuple[int, ...]:
    """Return each kind's tokens: a token is of one kind. No figure makes a negative one."""
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    hour, heard = min(usage.cache_write_1h_tokens, written), usage.input_audio_tokens
    fresh = max(0, usage.input_tokens - cached - written - heard)
    reasoning, spoken = usage.reasoning_tokens, usage.output_audio_tokens
    said = max(0, usage.output_tokens - reasoning - spoken)
    return fresh, cached, written - hour, hour, heard, said, reasoning, spoken


@dataclass(frozen=True, slots=True)
class _Rates:
    """What tokens cost from some size of prompt on.

    Attributes:
        above: Prompts of more tokens than this; -1: all.
        rates: By kind, in units of US dollars / `scale`; None where tokens of that kind have no price.
        request: A request's own price, in the same units.
        scale: A power of ten.
    """

    above: int
    rates: tuple[int | None, ...]
    request: int
    scale: int

    @classmethod
    def of(cls, rates: Sequence[Decimal | None], request: Decimal = Decimal(0), *, above: int = -1) -> _Rates:
        """Take US dollars a token, by kind."""
        known = [rate for rate in (*rates, request) if rate is not None]
        scale = 10 ** max(-int(rate.normalize().as_tuple().exponent) for rate in (*known, Decimal(1)))
        return cls(
            above, tuple(None if r is None else int(r * scale) for r in rates), int(request * scale), scale
        )

    def usd(self, usage: Usage) -> float | None:
        total = self.request
        for count, rate in zip(_counts(usage), self.rates, strict=True):
            if count:
                if rate is None:
                    return None
                total += count * rate
        # Python rounds the quotient of two whole numbers correctly.
        return total / self.scale


# From the largest prompts down.
_Card = tuple[_Rates, ...]


def _usd(card: _Card, usage: Usage) -> float | None:
    if len(card) == 1:
        return card[0].usd(usage)
    size = max(usage.input_tokens, usage.cached_tokens + usage.cache_write_tokens)
    return next(rates for rates in card if size > rates.above).usd(usage)


class PriceList:
    """Prices of configured models. Nothing is fetched over the network.

    A model in this house (`tier: local`) without `price` and `cost` costs 0: its tokens have no price, and what the
    machine costs is the operator's to state. A cloud model that the list does not know has an unknown price, which is
    None and never 0; so has a service tier that may be dearer than usual and has no price.

    It keeps what it looked up; safe from any thread.
    """

    def __init__(self) -> None:
        # Loaded now and not at the first request: the list is 1.6 MB of Python.
        importlib.import_module("genai_prices.data")
        # By the settings object's id; the object is kept with it, so that the id stays its own.
        self._ready: dict[int, tuple[AnyModelSettings, _Stated | _Listed | None]] = {}

    @property
    def source(self) -> str:
        """Where prices come from, with its version: the list is data of its release's day."""
        return f"genai-prices {version('genai-prices')}"

    def price(self, model: AnyModelSettings, usage: Usage, *, at: float | None = None) -> float | None:
        """Return what a call cost in US dollars, or None where the price is unknown.

        Args:
            model: As configured.
            usage: What the call took.
            at: When it was made, in Unix seconds, for prices that change; default: now.
        """
        local = not isinstance(model, CloudModelSettings)
        if model.price is None and (local or model.tier == "local"):
            tokens: float | None = 0.0
        else:
            prices = self._prices(model)
            card = (
                None if prices is None else prices.card(usage.service_tier, time.time() if at is None else at)
            )
            tokens = None if card is None else _usd(card, usage)
        if isinstance(model, CloudModelSettings) or model.cost is None or tokens is None:
            return tokens
        return (
            None if usage.cpu_seconds is None else tokens + usage.cpu_seconds * model.cost.usd_per_cpu_second
        )

    def provider(self, model: AnyModelSettings) -> str | None:
        """Return the price list's id of who serves a model; None where it knows nobody."""
        listed = _find(model) if isinstance(model, CloudModelSettings) else None
        return None if listed is None else listed[0].id

    def _prices(self, model: AnyModelSettings) -> _Stated | _Listed | None:
        found = self._ready.get(id(model))
        if found is None:
            if len(self._ready) >= _MODELS:
                self._ready.clear()
            found = self._ready[id(model)] = (model, self._look_up(model))
        return found[1]

    def _look_up(self, model: AnyModelSettings) -> _Stated | _Listed | None:
        if model.price is not None:
            return _Stated(model.price)
        assert isinstance(model, CloudModelSettings), "what else has no price costs nothing"
        found = _find(model)
        return None if found is None else _Listed(*found)


class _Stated:
    """The operator's prices of one model. A tier that they do not name costs as usual."""

    def __init__(self, price: Price) -> None:
        self._usual = _stated_card(price)
        self._tiers = {name.lower(): _stated_card(tier) for name, tier in price.tiers.items()}

    def card(self, tier: str | None, at: float) -> _Card | None:
        return self._usual if tier is None else self._tiers.get(tier, self._usual)


def _stated_card(price: TierPrice) -> _Card:
    def a_token(usd_per_million: float | None, otherwise: float) -> Decimal:
        # The number that was written, and not the binary one nearest to it.
        return Decimal(repr(otherwise if usd_per_million is None else usd_per_million)).scaleb(-6)

    fresh, output = a_token(price.input, 0), a_token(price.output, 0)
    written = a_token(price.cache_write, price.input)
    cached, reasoning = a_token(price.cached_input, price.input), a_token(price.reasoning, price.output)
    return (_Rates.of((fresh, cached, written, written, fresh, output, reasoning, output)),)


class _Listed:
    """One model's prices in the list: they may change by day, by the time of day, by tier and by the prompt's size."""

    def __init__(self, provider: Provider, model: ModelInfo) -> None:
        self._model = model
        # Its variants are the provider's own: a model that it only passes on has none there.
        self._variants = (model.price_variants or []) if any(model is one for one in provider.models) else []
        self._tiers = {
            name for variant in self._variants for key, name in variant.when.items() if key in _TIER_KEYS
        }
        conditional = model.prices if isinstance(model.prices, list) else []
        constraints = [*(one.constraint for one in conditional), *(one.constraint for one in self._variants)]
        self._changes = _changes([constraint for constraint in constraints if constraint is not None])
        # By tier: from when until when a price is in force that was looked up last.
        self._cards: dict[str | None, tuple[float, float, _Card | None]] = {}

    def card(self, tier: str | None, at: float) -> _Card | None:
        if tier is not None and tier not in self._tiers:
            if tier not in _STANDARD and tier not in _CHEAPER:
                return None
            tier = None
        known = self._cards.get(tier)
        if known is None or not known[0] <= at < known[1]:
            known = self._cards[tier] = (*self._window(at), self._make(tier, datetime.fromtimestamp(at, UTC)))
        return known[2]

    def _window(self, at: float) -> tuple[float, float]:
        """Return from when until when the same prices are in force as at some time."""
        if not self._changes:
            return -math.inf, math.inf
        day = at // _DAY * _DAY
        times = [day + change for change in self._changes]
        return max(time for time in times if time <= at), min(
            [time for time in times if time > at] or [day + _DAY]
        )

    def _make(self, tier: str | None, when: datetime) -> _Card | None:
        if tier is None or tier in _STANDARD:
            # What the list has for them is empty: it says that they cost as usual.
            return _listed_card(self._model.get_prices(when))
        context = dict.fromkeys(_TIER_KEYS, tier)
        in_force = any(
            all(context.get(key) == value for key, value in variant.when.items())
            and (variant.constraint is None or variant.constraint.active(when))
            for variant in self._variants
        )
        if not in_force:
            return self._make(None, when) if tier in _CHEAPER else None
        return _listed_card(self._model.get_prices(when, context))


def _changes(constraints: Sequence[StartDateConstraint | TimeOfDateConstraint]) -> list[int]:
    """Return at which seconds of a day (UTC) prices may change; none where they never do."""
    from genai_prices.types import StartDateConstraint

    if not constraints:
        return []
    times = [
        when
        for one in constraints
        if not isinstance(one, StartDateConstraint)
        for when in (one.start_time, one.end_time)
    ]
    return sorted({0, *(_second_of_day(when) for when in times)})


def _second_of_day(when: dt.time) -> int:
    assert not when.microsecond, "the list's times are whole seconds"
    offset = when.utcoffset() or dt.timedelta(0)
    seconds = when.hour * 3600 + when.minute * 60 + when.second - offset.total_seconds()
    return int(seconds) % _DAY


def _listed_card(price: ModelPrice) -> _Card | None:
    from genai_prices.types import TieredPrices

    stated: Mapping[str, Decimal | TieredPrices | None] = price.__dict__
    if stated.get("input_mtok") is None and stated.get("output_mtok") is None:
        return None  # not priced by tokens, or not at all

    def at(name: str, above: int) -> Decimal | None:
        """Return a price for prompts of more tokens than `above`."""
        value = stated.get(name)
        if isinstance(value, TieredPrices):
            return next((tier.price for tier in reversed(value.tiers) if tier.start <= above), value.base)
        return value

    def rate(names: Sequence[str], above: int) -> Decimal | None:
        name = next((name for name in names if stated.get(name) is not None), None)
        found = None if name is None else at(name, above)
        return None if found is None else found.scaleb(-6)

    starts = {tier.start for v in stated.values() if isinstance(v, TieredPrices) for tier in v.tiers}
    request = at("requests_kcount", -1) or Decimal(0)
    return tuple(
        _Rates.of([rate(names, above) for names in _PRICED_BY], request.scaleb(-3), above=above)
        for above in sorted({-1, *starts}, reverse=True)
    )


def _find(model: CloudModelSettings) -> tuple[Provider, ModelInfo] | None:
    """Look a model up in the list: by its provider's id, its URL, or by its name alone."""
    from genai_prices.data_snapshot import get_snapshot

    name, snapshot = model.model or model.name, get_snapshot()
    try:
        if model.provider is not None:
            return snapshot.find_provider_model(name, None, model.provider, None)
        try:
            return snapshot.find_provider_model(name, None, None, model.base_url)
        except LookupError:
            # A proxy's URL is in no list; what it passes on has the price of the model that it is named after.
            return snapshot.find_provider_model(name, None, None, None)
    except LookupError:
        return None
