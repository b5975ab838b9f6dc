"""Fitting: the arrays say the same one request at a time as many at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from smallfirst.router.scoring.abilities import Ability, AbilityPrior
from smallfirst.router.scoring.classifier import Classifier, Prediction
from smallfirst.router.scoring.embedding import FloatArray, TokenEmbedding
from smallfirst.router.scoring.features import FeatureReader
from smallfirst.router.training import fit
from smallfirst.router.training.placing import Placed, with_models
from smallfirst.router.training.prepare import Matrix, principal_axes, read_matrix, targets_of
from smallfirst.router.training.rows import TrainingRow
from smallfirst.router.training.train import head_figures
from smallfirst.router.wire import ChatRequest

HEADS = ("weak", "strong", "small", "middle", "large", "one")
EASY, HARD, OTHER = (
    "What is the colour of {}?",
    "Prove by induction that the sum of the first {} odd numbers is a square.",
    "Write a short poem about {} and its friends in the north.",
)
THINGS = (
    "grass", "snow", "blood", "milk", "coal", "gold", "ash", "ink", "rust", "rain",
    "sand", "wine", "corn", "lead", "jade", "ruby", "rose", "fog", "mud", "soot",
)  # fmt: skip


def row(at: int, text: str, topic: str, task: str, outcomes: dict[str, float]) -> TrainingRow:
    body = {"messages": [{"role": "user", "content": text}]}
    return TrainingRow("f", str(at), "s", body, topic, task, outcomes)  # type: ignore[arg-type]


def rows() -> list[TrainingRow]:
    """Easy and hard ones that everybody was run on, and others that only `one` and `small` saw."""
    made = []
    for at in range(200):
        easy = at % 2 == 0
        thing = f"{THINGS[at % 20]} {THINGS[at // 10]}" if easy else str(at * 37)
        right = float(easy)
        outcomes = {"weak": right, "strong": 0.95, "small": right, "middle": 0.5, "large": 0.9, "one": right}
        text = (EASY if easy else HARD).format(thing)
        made.append(
            row(at, text, f"t/{'easy' if easy else 'hard'}", "knowledge" if easy else "reasoning", outcomes)
        )
    for at in range(40):
        text = OTHER.format(f"{THINGS[at % 20]} {THINGS[at // 2]}")
        made.append(row(200 + at, text, "t/other", "creative", {"one": 0.5, "small": 0.5}))
    return made


@dataclass(frozen=True)
class Fitted:
    """A classifier and what it was fitted on."""

    model: Classifier
    matrix: Matrix
    rows: list[TrainingRow]
    axes: FloatArray
    reader: FeatureReader

    def predict(self, text: str) -> Prediction:
        request = ChatRequest.parse({"messages": [{"role": "user", "content": text}]})
        return self.model.predict(self.reader.read(request))


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    reader = FeatureReader(TokenEmbedding.load())
    made = rows()
    matrix = read_matrix(made, reader, 32_000)
    axes = principal_axes(matrix)
    model = fit.fit(matrix, targets_of(made, HEADS), np.arange(len(made)), axes)
    return Fitted(model, matrix, made, axes, reader)


def test_it_learns_what_is_plain(fitted: Fitted) -> None:
    easy, hard = fitted.predict(EASY.format("the sea")), fitted.predict(HARD.format(40))
    assert easy.success["one"] > 0.8
    assert hard.success["one"] < 0.2
    assert easy.success["middle"] == pytest.approx(0.5, abs=0.05)
    assert max(hard.tasks, key=hard.tasks.__getitem__) == "reasoning"


def test_what_the_strong_model_gains_moves_both(fitted: Fitted) -> None:
    easy, hard = fitted.predict(EASY.format("the sea")), fitted.predict(HARD.format(40))
    gain = [p.success["strong"] - p.success["weak"] for p in (easy, hard)]
    assert gain[0] < 0.3
    assert gain[1] > 0.7


def test_a_head_without_outcomes_on_a_topic_says_how_it_does_in_general(fitted: Fitted) -> None:
    covered = dict(zip(HEADS, fitted.model.covered.T.tolist(), strict=True))
    assert covered["weak"] == covered["large"] == [1, 1, 0]
    # Small models were run on it, and local ones count as run on everything.
    assert covered["small"] == covered["one"] == [1, 1, 1]
    poem = fitted.predict(OTHER.format("tin"))
    weak, large = fitted.model.general[0, 0], fitted.model.general[4, 0]
    assert poem.success["large"] > poem.success["weak"]
    assert (weak, large) == pytest.approx((0.0, np.log(9)), abs=0.01)


def test_many_rows_at_once_give_what_one_gives(fitted: Fitted) -> None:
    everything = np.arange(len(fitted.rows))
    made = fit.estimates(fitted.model, fitted.matrix, everything)
    together = fit.skills_of(fitted.model, made)
    alone = [
        fitted.model.predict(fitted.reader.read(ChatRequest.parse(dict(one.body)))) for one in fitted.rows
    ]
    assert np.allclose(together, [p.skills for p in alone], atol=2e-3)
    odds = together[:, : len(HEADS)]
    assert np.allclose(1 / (1 + np.exp(-odds)), [[*p.success.values()] for p in alone], atol=2e-3)
    assert np.ptp(made.hardness) > 1
    assert np.ptp(made.gain) > 0.5


def test_a_classifier_is_read_back_with_its_models(fitted: Fitted, tmp_path: Path) -> None:
    skills = len(fitted.predict("hi").skills)
    abilities = tuple(
        Ability(name, np.full(skills, 0.1, np.float32), bias, 100 + at)
        for at, (name, bias) in enumerate({"a/b": 0.5, "c": -1.0}.items())
    )
    prior = AbilityPrior.over(abilities)
    model = with_models(fitted.model, Placed(("a/b", "c"), abilities, (), prior))
    model.save(tmp_path / "m.npz")
    again = Classifier.load(tmp_path / "m.npz")
    for name in (
        "models",
        "abilities",
        "placed_with",
        "prior_mean",
        "prior_precision",
        "general",
        "difficulty",
    ):
        assert np.array_equal(getattr(again, name), getattr(model, name)), name
    read = fitted.reader.read(ChatRequest.parse(dict(fitted.rows[0].body)))
    assert again.predict(read).skills == pytest.approx(model.predict(read).skills, abs=0.02)


def test_a_row_without_an_outcome_teaches_a_head_nothing(fitted: Fitted) -> None:
    seen = np.arange(200)
    known = targets_of(fitted.rows, HEADS)
    blind = [replace(one, outcomes={}) if at >= 200 else one for at, one in enumerate(fitted.rows)]
    targets = targets_of(blind, HEADS)
    assert np.isnan(targets.success[200:]).all()
    whole = fit.fit(fitted.matrix, targets, np.arange(240), fitted.axes)
    part = fit.fit(fitted.matrix, known, seen, fitted.axes)
    # The columns are scaled by other rows, so that weights are alike and not equal.
    assert np.corrcoef(whole.linear[:, 5], part.linear[:, 5])[0, 1] > 0.9
    assert whole.general[:, 0] == pytest.approx(part.general[:, 0])


def test_fitting_again_gives_the_same(fitted: Fitted) -> None:
    again = fit.fit(fitted.matrix, targets_of(fitted.rows, HEADS), np.arange(240), fitted.axes)
    for name in ("linear", "leaves", "difficulty", "centres"):
        assert np.array_equal(getattr(again, name), getattr(fitted.model, name)), name


def test_a_heads_figures_are_those_by_hand() -> None:
    figures = head_figures(np.array([0.95, 0.85, 0.65, 0.15], np.float32), np.array([1, 1, 0, 0], np.float32))
    assert figures["auc"] == 1
    assert figures["kept_at"]["0.6"] == {"share": 0.75, "accuracy": 0.6667}
    assert figures["expected_calibration_error"] == pytest.approx((0.05 + 0.15 + 0.65 + 0.15) / 4, abs=1e-4)
