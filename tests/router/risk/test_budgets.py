"""From calibration files to what policies allow local models."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.calibrations import MODEL, scorer, simulated, with_some_unknown
from fixtures.serving import CLOUD

from smallfirst.policies import Allowance, load_preset
from smallfirst.policies.risk import apply
from smallfirst.router.errors import SettingsError
from smallfirst.router.money.prices import PriceList
from smallfirst.router.risk import Budgets, configured_ability
from smallfirst.router.risk.calibration import calibration_path
from smallfirst.router.settings import CloudModelSettings, Price, Settings, default_local_model

SECOND = "house-7b"


def make(folder: Path, *, models: tuple[Any, ...] = (), **budgets: float) -> Settings:
    """Settings with a policy for each budget."""
    big = CloudModelSettings(name=CLOUD, kind="openai", base_url="http://127.0.0.1:9/v1")
    own = {
        name: load_preset("balanced").model_copy(update={"name": name, "max_quality_loss": loss})
        for name, loss in budgets.items()
    }
    given = models or (default_local_model(), big)
    return Settings(models=given, policies=own, calibrations=folder)


def load(settings: Settings) -> Budgets:
    return Budgets.load(settings, scorer(), PriceList().price)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "smallfirst.risk")
    return caplog


def test_a_budget_that_is_met_allows_what_its_thresholds_say(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    made = with_some_unknown(simulated(3000), 10)
    made.save(calibration_path(tmp_path, MODEL))
    budgets = load(make(tmp_path, tight=0.02))
    found = budgets.controls["tight"][MODEL]
    thresholds = found.thresholds
    assert thresholds is not None
    assert 0.2 < found.local_share < 0.6
    assert found.loss < found.bound <= 0.02
    rows = made.rows(
        made.success_out_of_fold(made.prior(scorer().prior)),
        scorer().abilities["strong"],
        usd=(np.zeros(3000, np.float32), np.ones(3000, np.float32)),
    )
    in_cascade = (rows.gap > thresholds.max_gap) & (rows.gap <= thresholds.cascade_gap)
    kept = apply(rows, thresholds).local[in_cascade & made.known].mean()
    assert 0 < kept < 1
    expected = Allowance(thresholds.max_gap, thresholds.cascade_gap, thresholds.min_confidence, kept)
    assert budgets.allowances == {"tight": {MODEL: expected}}
    assert f"policy 'tight': {MODEL} answers {100 * found.local_share:.0f} % of requests" in said.text


def test_a_model_that_tells_no_confidence_is_routed_without_a_check(tmp_path: Path) -> None:
    simulated(3000, told=False).save(calibration_path(tmp_path, MODEL))
    allowance = load(make(tmp_path, tight=0.02)).allowances["tight"][MODEL]
    assert allowance.max_gap == allowance.cascade_gap > -1
    assert allowance.kept == 0


def test_each_policy_has_its_own_thresholds_and_those_without_a_budget_none(tmp_path: Path) -> None:
    simulated(3000, told=False).save(calibration_path(tmp_path, MODEL))
    budgets = load(make(tmp_path, tight=0.02, loose=0.1))
    assert set(budgets.allowances) == {"tight", "loose"}
    gaps = [budgets.allowances[name][MODEL].max_gap for name in ("tight", "loose")]
    assert gaps[0] < gaps[1]


def test_a_budget_that_is_not_met_allows_nothing_and_says_why(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    simulated(60).save(calibration_path(tmp_path, MODEL))
    budgets = load(make(tmp_path, tight=0.01))
    assert budgets.allowances == {"tight": {}}
    reason = budgets.controls["tight"][MODEL].reason
    assert "60 calibration rows are too few" in reason
    assert f"policy 'tight': {MODEL} gets nothing: {reason}" in said.text
    # Its ability is its own all the same.
    assert budgets.abilities[MODEL].rows == 60


def test_without_a_calibration_everything_goes_to_the_cloud_and_a_warning_says_so(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    budgets = load(make(tmp_path / "none", tight=0.02))
    assert (budgets.abilities, budgets.allowances) == ({}, {"tight": {}})
    assert "no local model is calibrated" in said.text
    assert "smallfirst calibrate --model" in said.text


@pytest.mark.parametrize("broken", [False, True])
def test_what_another_classifier_measured_and_what_is_broken_is_left_out_with_a_warning(
    tmp_path: Path, said: pytest.LogCaptureFixture, broken: bool
) -> None:
    path = calibration_path(tmp_path, MODEL)
    replace(simulated(300), artefact="another").save(path)
    if broken:
        path.write_bytes(path.read_bytes()[:-100])
    budgets = load(make(tmp_path, tight=0.02))
    assert (budgets.calibrations, budgets.abilities, budgets.allowances) == ({}, {}, {"tight": {}})
    why = "not a readable calibration" if broken else "was made with another classifier and is left out"
    assert f"{path}" in said.text
    assert why in said.text


def two_models() -> tuple[Any, ...]:
    house = CloudModelSettings(name=SECOND, kind="openai", tier="local", base_url="http://127.0.0.1:9/v1")
    return (default_local_model(), house, CloudModelSettings(name=CLOUD, kind="openai"))


def test_two_calibrated_models_share_the_budget_and_the_error_probability(tmp_path: Path) -> None:
    simulated(3000).save(calibration_path(tmp_path, MODEL))
    alone = load(make(tmp_path, models=two_models(), tight=0.04)).controls["tight"]
    assert (alone[MODEL].budget, alone[MODEL].confidence) == (0.04, 0.95)
    simulated(3000, model=SECOND, seed=1).save(calibration_path(tmp_path, SECOND))
    both = load(make(tmp_path, models=two_models(), tight=0.04))
    for name in (MODEL, SECOND):
        found = both.controls["tight"][name]
        assert found.budget == 0.02
        assert found.confidence == pytest.approx(0.975)
        assert found.bound <= 0.02
    assert both.controls["tight"][MODEL].local_share < alone[MODEL].local_share


def test_a_policy_that_checks_no_answer_gets_thresholds_without_a_cascade(tmp_path: Path) -> None:
    simulated(3000).save(calibration_path(tmp_path, MODEL))
    settings = make(tmp_path, tight=0.05)
    unchecked = settings.policies["tight"].model_copy(update={"cascade": "off"})
    rule = load(settings.model_copy(update={"policies": {"tight": unchecked}})).allowances["tight"][MODEL]
    assert rule.max_gap == rule.cascade_gap
    checked = load(settings).allowances["tight"][MODEL]
    assert checked.max_gap < checked.cascade_gap


def test_answers_held_against_another_baseline_do_not_flatter_the_model(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    """The other one is wrong 1 time of 20, which would be counted as a gain."""
    path = calibration_path(tmp_path, MODEL)
    found = {}
    for name in (None, CLOUD, "another"):
        replace(simulated(3000, baseline="b"), baseline=name).save(path)
        said.clear()
        found[name] = load(make(tmp_path, tight=0.05)).controls["tight"][MODEL]
        assert ("was calibrated against another" in said.text) == (name == "another")
    simulated(3000).save(path)
    right = load(make(tmp_path, tight=0.05)).controls["tight"][MODEL]
    assert found["another"].loss == pytest.approx(right.loss)
    assert found[CLOUD].local_share > found["another"].local_share


def test_a_calibration_of_a_cloud_model_places_it_and_allows_it_nothing(tmp_path: Path) -> None:
    simulated(300, model=CLOUD).save(calibration_path(tmp_path, CLOUD))
    budgets = load(make(tmp_path, tight=0.5))
    assert budgets.abilities[CLOUD].rows == 300
    assert budgets.allowances == {"tight": {}}


def test_abilities_are_there_without_any_budget_or_cloud(tmp_path: Path) -> None:
    simulated(300).save(calibration_path(tmp_path, MODEL))
    assert load(make(tmp_path)).abilities[MODEL].rows == 300
    alone = load(make(tmp_path, models=(default_local_model(),), tight=0.02))
    assert (alone.abilities[MODEL].rows, alone.allowances) == (300, {})


def test_the_calibrations_scores_are_the_reference_for_drift(tmp_path: Path) -> None:
    with_some_unknown(simulated(400), 4).save(calibration_path(tmp_path, MODEL))
    reference = load(make(tmp_path, tight=0.05)).reference
    assert reference is not None
    assert [sum(of.counts) for of in (reference.difficulty, reference.gap, reference.unknown)] == [
        300,
        300,
        400,
    ]
    assert (reference.unknown.counts[0], reference.unknown.counts[-1]) == (300, 100)


def test_prices_choose_the_settings_that_cost_least(tmp_path: Path) -> None:
    simulated(3000).save(calibration_path(tmp_path, MODEL))
    free = load(make(tmp_path, tight=0.05)).controls["tight"][MODEL]
    # gpt-4.1: 20 tokens in, 30 out.
    assert free.baseline_usd == pytest.approx((20 * 2 + 30 * 8) / 1e6)
    assert free.saved_share == pytest.approx(free.local_share)
    # The local model costs as much as the cloud: an escalation is paid twice, so nothing is to be gained.
    dear = default_local_model().model_copy(update={"price": Price(input=2, output=8)})
    models = (dear, CloudModelSettings(name=CLOUD, kind="openai"))
    found = load(make(tmp_path, models=models, tight=0.05)).controls["tight"][MODEL]
    assert found.thresholds is None
    assert "save nothing" in found.reason


def test_a_calibrated_models_ability_is_placed_from_the_prior_that_its_rows_ask_for(tmp_path: Path) -> None:
    made = simulated(600)
    made.save(calibration_path(tmp_path, MODEL))
    chosen = made.prior(scorer().prior)
    ability = load(make(tmp_path)).abilities[MODEL]
    assert ability.to_dict() == made.ability(chosen).to_dict()
    assert ability.to_dict() != made.ability(scorer().prior).to_dict()


def test_where_the_baselines_price_is_unknown_calls_are_counted(tmp_path: Path) -> None:
    simulated(3000).save(calibration_path(tmp_path, MODEL))
    models = (default_local_model(), CloudModelSettings(name="nobody-knows-it", kind="openai"))
    found = load(make(tmp_path, models=models, tight=0.05)).controls["tight"][MODEL]
    assert found.baseline_usd == 1
    assert found.saved_share == pytest.approx(found.local_share)


def test_an_ability_that_nobody_measured_is_an_error_that_names_close_ones() -> None:
    spec = default_local_model().model_copy(update={"ability": "qwen2.5-coder-0.7b"})
    with pytest.raises(SettingsError) as raised:
        configured_ability(spec, scorer())
    assert f"models: '{MODEL}': ability: nobody measured 'qwen2.5-coder-0.7b'" in str(raised.value)
    assert "Close to it: qwen2.5-coder-0.5b" in str(raised.value)
    assert "smallfirst calibrate" in str(raised.value)
    far = spec.model_copy(update={"ability": "#"})
    with pytest.raises(SettingsError, match="Close to it: weak, strong"):
        configured_ability(far, scorer())


@pytest.mark.parametrize(
    ("ability", "measured"),
    [(None, MODEL), ("large", "large"), ("qwen2.5-7b", "Qwen2.5-7B-Instruct")],
)
def test_an_ability_may_be_named(ability: str | None, measured: str) -> None:
    spec = default_local_model().model_copy(update={"ability": ability})
    assert configured_ability(spec, scorer()).model == measured
