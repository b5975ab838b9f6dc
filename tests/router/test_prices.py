"""What tokens cost."""

from typing import Any

import pytest

from smallfirst.router.prices import PriceList
from smallfirst.router.settings import CloudModelSettings, Price, default_local_model
from smallfirst.router.wire import Usage

USAGE = Usage(input_tokens=1000, output_tokens=100, cached_tokens=400)
PRICES = PriceList()


def cloud(**fields: Any) -> CloudModelSettings:
    return CloudModelSettings(**{"name": "gpt-4.1", "kind": "openai", **fields})


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        (cloud(), (600 * 2 + 400 * 0.5 + 100 * 8) / 1e6),
        (cloud(name="mine", model="gpt-4.1"), (600 * 2 + 400 * 0.5 + 100 * 8) / 1e6),
        (cloud(base_url="http://127.0.0.1:1/v1"), (600 * 2 + 400 * 0.5 + 100 * 8) / 1e6),
        (cloud(price=Price(input=1, output=3)), (1000 * 1 + 100 * 3) / 1e6),
        (cloud(price=Price(input=1, output=3, cached_input=0.1)), (600 + 400 * 0.1 + 100 * 3) / 1e6),
        (cloud(name="in-no-list"), None),
        (cloud(provider="no-such-provider"), None),
        (cloud(name="in-no-list", tier="local"), 0.0),
        (default_local_model(), 0.0),
        (default_local_model().model_copy(update={"price": Price(input=0.01, output=0.02)}), 12e-6),
    ],
)
def test_a_call_has_its_price(model: Any, usd: float | None) -> None:
    found = PRICES.price(model, USAGE)
    assert found == (None if usd is None else pytest.approx(usd, abs=1e-12))


def test_the_list_names_itself() -> None:
    assert PRICES.source.startswith("genai-prices ")
