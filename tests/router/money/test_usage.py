"""What a `usage` object says, as providers and compatible servers send it, and as nobody should."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.money.usage import MOST_TOKENS, Meter, Usage, total


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 5},
            },
            Usage(100, 50, 40, 20, input_audio_tokens=10, output_audio_tokens=5),
            id="OpenAI",
        ),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 60},
            },
            Usage(100, 5, 30, cache_write_tokens=60),
            id="OpenAI, OpenRouter: written to the cache",
        ),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 36,
            },
            Usage(100, 5, 64),
            id="DeepSeek",
        ),
        pytest.param(
            {"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36, "completion_tokens": 5},
            Usage(100, 5, 64),
            id="DeepSeek without a sum",
        ),
        pytest.param(
            {"prompt_tokens": 100, "completion_tokens": 5, "cached_tokens": 10}, Usage(100, 5, 10), id="Moonshot"
        ),
        pytest.param(
            {
                "input_tokens": 10,
                "output_tokens": 5,
                "cache_read_input_tokens": 60,
                "cache_creation_input_tokens": 30,
                "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
                "service_tier": "batch",
            },
            Usage(100, 5, 60, cache_write_tokens=30, cache_write_1h_tokens=20, service_tier="batch"),
            id="Anthropic: cached ones apart",
        ),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "total_tokens": 105,
                "cache_read_input_tokens": 60,
                "cache_creation_input_tokens": 30,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_creation_tokens": 30},
            },
            Usage(100, 5, 60, cache_write_tokens=30),
            id="Anthropic behind a proxy that counts cached ones in, and says it twice",
        ),
        pytest.param(
            {
                "prompt_tokens": 200,
                "completion_tokens": 5,
                "total_tokens": 295,
                "cache_read_input_tokens": 60,
                "cache_creation_input_tokens": 30,
            },
            Usage(290, 5, 60, cache_write_tokens=30),
            id="Anthropic behind a proxy that counts them apart, as its total says",
        ),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 5, "cache_read_input_tokens": 60},
            Usage(70, 5, 60),
            id="and one whose prompt has no room for them",
        ),
        pytest.param(
            {
                "input_tokens": 100,
                "output_tokens": 30,
                "input_tokens_details": {"cached_tokens": 40},
                "output_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(100, 30, 40, 20),
            id="OpenAI's responses",
        ),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 10,
                "total_tokens": 410,
                "completion_tokens_details": {"reasoning_tokens": 300},
            },
            Usage(100, 310, 0, 300),
            id="xAI: reasoning apart",
        ),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 400,
                "total_tokens": 800,
                "completion_tokens_details": {"reasoning_tokens": 300},
            },
            Usage(100, 700, 0, 300),
            id="xAI, where only the total tells",
        ),
        pytest.param(
            {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 400},
            Usage(100, 300, 0, 290),
            id="Google's compatible endpoint: reasoning only in the total",
        ),
        pytest.param(
            {"output_tokens": 5, "input_tokens": 1, "speed": "fast"},
            Usage(1, 5, service_tier="fast"),
            id="Anthropic's fast mode",
        ),
        pytest.param({"prompt_tokens": 10, "total_tokens": 12}, Usage(10, 2), id="no completion"),
        pytest.param({"completion_tokens": 2, "total_tokens": 12}, Usage(10, 2), id="no prompt"),
        pytest.param({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 3}, Usage(10, 2), id="bad total"),
        pytest.param({"prompt_tokens": 10.0, "completion_tokens": 2.6}, Usage(10, 3), id="fractions"),
        pytest.param(
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": -5, "audio_tokens": None},
                "completion_tokens_details": None,
            },
            Usage(10, 2),
            id="negative and null details",
        ),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"audio_tokens": 50}},
            Usage(10, 2, input_audio_tokens=10),
            id="more heard than there was",
        ),
    ],
)  # fmt: skip
def test_every_way_of_telling_usage_is_read(wire: dict[str, Any], usage: Usage) -> None:
    assert Usage.from_wire(wire) == usage


@pytest.mark.parametrize(
    "wire",
    [
        None, {}, [], "12", 7,
        {"prompt_tokens": 10},
        {"completion_tokens": 10},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": True, "completion_tokens": 5},
        {"prompt_tokens": "10", "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": None},
        {"prompt_tokens": math.nan, "completion_tokens": 5},
        {"prompt_tokens": math.inf, "completion_tokens": 5},
        {"prompt_tokens": MOST_TOKENS + 1, "completion_tokens": 5},
        {"prompt_tokens": 10, "total_tokens": 5},
    ],
)  # fmt: skip
def test_usage_that_does_not_say_both_prompt_and_output_is_none(wire: Any) -> None:
    assert Usage.from_wire(wire) is None


@pytest.mark.parametrize(
    ("beside", "within", "tier"),
    [
        ("flex", None, "flex"),
        (None, "Batch ", "batch"),
        ("default", "priority", "default"),
        ("", None, None),
        (3, {}, None),
    ],
)
def test_the_tier_stands_beside_usage_or_in_it(beside: object, within: object, tier: str | None) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "service_tier": within}
    found = Usage.of_reply({"usage": usage, "service_tier": beside})
    assert found is not None
    assert found.service_tier == tier


counts = (
    st.integers(-5, 10**7) | st.floats() | st.none() | st.text(max_size=2) | st.booleans() | st.just(10**30)
)
names = st.sampled_from([
    "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cached_tokens",
    "prompt_cache_hit_tokens", "prompt_cache_miss_tokens", "cache_read_input_tokens", "reasoning_tokens",
    "cache_creation_input_tokens", "audio_tokens", "cache_write_tokens", "cache_creation_tokens",
    "ephemeral_1h_input_tokens", "ephemeral_5m_input_tokens",
])  # fmt: skip
flat = st.dictionaries(names, counts, max_size=8)
details = st.sampled_from([
    "prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details",
    "cache_creation",
])  # fmt: skip
odd_usage = st.builds(lambda a, b: {**a, **b}, flat, st.dictionaries(details, flat | counts, max_size=4))


@given(wire=odd_usage)
def test_whatever_a_server_sends_each_part_fits_into_its_whole(wire: dict[str, Any]) -> None:
    usage = Usage.from_wire(wire)
    if usage is None:
        return
    stored = usage.cached_tokens + usage.cache_write_tokens
    assert 0 <= stored + usage.input_audio_tokens <= usage.input_tokens
    assert 0 <= usage.cache_write_1h_tokens <= usage.cache_write_tokens
    assert 0 <= usage.reasoning_tokens + usage.output_audio_tokens <= usage.output_tokens
    assert max(usage.input_tokens, usage.output_tokens) < 2**63


@given(wire=odd_usage)
def test_what_was_read_is_told_to_clients_as_it_was_read(wire: dict[str, Any]) -> None:
    usage = Usage.from_wire(wire)
    if usage is not None:
        assert Usage.from_wire(usage.to_wire()) == usage


few = st.integers(0, 4)
usual_usage = st.fixed_dictionaries(
    {"prompt_tokens": few, "completion_tokens": few, "total_tokens": st.integers(0, 10)},
    optional={
        "prompt_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional={"cached_tokens": few, "audio_tokens": few}),
        "completion_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional={"reasoning_tokens": few, "audio_tokens": few}),
    },
)


@given(wire=usual_usage)
def test_what_says_nothing_changes_no_reading(wire: dict[str, Any]) -> None:
    assert Usage.from_wire({**wire, "unheard_of": None}) == Usage.from_wire(wire)


def test_a_sum_is_an_estimate_where_a_part_is_one() -> None:
    parts = Usage(1, 2, 1, 1, service_tier="flex", cpu_seconds=0.5), Usage(10, 20, estimated=True)
    assert total(*parts) == Usage(11, 22, 1, 1, estimated=True, service_tier="flex", cpu_seconds=0.5)


def test_a_meter_adds_reports_up() -> None:
    meter = Meter()
    assert (meter.counted, meter.cpu_seconds) == (None, None)
    meter.add(0.25, prompt=10, cached=4)
    meter.add(0.5, output=3)
    assert meter.counted == Usage(10, 3, 4, estimated=True, cpu_seconds=0.75)
