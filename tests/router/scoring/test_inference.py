"""One request at a time says what the formulas for many say."""

from __future__ import annotations

import numpy as np
import pytest

from smallfirst.router.scoring import Scorer
from smallfirst.router.scoring.classifier import difficulty_of, log_length, sigmoid, softmax
from smallfirst.router.scoring.features import Features
from smallfirst.router.scoring.inference import log_odds_of, logistic
from smallfirst.router.trees import Levels, leaf_values
from smallfirst.router.wire import ChatRequest

PROMPTS = (
    "",
    "What is the capital of France?",
    "Prove that there are infinitely many primes. Then do the same for primes of the form 4n + 3.",
    "```python\ndef f(x):\n    return x[::-1]\n```\nWhy does f(12) fail?",
    "Classify: A) sport B) politics\n\nThe minister resigned on Monday.\n\nAnswer:",
    "日本語で短い詩を書いてください。",
    "The delivery is late. " * 400,
)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load()


def features_of(scorer: Scorer, prompt: str) -> Features:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    return scorer.features(ChatRequest.parse({"messages": messages}))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_one_request_says_what_the_formulas_for_many_say(scorer: Scorer, prompt: str) -> None:
    model, features = scorer.classifier, features_of(scorer, prompt)
    dense = model.dense(features)
    topics = softmax(dense @ model.topics + model.topic_bias)
    hardness = difficulty_of(model.scale_of_difficulty, dense, log_length(features.structure))
    axes = features.focus @ model.axes
    columns = np.concatenate((features.structure, axes, hardness[None]))[None]
    values = leaf_values(columns, model.split_column, model.split_at, model.leaves)[0]
    trees = np.bincount(model.tree_head, values, minlength=len(model.heads) + 1) + model.tree_bias
    weights = (1 + np.log(features.ngram_counts)) * model.idf[features.ngrams]
    ngrams = weights @ model.ngrams[features.ngrams] / max(float(np.linalg.norm(weights)), 1e-9)
    linear = dense @ model.linear + model.bias + ngrams
    parts = np.stack((sigmoid(linear), topics @ model.rates, sigmoid(trees[:-1])), axis=1)
    odds = model.log_odds(parts, topics @ model.covered, hardness, np.asarray(trees[-1], np.float32))

    prediction = model.predict(features)

    assert list(prediction.success.values()) == pytest.approx(sigmoid(odds).tolist(), abs=2e-6)
    tasks = softmax(dense @ model.task_weights + model.task_bias)
    assert list(prediction.tasks.values()) == pytest.approx(tasks.tolist(), abs=5e-6)
    assert prediction.similarity == pytest.approx(float((model.centres @ features.focus).max()), abs=1e-6)
    heads = len(model.heads)
    assert prediction.skills[:heads] == pytest.approx(odds, abs=2e-5)
    assert prediction.skills[heads] == pytest.approx(float(hardness), abs=1e-5)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_length_alone_is_that_of_the_features(scorer: Scorer, prompt: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    request = ChatRequest.parse({"messages": messages})
    assert scorer.input_tokens(request) == scorer.features(request).input_tokens


def test_one_rows_chance_is_that_of_many(scorer: Scorer) -> None:
    skills = scorer.classifier.predict(features_of(scorer, PROMPTS[2])).skills
    for ability in scorer.abilities.values():
        assert ability.chance(skills) == pytest.approx(float(ability.success(skills)), abs=1e-6)


def test_trees_by_level_are_the_same_trees() -> None:
    rng = np.random.default_rng(8)
    split_column = rng.integers(0, 12, (50, 7)).astype(np.int32)
    split_at = rng.normal(size=(50, 7)).astype(np.float32)
    leaves = rng.normal(size=(50, 8)).astype(np.float32)
    rows = rng.normal(size=(40, 12)).astype(np.float32)
    # A value that is the threshold goes left.
    rows[0, split_column[0, 0]] = split_at[0, 0]
    levels = Levels(split_column, split_at, leaves)
    found = np.stack([levels.values(row) for row in rows])
    assert (found == leaf_values(rows, split_column, split_at, leaves)).all()


def test_extreme_odds_do_not_overflow() -> None:
    assert (logistic(-1e6), logistic(1e6)) == pytest.approx((0.0, 1.0), abs=1e-12)
    assert (log_odds_of(0.0, 1e-3), log_odds_of(1.0, 1e-3)) == pytest.approx((-6.9068, 6.9068), abs=1e-4)
