"""How hard a request is for models in general."""

from __future__ import annotations

import numpy as np
import pytest

from smallfirst.router.scoring.classifier import DENSE, DifficultyScale, difficulty_of
from smallfirst.router.scoring.features import NAMES
from smallfirst.router.training.difficulty import fit_difficulty, general_outcomes, within_topic_slopes
from smallfirst.router.training.rows import TrainingRow

BODY = {"messages": [{"role": "user", "content": "?"}]}


def row(topic: str, **fields: object) -> TrainingRow:
    base = {"file": "f", "id": "1", "subset": "s", "body": BODY, "topic": topic, "task": "chat"}
    return TrainingRow(**{**base, **fields})  # type: ignore[arg-type]


def test_failure_and_gain_are_held_against_their_topics_mean() -> None:
    pairs = [(0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)]
    rows = [
        row("easy" if at < 2 else "hard", outcomes={"weak": weak, "strong": strong})
        for at, (weak, strong) in enumerate(pairs)
    ]
    found = general_outcomes(rows)
    assert found.failure.tolist() == [0.25, -0.25, 0, 0]
    assert found.gain.tolist() == [0.5, -0.5, 0, 0]


def test_many_models_scores_are_all_used() -> None:
    scores = [{"a": 0.0, "b": float(at < 1), "c": 1.0} for at in range(2)]
    found = general_outcomes([row("t", scores=one) for one in scores])
    assert found.failure.tolist() == pytest.approx([-1 / 6, 1 / 6])
    assert found.gain.tolist() == [0, 0]


def test_a_local_models_outcomes_alone_say_nothing_of_models_in_general() -> None:
    found = general_outcomes([row("t", outcomes={"tiny": 0.0}), row("t", outcomes={"tiny": 1.0})])
    assert np.isnan([*found.failure, *found.gain]).all()


def generated(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[TrainingRow]]:
    """Requests of two topics, one of them hard as a whole; within each, one structural column makes them hard."""
    random = np.random.default_rng(0)
    structure = random.normal(size=(count, len(NAMES))).astype(np.float32)
    structure[:, [0, 2]] = (3.0, 1.0)
    dense = np.concatenate((structure * 0.1, random.normal(size=(count, DENSE - len(NAMES))) * 0.05), axis=1)
    hard = structure[:, 5]
    rows = []
    for at in range(count):
        p = 1 / (1 + np.exp(2 * hard[at] + (3 if at % 2 else -3)))
        weak = float(random.random() < p)
        outcomes = {"weak": weak, "strong": max(weak, float(random.random() < 0.9))}
        rows.append(row("hard" if at % 2 else "easy", outcomes=outcomes))
    return structure, dense, hard, rows


def test_it_finds_what_makes_requests_hard_and_not_which_topic_is_hard() -> None:
    structure, dense, hard, rows = generated(900)
    scale = fit_difficulty(structure, dense, general_outcomes(rows), np.arange(900))
    found = difficulty_of(scale, dense, np.full(900, 3.0, np.float32))
    assert np.corrcoef(found, hard)[0, 1] > 0.6
    topics = np.arange(900) % 2
    assert abs(found[topics == 1].mean() - found[topics == 0].mean()) < 0.2


def test_the_scale_has_mean_0_and_deviation_1_and_odd_requests_stay_on_it() -> None:
    structure, dense, _, rows = generated(500)
    structure[:, 0] += np.linspace(0, 3, 500, dtype=np.float32)
    scale = fit_difficulty(structure, dense, general_outcomes(rows), np.arange(500))
    length = structure[:, 0]
    found = difficulty_of(scale, dense, length)
    assert (found.mean(), found.std()) == pytest.approx((0, 1), abs=0.01)
    odd = difficulty_of(scale, dense[:2] * [[1e4], [-1e4]], np.array([1e3, -1e3], np.float32))
    assert np.abs(odd).max() < 5


def test_a_longer_question_of_the_same_kind_is_harder() -> None:
    figures = np.array([0, 1, 3, 1, 2, 0, 1], np.float32)
    scale = DifficultyScale(np.zeros(DENSE, np.float32), figures)
    short, long = (difficulty_of(scale, np.zeros(DENSE, np.float32), np.array(n, np.float32)) for n in (2, 5))
    assert short < long


def test_slopes_are_those_within_topics() -> None:
    random = np.random.default_rng(0)
    topics = np.repeat([0, 1], 2000)
    # Across topics it looks the other way round: the harder topic is answered better.
    difficulty = (random.normal(size=4000) + 3 * topics).astype(np.float32)
    p = 1 / (1 + np.exp(1.0 * (difficulty - 3 * topics) - 2 * topics + 1))
    right = (random.random(4000) < p).astype(np.float32)
    unknown = np.full(4000, np.nan, np.float32)
    slopes = within_topic_slopes(difficulty, np.stack((right, unknown), axis=1), topics)
    assert -1.1 < slopes[0] < -0.5
    assert slopes[1] == 0


def test_a_head_that_does_better_on_hard_requests_gets_no_slope() -> None:
    difficulty = np.arange(10, dtype=np.float32)
    right = (difficulty > 5).astype(np.float32)[:, None]
    assert within_topic_slopes(difficulty, right, np.zeros(10, int)).tolist() == [0]
