"""One request at a time says what the formulas for many say, compiled or not."""

from __future__ import annotations

import shutil
import sysconfig
from importlib import import_module
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.scoring import Scorer
from smallfirst.router.scoring.arithmetic import inference_of, plain
from smallfirst.router.scoring.arithmetic.plain import log_odds_of, logistic
from smallfirst.router.scoring.arithmetic.tables import Tables
from smallfirst.router.scoring.classifier import difficulty_of, log_length, sigmoid, softmax
from smallfirst.router.scoring.features import Features
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


# Small tables that fit together: 2 structural columns, vectors of 4, 2 heads, 3 topics, 2 task kinds, 5 n-grams.
def small_tables(seed: int = 3) -> Tables:
    rng = np.random.default_rng(seed)

    def single(*shape: int) -> npt.NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    return Tables(
        mean=single(2),
        scale=abs(single(2)) + np.float32(0.5),
        clip=4.0,
        dense=single(10, 8),
        bias=single(8),
        of_focus=single(4, 5),
        axes=2,
        of_ngrams=single(5, 3),
        of_topics=abs(single(3, 4)),
        split_column=rng.integers(0, 5, (6, 7)).astype(np.int32),
        split_at=single(6, 7),
        leaves=single(6, 8),
        tree_head=np.array([0, 0, 1, 1, 2, 2], np.int32),
        tree_bias=rng.normal(size=3),
        heads=rng.normal(size=(2, 7)),
        difficulty=abs(rng.normal(size=7)) + 0.5,
        length_columns=(0, 1),
        compared=(0, 1, 0.4),
    )


@pytest.fixture(scope="module")
def compiled() -> ModuleType:
    # Where it could have been compiled, it must have been.
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    if shutil.which(compiler) is None or not headers.exists():
        pytest.skip(f"not compiled: there is no {compiler}, or no {headers}")
    return import_module("smallfirst.router.scoring.arithmetic.compiled")


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


@given(ids=st.lists(st.integers(0, 19), max_size=60), seed=st.integers(0, 5))
def test_compiled_tokens_are_read_as_numpy_reads_them(
    compiled: ModuleType, ids: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 2, (20, 4)).astype(np.uint8)
    vectors = rng.normal(size=(20, 8)).astype(np.float32)
    log_rank = np.log(np.arange(1, 21, dtype=np.float32))
    numbers = np.array(ids, np.int32)
    expected, times, columns = plain.read_tokens(numbers, classes, log_rank, 16)
    found = compiled.read_tokens(numbers, classes, log_rank, 16)
    assert found[0].tolist() == expected.tolist()
    assert found[1].tolist() == times.tolist()
    assert found[2] == pytest.approx(columns, abs=1e-6)
    assert compiled.unit_mean(vectors, numbers) == pytest.approx(plain.unit_mean(vectors, numbers), abs=1e-6)


@given(
    seed=st.integers(0, 200),
    grams=st.dictionaries(st.integers(0, 4), st.integers(1, 9)),
    with_context=st.booleans(),
)
def test_compiled_figures_are_numpys(
    compiled: ModuleType, seed: int, grams: dict[int, int], with_context: bool
) -> None:
    rng = np.random.default_rng(seed)
    structure, focus, context = (rng.normal(size=n).astype(np.float32) * 2 for n in (2, 4, 4))
    known = np.array(sorted(grams), np.int32), np.array([grams[gram] for gram in sorted(grams)], np.float32)
    tables = small_tables(seed)
    expected, found = (
        module.Inference(tables).read(structure, focus, context if with_context else None, *known)
        for module in (plain, compiled)
    )
    assert found.odds == pytest.approx(expected.odds, abs=1e-4)
    assert found.tasks == pytest.approx(expected.tasks, abs=1e-5)
    assert found.hardness == pytest.approx(expected.hardness, abs=1e-4)
    assert found.axes == pytest.approx(expected.axes, abs=1e-5)
    assert found.similarity == pytest.approx(expected.similarity, abs=1e-5)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_packaged_classifier_says_the_same_compiled(
    compiled: ModuleType, scorer: Scorer, prompt: str
) -> None:
    features = features_of(scorer, prompt)
    given = (features.structure, features.focus, features.context, features.ngrams, features.ngram_counts)
    tables = scorer.classifier.tables()
    expected, found = (module.Inference(tables).read(*given) for module in (plain, compiled))
    assert found.odds == pytest.approx(expected.odds, abs=2e-5)
    assert found.tasks == pytest.approx(expected.tasks, abs=5e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"split_column": np.full((6, 7), 5, np.int32)},
        {"tree_head": np.full(6, 3, np.int32)},
        {"dense": np.zeros((9, 8), np.float32)},
        {"leaves": np.zeros((6, 7), np.float32)},
        {"of_topics": np.zeros((3, 3), np.float32)},
        {"compared": (0, 2, 0.4)},
        {"length_columns": (-1, 0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_compiled_loops_refuse_tables_that_they_would_read_beyond(
    compiled: ModuleType, change: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        compiled.Inference(msgspec.structs.replace(small_tables(), **change))


def test_compiled_loops_refuse_requests_that_they_would_read_beyond(compiled: ModuleType) -> None:
    inference = compiled.Inference(small_tables())
    two, four, one = (np.zeros(n, np.float32) for n in (2, 4, 1))
    no_grams = np.zeros(0, np.int32), np.zeros(0, np.float32)
    for wrong in (
        (one, four, None, *no_grams),
        (two, two, None, *no_grams),
        (two, four, two, *no_grams),
        (two, four, None, np.zeros(1, np.int32), np.zeros(0, np.float32)),
    ):
        with pytest.raises(ValueError, match="other shapes"):
            inference.read(*wrong)
    for gram in (-1, 5):
        with pytest.raises(IndexError):
            inference.read(two, four, None, np.array([gram], np.int32), one)
    classes, ranks = np.zeros((5, 3), np.uint8), np.zeros(5, np.float32)
    for token in (-1, 5):
        ids = np.array([token], np.int32)
        with pytest.raises(IndexError):
            compiled.read_tokens(ids, classes, ranks, 16)
        with pytest.raises(IndexError):
            compiled.unit_mean(np.zeros((5, 3), np.float32), ids)
    with pytest.raises(ValueError, match="do not fit together"):
        compiled.read_tokens(np.zeros(1, np.int32), classes, np.zeros(4, np.float32), 16)


def test_what_is_compiled_is_what_scores(compiled: ModuleType) -> None:
    assert isinstance(inference_of(small_tables()), compiled.Inference)


def test_tables_too_wide_for_compiled_loops_are_read_by_numpy(compiled: ModuleType) -> None:
    wide = msgspec.structs.replace(small_tables(), of_focus=np.zeros((4, compiled.WIDEST + 1), np.float32))
    assert isinstance(inference_of(wide), plain.Inference)
    with pytest.raises(ValueError, match="do not fit together"):
        compiled.Inference(wide)


@pytest.mark.parametrize("buckets", [0, 1 << 30])
def test_compiled_pairs_have_numbers_of_their_own(compiled: ModuleType, buckets: int) -> None:
    ids, ranks = np.zeros(2, np.int32), np.zeros(5, np.float32)
    with pytest.raises(ValueError, match="do not fit together"):
        compiled.read_tokens(ids, np.zeros((5, 3), np.uint8), ranks, buckets)
