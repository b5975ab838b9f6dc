"""What tokens cost."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import ModelInfo, Provider
from hypothesis import example, given
from hypothesis import strategies as st

from smallfirst.router.money.prices import PriceList
from smallfirst.router.money.usage import Usage
from smallfirst.router.settings import CloudModelSettings, LocalCost, Price, TierPrice, default_local_model

USAGE = Usage(input_tokens=1000, output_tokens=100, cached_tokens=400)
PRICES = PriceList()
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def cloud(**fields: Any) -> CloudModelSettings:
    return CloudModelSettings(**{"name": "gpt-4.1", "kind": "openai", **fields})


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


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
        (cloud(name="whisper-large-v3", provider="groq"), None),
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


# --- the operator's own -------------------------------------------------------------------------------------------

OWN = Price(
    input=1,
    output=10,
    cached_input=0.1,
    cache_write=1.25,
    reasoning=7,
    tiers={
        "flex": TierPrice(input=0.5, output=5),
        "Batch": TierPrice(input=0.4, output=4, cached_input=0.04),
    },
)
FULL: dict[str, Any] = {
    "input_tokens": 1000, "output_tokens": 100, "cached_tokens": 300, "cache_write_tokens": 200, "reasoning_tokens": 40,
}  # fmt: skip


@pytest.mark.parametrize(
    ("tier", "microdollars"),
    [
        (None, 500 * 1 + 300 * 0.1 + 200 * 1.25 + 60 * 10 + 40 * 7),
        ("flex", 1000 * 0.5 + 100 * 5),
        ("batch", 700 * 0.4 + 300 * 0.04 + 100 * 4),
        ("priority", 500 * 1 + 300 * 0.1 + 200 * 1.25 + 60 * 10 + 40 * 7),
    ],
)
def test_each_kind_of_token_and_each_tier_has_the_operators_price(
    tier: str | None, microdollars: float
) -> None:
    found = PRICES.price(cloud(price=OWN), Usage(**FULL, service_tier=tier))
    assert found == pytest.approx(microdollars / 1e6, abs=1e-15)


tokens = st.integers(0, 3_000_000)
usages = st.builds(
    lambda fresh, cached, written, hour, said, thought: Usage(
        input_tokens=fresh + cached + written,
        output_tokens=said + thought,
        cached_tokens=cached,
        reasoning_tokens=thought,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(hour, written),
    ),
    tokens, tokens, tokens, tokens, tokens, tokens,
)  # fmt: skip
per_million = st.decimals(0, 1000, places=4, allow_nan=False)


@given(usage=usages, rates=st.tuples(*[per_million] * 5))
def test_an_own_price_is_what_decimal_arithmetic_gives(usage: Usage, rates: tuple[Decimal, ...]) -> None:
    fresh, output, cached, written, thought = rates
    names = ("input", "output", "cached_input", "cache_write", "reasoning")
    stated: dict[str, Any] = {name: float(rate) for name, rate in zip(names, rates, strict=True)}
    price = Price(**stated)
    exact = (
        fresh * (usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens)
        + cached * usage.cached_tokens
        + written * usage.cache_write_tokens
        + output * (usage.output_tokens - usage.reasoning_tokens)
        + thought * usage.reasoning_tokens
    ) / 1_000_000
    assert PRICES.price(cloud(price=price), usage) == float(exact)


@given(
    counts=st.lists(st.integers(0, 10**12), min_size=8, max_size=8),
    tier=st.sampled_from([None, "flex", "odd"]),
)
def test_no_figures_make_a_negative_price(counts: list[int], tier: str | None) -> None:
    given_, made, cached, thought, written, hour, heard, spoken = counts
    usage = Usage(given_, made, cached, thought, False, written, hour, heard, spoken, tier)
    for model in (cloud(price=OWN), cloud(name="gpt-5"), cloud(name="claude-sonnet-4-5")):
        found = PRICES.price(model, usage)
        assert found is None or found >= 0


# --- the list's ---------------------------------------------------------------------------------------------------


def _is_found(provider: Provider, model: ModelInfo) -> bool:
    """Whether its id is one of the names that the list knows it by."""
    return provider.find_model(model.id.lower(), all_providers=providers) is model


LISTED = [
    (provider, model) for provider in providers for model in provider.models if _is_found(provider, model)
]
DEEPSEEK = next((p, m) for p, m in LISTED if p.id == "deepseek" and isinstance(m.prices, list))


@given(
    listed=st.sampled_from(LISTED),
    usage=usages,
    when=st.datetimes(datetime(2023, 1, 1), datetime(2027, 1, 1)),
    variant=st.integers(0, 5),
)
@example(DEEPSEEK, USAGE, datetime(2025, 8, 1, 16, 29, 59), 0)
@example(DEEPSEEK, USAGE, datetime(2025, 8, 1, 16, 30), 0)
@example(DEEPSEEK, USAGE, datetime(2025, 8, 2, 0, 29, 59), 0)
def test_a_listed_price_is_the_lists_own_to_the_last_digit(
    listed: tuple[Provider, ModelInfo], usage: Usage, when: datetime, variant: int
) -> None:
    provider, model = listed
    when = when.replace(tzinfo=UTC)
    variants = [
        v for v in model.price_variants or [] if "route" not in v.when and "search_type" not in v.when
    ]
    context = variants[variant % len(variants)].when if variants and variant else {}
    tier = next(iter(context.values()), None)
    counted = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )
    settings = cloud(name=model.id, provider=provider.id)
    expected = genai_prices.calc_price(
        counted, model.id, provider_id=provider.id, genai_request_timestamp=when, price_context=context
    )
    found = PRICES.price(settings, Usage(**_fields(usage), service_tier=tier), at=when.timestamp())
    if found is not None:
        assert found == float(expected.total_price)
    else:
        _assert_unpriced(expected.model_price.__dict__, model, tier, when)


def _fields(usage: Usage) -> dict[str, Any]:
    names = (*FULL, "cache_write_1h_tokens")
    return {name: getattr(usage, name) for name in names}


def _assert_unpriced(prices: dict[str, Any], model: ModelInfo, tier: str | None, when: datetime) -> None:
    """Only these have no price: what is not sold by tokens, tokens of a kind that is not sold, a tier from before."""
    no_tokens = prices.get("input_mtok") is None or prices.get("output_mtok") is None
    not_yet = any(
        tier in v.when.values() and v.constraint is not None and not v.constraint.active(when)
        for v in model.price_variants or ()
    )
    assert no_tokens or not_yet


WRITTEN = Usage(1000, 0, 300, cache_write_tokens=200, cache_write_1h_tokens=150)


@pytest.mark.parametrize(
    ("name", "provider", "usage", "microdollars"),
    [
        ("gpt-5", None, Usage(1000, 100, 400, service_tier="flex"), 600 * 0.625 + 400 * 0.0625 + 100 * 5),
        ("gpt-5", None, Usage(1000, 100, 400, service_tier="priority"), 600 * 2.5 + 400 * 0.25 + 100 * 20),
        ("gpt-5", None, Usage(1000, 100, service_tier="batch"), 1000 * 0.625 + 100 * 5),
        ("gpt-5", None, Usage(1000, 100, service_tier="default"), 1000 * 1.25 + 100 * 10),
        ("gpt-4.1", None, Usage(1000, 100, service_tier="flex"), 1000 * 2 + 100 * 8),
        ("gpt-5", None, Usage(1000, 100, service_tier="unheard-of"), None),
        ("gemini-2.5-pro", "google", Usage(200_000, 100), 200_000 * 1.25 + 100 * 10),
        ("gemini-2.5-pro", "google", Usage(200_001, 100), 200_001 * 2.5 + 100 * 15),
        ("claude-sonnet-4-5", "anthropic", WRITTEN, 500 * 3 + 300 * 0.3 + 50 * 3.75 + 150 * 6),
    ],
)  # fmt: skip
def test_tiers_sizes_and_cache_writes_have_their_list_price(
    name: str, provider: str | None, usage: Usage, microdollars: float | None
) -> None:
    found = PRICES.price(cloud(name=name, provider=provider), usage, at=NOW.timestamp())
    assert found == (None if microdollars is None else pytest.approx(microdollars / 1e6, abs=1e-15))


def test_a_price_is_that_of_the_requests_time_of_day() -> None:
    model = cloud(name=DEEPSEEK[1].id, provider="deepseek")
    day = [
        PRICES.price(model, USAGE, at=at(2025, 8, 1, 12)),
        PRICES.price(model, USAGE, at=at(2025, 8, 1, 18)),
    ]
    assert day[0] != day[1]
    assert [PRICES.price(model, USAGE, at=at(2025, 8, 3, hour)) for hour in (12, 18, 12, 18)] == day * 2


# --- the machine's own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "cpu_seconds", "usd"),
    [
        (None, 2.0, 2.0 * 1e-5),
        (Price(input=1, output=1), 2.0, 2.0 * 1e-5 + 1100e-6),
        (None, None, None),
        (None, 0.0, 0.0),
    ],
)
def test_a_machine_has_a_price_a_second(
    price: Price | None, cpu_seconds: float | None, usd: float | None
) -> None:
    model = default_local_model().model_copy(
        update={"price": price, "cost": LocalCost(usd_per_cpu_second=1e-5)}
    )
    found = PRICES.price(model, Usage(1000, 100, cpu_seconds=cpu_seconds))
    assert found == (None if usd is None else pytest.approx(usd, abs=1e-15))
