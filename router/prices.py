"""What tokens cost, in US dollars: the operator's prices first, else the `genai-prices` list that is installed."""

from __future__ import annotations

import importlib
from importlib.metadata import version

from .settings import AnyModelSettings, CloudModelSettings, Price
from .wire import Usage

PER_MILLION = 1e-6


class PriceList:
    """Prices of configured models. Nothing is fetched over the network.

    A model in this house (`tier: local`) without a `price` costs 0: its tokens have no price, and what the machine
    costs is the operator's to state. A cloud model that the list does not know has an unknown price, which is None and
    never 0.
    """

    def __init__(self) -> None:
        # Loaded now and not at the first request: the list is 1.6 MB of Python.
        importlib.import_module("genai_prices.data")

    @property
    def source(self) -> str:
        """Where prices come from, with its version: the list is data of its release's day."""
        return f"genai-prices {version('genai-prices')}"

    def price(self, model: AnyModelSettings, usage: Usage) -> float | None:
        """Return what a call cost in US dollars, or None where the price is unknown."""
        if model.price is not None:
            return _by_override(model.price, usage)
        if not isinstance(model, CloudModelSettings) or model.tier == "local":
            return 0.0
        return _by_list(model, usage)


def _by_override(price: Price, usage: Usage) -> float:
    cached = price.input if price.cached_input is None else price.cached_input
    fresh = max(0, usage.input_tokens - usage.cached_tokens)
    total = fresh * price.input + usage.cached_tokens * cached + usage.output_tokens * price.output
    return total * PER_MILLION


def _by_list(model: CloudModelSettings, usage: Usage) -> float | None:
    import genai_prices

    counted = genai_prices.Usage(
        input_tokens=max(usage.input_tokens, usage.cached_tokens),
        cache_read_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
    )
    name = model.model or model.name
    try:
        if model.provider is not None:
            return float(genai_prices.calc_price(counted, name, provider_id=model.provider).total_price)
        try:
            return float(genai_prices.calc_price(counted, name, provider_api_url=model.base_url).total_price)
        except LookupError:
            # A proxy's URL is in no list; what it passes on has the price of the model that it is named after.
            return float(genai_prices.calc_price(counted, name).total_price)
    except LookupError:
        return None
