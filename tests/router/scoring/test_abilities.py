"""Abilities: placing a model by scored prompts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smallfirst.router.scoring.abilities import Ability, AbilityPrior, place, plain_name
from smallfirst.router.scoring.embedding import FloatArray

TRUE = Ability("true", np.array([1.5, -0.8, 0.0], np.float32), 0.4, 0)
PRIOR = AbilityPrior(
    np.array([-1.0, 0.5, 0.5, 0.5], np.float32), np.diag([4.0, 4.0, 4.0, 4.0]).astype(np.float32)
)


def drawn(count: int, *, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Skills of prompts, and whether the true model got each right."""
    random = np.random.default_rng(seed)
    skills = random.normal(size=(count, 3)).astype(np.float32)
    return skills, (random.random(count) < TRUE.success(skills)).astype(np.float32)


def figures(ability: Ability) -> list[float]:
    return [ability.bias, *ability.weights.tolist()]


def test_many_scored_prompts_recover_the_ability_whatever_was_believed() -> None:
    found = place("m", *drawn(20_000), PRIOR)
    assert figures(found) == pytest.approx(figures(TRUE), abs=0.08)
    assert (found.model, found.rows) == ("m", 20_000)


def test_few_scored_prompts_stay_near_what_was_believed() -> None:
    few, some, many = (
        np.linalg.norm(np.array(figures(place("m", *drawn(count), PRIOR))) - PRIOR.mean)
        for count in (3, 100, 20_000)
    )
    assert few < 0.4 < some < many


def test_success_that_is_a_share_counts_as_one() -> None:
    skills = np.zeros((400, 3), np.float32)
    found = place("m", skills, np.full(400, 0.3, np.float32), AbilityPrior.wide(3))
    assert found.success(np.zeros(3, np.float32)) == pytest.approx(0.3, abs=0.01)


def test_a_model_that_never_fails_gets_finite_figures() -> None:
    found = place("m", drawn(50)[0] * 100, np.ones(50, np.float32), PRIOR)
    assert np.isfinite(figures(found)).all()
    assert found.success(np.full((1, 3), 1e6, np.float32))[0] <= 1


def test_one_request_and_many_get_the_same_probabilities() -> None:
    skills, _ = drawn(10)
    assert TRUE.success(skills).tolist() == pytest.approx([float(TRUE.success(row)) for row in skills])


def test_a_prior_says_how_measured_models_differ() -> None:
    random = np.random.default_rng(1)
    spread = np.array([1.0, 0.1], np.float32)
    models = [
        Ability(str(at), 2 + 0.1 * one[1:], float(one[0]), 100)
        for at, one in enumerate(random.normal(size=(500, 2)).astype(np.float32) * [1.0, 1.0])
    ]
    prior = AbilityPrior.over(models, spread=0.01)
    assert prior.mean.tolist() == pytest.approx([0.0, 2.0], abs=0.1)
    deviation = np.sqrt(np.diag(np.linalg.inv(prior.precision)))
    assert deviation.tolist() == pytest.approx(np.sqrt(spread**2 + 0.01).tolist(), rel=0.15)


def test_an_ability_survives_json() -> None:
    placed = place("org/m", *drawn(200), PRIOR)
    again = Ability.of(json.loads(json.dumps(placed.to_dict())))
    assert again.to_dict() == placed.to_dict()
    skills, _ = drawn(5)
    assert again.success(skills) == pytest.approx(placed.success(skills), abs=1e-3)


@pytest.mark.parametrize(("rows", "answers"), [(0, 0), (3, 2)])
def test_prompts_and_scores_must_belong_together(rows: int, answers: int) -> None:
    with pytest.raises(ValueError, match=f"one success a row of skills; got {rows} and {answers}"):
        place("m", np.zeros((rows, 3), np.float32), np.zeros(answers, np.float32), PRIOR)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("HF/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"),
        ("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "qwen2.5-coder-0.5b"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("meta/llama-2-70b-chat", "llama-2-70b"),
        ("gemma-2-9b-it", "gemma-2-9b"),
        ("Llama-3.1-8B-Instruct-bf16", "llama-3.1-8b"),
        # Not an ending, but a part of the name.
        ("mistral-items-7b", "mistral-items-7b"),
        ("chatgpt-4o-latest", "chatgpt-4o"),
    ],
)
def test_a_models_plain_name_is_what_its_weights_are_called(name: str, plain: str) -> None:
    assert plain_name(name) == plain
