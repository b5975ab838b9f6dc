"""`smallfirst calibrate` as it is run: against real models, a real server, and outcome files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fixtures.loopback_cloud import Behaviour, LoopbackCloud, status, usual
from fixtures.serving import CLOUD, LOCAL
from pydantic import SecretStr

from smallfirst.evals.outcomes import simple_rows
from smallfirst.router.cli.calibrate import calibrate
from smallfirst.router.errors import ModelError, SettingsError, SmallfirstError
from smallfirst.router.money.prices import PriceList
from smallfirst.router.risk import Budgets, Calibration
from smallfirst.router.scoring import Scorer
from smallfirst.router.settings import CloudModelSettings, Settings, default_local_model
from smallfirst.router.training.files import DataError

HOUSE = "house"
LABELS = ("positive", "negative")


@pytest.fixture
def settings(tmp_path: Path, cloud: LoopbackCloud, models_dir: Path) -> Settings:
    """The real local model, a server in the house, and a cloud; the last two are the loopback server."""
    server: dict[str, Any] = {
        "kind": "openai",
        "base_url": cloud.base_url,
        "api_key": SecretStr("sk"),
        "retries": {"max": 0},
    }
    return Settings(
        models=(
            default_local_model(),
            CloudModelSettings(name=HOUSE, tier="local", **server),
            CloudModelSettings(name=CLOUD, **server),
        ),
        policies={"tight": {"max_quality_loss": 0.3}},  # type: ignore[dict-item]
        calibrations=tmp_path / "calibrations",
        models_dir=models_dir,
    )


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """36 rows of one's own: 24 that the loopback server has right."""
    rows = [
        {
            "id": f"{at:02}",
            "subset": "capitals" if at % 3 else "others",
            "request": {"messages": [{"role": "user", "content": f"What is city number {at} called?"}]},
            "checker": {"type": "contains"},
            "expected": ["Paris" if at % 3 else "Rome"],
        }
        for at in range(36)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(settings: Settings, *arguments: object) -> Result:
    result = CliRunner().invoke(calibrate, list(map(str, arguments)), obj=lambda: settings)
    if isinstance(result.exception, SmallfirstError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def report(settings: Settings, *arguments: object) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(run(settings, *arguments, "--json").stdout.splitlines()[-1])
    return printed


def test_a_server_in_the_house_is_placed_and_the_gateway_finds_it(
    settings: Settings, own: Path, cloud: LoopbackCloud
) -> None:
    told = report(settings, "--model", HOUSE, "--data", own)
    assert [told[name] for name in ("model", "baseline", "n", "confidence_told")] == [HOUSE, None, 36, 0]
    assert told["accuracy"] == pytest.approx(24 / 36)
    assert told["baseline_accuracy"] is None
    assert [of["budget"] for of in told["budgets"]] == [0.01, 0.02, 0.05, 0.1]
    assert not told["budgets"][0]["met"]
    assert len(cloud.requests) == 36
    assert {request.body["max_tokens"] for request in cloud.requests} == {512}
    path = Path(told["out"])
    assert path == settings.calibrations / "house.npz"
    kept = Calibration.load(path)
    assert (len(kept), kept.artefact) == (36, Scorer.load().version)
    assert kept.output_tokens.tolist() == [5] * 36
    budgets = Budgets.load(settings, Scorer.load(), PriceList().price)
    assert budgets.abilities[HOUSE].rows == 36


def test_without_json_it_says_in_words_what_a_budget_would_come_to(settings: Settings, own: Path) -> None:
    said = run(settings, "--model", HOUSE, "--data", own).stdout
    assert (
        "house: right on 0.667 of 36 rows, held against nobody: the baseline counts as always right" in said
    )
    assert "max_quality_loss" in said
    assert "0.01 nothing stays local: " in said
    assert "at confidence 0.95" in said
    assert "house.npz; the gateway reads it at its next start" in said


def test_the_baseline_is_run_on_the_same_rows(settings: Settings, own: Path, cloud: LoopbackCloud) -> None:
    told = report(settings, "--model", HOUSE, "--baseline", CLOUD, "--data", own)
    assert (told["baseline"], told["baseline_accuracy"]) == (CLOUD, pytest.approx(24 / 36))
    assert len(cloud.requests) == 72
    kept = Calibration.load(Path(told["out"]))
    assert kept.baseline_success.tolist() == kept.success.tolist()
    # Nothing is ever lost, and 36 rows show that a large budget is kept.
    assert {of["loss"] for of in told["budgets"]} == {0}


def test_a_run_that_broke_off_goes_on_where_it_was(
    settings: Settings, own: Path, cloud: LoopbackCloud
) -> None:
    behaviours: list[Behaviour] = [usual] * 10 + [status(500)]
    cloud.enqueue(*behaviours)
    asked = ("--model", HOUSE, "--data", own, "--concurrency", 1)
    with pytest.raises(ModelError, match="500"):
        run(settings, *asked)
    assert not (settings.calibrations / "house.npz").exists()
    first = {request.body["messages"][-1]["content"] for request in cloud.requests[:10]}
    cloud.requests.clear()
    told = report(settings, *asked)
    again = [request.body["messages"][-1]["content"] for request in cloud.requests]
    assert (told["n"], len(again), len(set(again))) == (36, 26, 26)
    assert not first & set(again)


def test_outcomes_on_disk_hold_no_text(settings: Settings, own: Path) -> None:
    run(settings, "--model", HOUSE, "--data", own)
    lines = (settings.calibrations / "house.outcomes.jsonl").read_text()
    assert len(lines.splitlines()) == 36
    assert "city number" not in lines
    assert "Paris" not in lines


def test_a_limit_draws_from_every_subset(settings: Settings, own: Path) -> None:
    told = report(settings, "--model", HOUSE, "--data", own, "--limit", 30)
    assert (told["n"], told["accuracy"]) == (30, pytest.approx(18 / 30))


def test_another_place_to_write_may_be_named(settings: Settings, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "c.npz"
    assert report(settings, "--model", HOUSE, "--data", own, "--out", out)["out"] == str(out)
    assert out.is_file()
    assert not settings.calibrations.exists()


def outcome_file(path: Path, count: int = 60) -> Path:
    """Outcomes by name; the house's model is right where it is sure, the cloud 9 times of 10."""
    rows = [
        {
            "id": str(at),
            "subset": "s",
            "request": {"messages": [{"role": "user", "content": f"How far is it to place number {at}?"}]},
            "scores": {HOUSE: float(at % 2), CLOUD: float(at % 10 > 0)},
            "confidences": {HOUSE: 0.95 if at % 2 else 0.4},
        }
        for at in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_outcomes_are_read_from_a_file_and_nothing_is_run(
    settings: Settings, tmp_path: Path, cloud: LoopbackCloud
) -> None:
    file = outcome_file(tmp_path / "o.jsonl")
    told = report(settings, "--model", HOUSE, "--baseline", CLOUD, "--outcomes", file)
    assert cloud.requests == []
    assert (told["n"], told["accuracy"], told["confidence_told"]) == (60, 0.5, 1)
    assert told["baseline_accuracy"] == pytest.approx(0.9)
    kept = Calibration.load(Path(told["out"]))
    assert kept.confidence.tolist() == pytest.approx([0.4, 0.95] * 30)
    # Without a baseline it counts as always right.
    alone = report(settings, "--model", HOUSE, "--outcomes", file)
    assert alone["baseline"] is None
    assert Calibration.load(Path(alone["out"])).baseline_success.tolist() == [1] * 60


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("--model", "none"),
            SettingsError,
            "no model is named 'none' in the settings; there are smollm2-135m",
        ),
        (("--model", HOUSE, "--baseline", "none"), SettingsError, "no model is named 'none'"),
        (("--model", HOUSE, "--data", "nosuch"), DataError, "there is no suite 'nosuch'"),
        (("--model", HOUSE, "--limit", 3), DataError, "3 rows are too few to calibrate on; give at least 30"),
        (("--model", LOCAL, "--outcomes", "FILE"), DataError, "no rows with scores of 'smollm2-135m'"),
        (("--model", HOUSE, "--outcomes", "SHORT"), DataError, "5 rows are too few"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_run(
    settings: Settings,
    tmp_path: Path,
    cloud: LoopbackCloud,
    arguments: tuple[object, ...],
    error: type[Exception],
    message: str,
) -> None:
    files = {"FILE": ("o.jsonl", 60), "SHORT": ("s.jsonl", 5)}
    given = [outcome_file(tmp_path / files[a][0], files[a][1]) if a in files else a for a in arguments]
    with pytest.raises(error, match=message):
        run(settings, *given)
    assert cloud.requests == []
    assert not settings.calibrations.exists()


def test_the_real_local_model_is_placed_with_its_confidence(settings: Settings, tmp_path: Path) -> None:
    """Labels, as these are answered in one step; some of the hand-written prompts, which it was trained on."""
    labels = [row for row in simple_rows() if row.subset in ("label_schema", "sentiment")]
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": LABELS}},
        "required": ["label"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "label", "schema": schema}}
    rows = [
        {
            "id": str(at),
            "subset": "s",
            "request": {"messages": labels[at % len(labels)].body["messages"], "response_format": form},
            "labels": LABELS,
            "expected": json.dumps(LABELS[at % 2]),
            "checker": {"type": "label_exact", "key": "label"},
        }
        for at in range(30)
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = report(settings, "--model", LOCAL, "--data", path)
    assert (told["model"], told["n"], told["confidence_told"]) == (LOCAL, 30, 1)
    kept = Calibration.load(settings.calibrations / f"{LOCAL}.npz")
    assert 0 < kept.success.sum() < 30
    assert ((kept.confidence > 0.4) & (kept.confidence <= 1)).all()
    assert np.isfinite(kept.skills).all()
