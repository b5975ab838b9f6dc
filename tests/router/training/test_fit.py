"""Fitting: the arrays say the same one request at a time as many at once."""

from __future__ import annotations

import numpy as np
import pytest

from smallfirst.router.scoring.classifier import Classifier
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.scoring.features import FeatureReader
from smallfirst.router.training import fit
from smallfirst.router.training.rows import TrainingRow
from smallfirst.router.training.train import head_figures
from smallfirst.router.wire import ChatRequest

EASY, HARD = (
    "What is the colour of {}?",
    "Prove by induction that the sum of the first {} odd numbers is a square.",
)
THINGS = (
    "grass", "snow", "blood", "milk", "coal", "gold", "ash", "ink", "rust", "rain",
    "sand", "wine", "corn", "lead", "jade", "ruby", "rose", "fog", "mud", "soot",
)  # fmt: skip


def rows() -> list[TrainingRow]:
    made = []
    for at in range(200):
        easy = at % 2 == 0
        thing = f"{THINGS[at % 20]} {THINGS[at // 10]}" if easy else str(at * 37)
        body = {"messages": [{"role": "user", "content": (EASY if easy else HARD).format(thing)}]}
        outcome = {"one": float(easy), "two": 0.5}
        made.append(TrainingRow("f", str(at), body, "t/easy" if easy else "t/hard",
                                "knowledge" if easy else "reasoning", outcome))  # fmt: skip
    return made


@pytest.fixture(scope="module")
def reader() -> FeatureReader:
    return FeatureReader(TokenEmbedding.load())


@pytest.fixture(scope="module")
def fitted(reader: FeatureReader) -> tuple[Classifier, fit.Matrix, list[TrainingRow]]:
    made = rows()
    matrix = fit.read_matrix(made, reader, 32_000)
    return fit.fit(matrix, fit.targets_of(made, ("one", "two")), np.arange(200), 32_000), matrix, made


def test_it_learns_what_is_plain(
    fitted: tuple[Classifier, fit.Matrix, list[TrainingRow]], reader: FeatureReader
) -> None:
    easy, hard = (
        fitted[0].predict(reader.read(ChatRequest.parse({"messages": [{"role": "user", "content": text}]})))
        for text in (EASY.format("the sea"), HARD.format(40))
    )
    assert easy.success["one"] > 0.8
    assert hard.success["one"] < 0.2
    assert easy.success["two"] == pytest.approx(0.5, abs=0.05)
    assert max(hard.tasks, key=hard.tasks.__getitem__) == "reasoning"


def test_many_rows_at_once_give_what_one_gives(
    fitted: tuple[Classifier, fit.Matrix, list[TrainingRow]], reader: FeatureReader
) -> None:
    model, matrix, made = fitted
    together = fit.components(model, matrix, np.arange(200)).mean(axis=2)
    alone = [model.predict(reader.read(ChatRequest.parse(dict(row.body)))).success for row in made]
    assert np.allclose(together, [[p["one"], p["two"]] for p in alone], atol=1e-3)


def test_a_row_without_an_outcome_teaches_a_head_nothing(reader: FeatureReader) -> None:
    made = rows()
    matrix = fit.read_matrix(made, reader, 32_000)
    known = fit.targets_of(made, ("one", "two"))
    assert np.isnan(
        fit.targets_of([TrainingRow("f", "x", made[0].body, "t", "chat")], ("one",)).success
    ).all()
    again = fit.fit(matrix, known, np.arange(200), 32_000)
    assert np.array_equal(again.linear, fit.fit(matrix, known, np.arange(200), 32_000).linear)


def test_a_heads_figures_are_those_by_hand() -> None:
    figures = head_figures(np.array([0.95, 0.85, 0.65, 0.15], np.float32), np.array([1, 1, 0, 0], np.float32))
    assert figures["auc"] == 1
    assert figures["kept_at"]["0.6"] == {"share": 0.75, "accuracy": 0.6667}
    assert figures["expected_calibration_error"] == pytest.approx((0.05 + 0.15 + 0.65 + 0.15) / 4, abs=1e-4)
