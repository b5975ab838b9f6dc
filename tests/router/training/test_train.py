"""`smallfirst train` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from smallfirst.evals.out_of_fold import predicted
from smallfirst.evals.outcome_files import Outcome
from smallfirst.evals.routing import routing_report
from smallfirst.router.cli.train import train
from smallfirst.router.scoring import Scorer
from smallfirst.router.scoring.features import NAMES
from smallfirst.router.scoring.scorer import packaged_artefact
from smallfirst.router.training.files import DataError
from smallfirst.router.training.keys import row_key
from smallfirst.router.wire import ChatRequest


def test_without_the_data_it_says_how_to_name_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(train, ["--data", str(tmp_path / "none"), "--out", str(tmp_path / "a.npz")])
    assert result.exit_code == 1
    assert "SMALLFIRST_DATA" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_training_rows_are_known_by_hash_and_scored_by_a_classifier_that_had_not_seen_them() -> None:
    scorer = Scorer.load()
    with np.load(packaged_artefact().with_name("router_folds.npz"), allow_pickle=False) as file:
        keys, skills, fold, models = (file[name] for name in ("keys", "skills", "fold", "models"))
        abilities = file["abilities"]
    width = len(scorer.prior.mean)
    assert len(keys) == len(skills) == len(fold) == scorer.card["rows"]
    assert skills.shape[1] == width - 1
    assert models.tolist() == scorer.classifier.models.tolist()
    assert abilities.shape == (fold.max() + 1, len(models), width)
    assert np.isfinite(skills).all()


def test_a_training_row_is_scored_by_the_ability_that_was_placed_without_its_fold() -> None:
    scorer = Scorer.load()
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    outcome = Outcome("1", "s", ChatRequest.parse(body), 0, 1)
    name = scorer.classifier.models.tolist()[0]
    with np.load(packaged_artefact().with_name("router_folds.npz"), allow_pickle=False) as file:
        at = file["keys"].tolist().index(row_key(body))
        bias, *weights = file["abilities"][file["fold"][at], 0].astype(float)
        odds = bias + file["skills"][at].astype(float) @ weights
    success, out_of_fold = predicted([outcome], scorer, [scorer.abilities[name], scorer.abilities["weak"]])
    assert success[0, 0] == pytest.approx(1 / (1 + np.exp(-odds)))
    assert out_of_fold.tolist() == [1.0]
    shipped = scorer.classifier.predict(scorer.features(outcome.request)).success["weak"]
    assert success[0, 1] != pytest.approx(shipped, abs=1e-6)


def test_our_own_prompts_are_among_the_training_rows(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    rows = [{"id": "1", "subset": "s", "request": body, "weak_correct": 0, "strong_correct": 1}]
    (tmp_path / "o.jsonl").write_text(json.dumps(rows[0]))
    report = routing_report(tmp_path / "o.jsonl", samples=2)
    assert row_key(body) > 0
    assert (report["out_of_fold"], report["out_of_fold_rows"]) == (True, 1)


def test_an_artefact_without_its_folds_is_not_evaluated(tmp_path: Path) -> None:
    for name in ("router.npz", "card.json"):
        (tmp_path / name).write_bytes(packaged_artefact().with_name(name).read_bytes())
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    row = {"id": "1", "subset": "s", "request": body, "weak_correct": 0, "strong_correct": 1}
    (tmp_path / "o.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"router_folds\.npz: the classifier's out-of-fold predictions"):
        routing_report(tmp_path / "o.jsonl", artefact=tmp_path / "router.npz", samples=2)


def test_the_columns_of_the_shipped_artefact_are_this_versions() -> None:
    assert Scorer.load().classifier.mean.shape == (len(NAMES),)
