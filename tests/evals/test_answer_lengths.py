"""Lengths of answers, told by their costs, and how well they are predicted."""

import os
from pathlib import Path

import pytest

from smallfirst.evals import answer_lengths
from smallfirst.evals.answer_lengths import BASELINE, Prompt, evaluate, read, tokens_of

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data")) / "outcomes_11_models_dev.parquet"


def costs(prompt: int, answers: dict[str, int]) -> dict[str, float]:
    prices = answer_lengths._PRICES
    return {
        name: (prompt * prices[name][0] + tokens * prices[name][1]) / 1e6 for name, tokens in answers.items()
    }


def test_costs_tell_the_tokens() -> None:
    answers = {name: 1 + at for at, name in enumerate(sorted(answer_lengths._PRICES))}
    assert tokens_of(costs(518, answers)) == (518, answers)


def test_costs_of_other_prices_tell_nothing() -> None:
    answers = dict.fromkeys(answer_lengths._PRICES, 7)
    odd = {name: cost * 1.0137 for name, cost in costs(518, answers).items()}
    assert tokens_of(odd) is None


def test_predictions_are_unbiased_where_the_others_own_counts_are_not() -> None:
    prompts = [
        Prompt("mbpp", "code", 100, {BASELINE: 200 + at % 100, "other": 40 + at % 7}) for at in range(600)
    ]
    found = evaluate(prompts, "other", shadow=0.0, seeds=[0])
    assert found.bias_warm == pytest.approx(1, abs=0.02)
    assert found.bias_own_count == pytest.approx(43 / 249.5, abs=0.01)
    assert found.mae < 40 < found.mae_own_count


def test_on_published_answers_the_bill_is_about_right() -> None:
    """docs/savings.md has all figures."""
    if not DATA.exists():
        pytest.skip(f"the outcomes are not at {DATA}; set SMALLFIRST_DATA")
    prompts = read(DATA)
    found = evaluate(prompts, "mistralai/mistral-7b-chat", shadow=0.0, seeds=range(3))
    assert found.bias_warm == pytest.approx(1, abs=0.06)
    assert found.bias_own_count < 0.5
    assert found.mae < found.mae_own_count / 2
