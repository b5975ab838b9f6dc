"""Calibrations: what is kept of them, and the rows that thresholds are chosen on."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.calibrations import MODEL, scorer, simulated, with_some_unknown

from smallfirst.policies.risk import CalibrationRows, Thresholds, apply
from smallfirst.router.risk import Calibration, CalibrationError
from smallfirst.router.risk.calibration import FOLDS, calibration_path


def rows_of(of: Calibration, *, baseline: str = "strong") -> CalibrationRows:
    usd = np.zeros(len(of), np.float32), np.ones(len(of), np.float32)
    return of.rows(of.success_out_of_fold(of.prior(scorer().prior)), scorer().abilities[baseline], usd=usd)


@pytest.mark.parametrize("baseline", ["gpt-4.1", None])
def test_a_calibration_is_read_back_as_it_was(tmp_path: Path, baseline: str | None) -> None:
    made = simulated(50, told=baseline is None, baseline=baseline)
    path = tmp_path / "some" / "where" / "m.npz"
    made.save(path)
    again = Calibration.load(path)
    for field in fields(made):
        assert np.array_equal(
            getattr(again, field.name), getattr(made, field.name), equal_nan=field.name == "confidence"
        )
        assert type(getattr(again, field.name)) is type(getattr(made, field.name))


def test_a_file_holds_no_text_of_any_request(tmp_path: Path) -> None:
    simulated(50).save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        words = {name: str(file[name]) for name in file.files if file[name].dtype.kind not in "fb"}
    assert words == {"model": MODEL, "baseline": "", "artefact": scorer().version, "created": "2026-01-01"}


@pytest.mark.parametrize("cut", [0, 40, 1000, -20])
def test_a_broken_file_is_named_with_what_to_do(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m.npz"
    simulated(50).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CalibrationError, match=r"m\.npz: not a readable calibration: .*smallfirst calibrate"):
        Calibration.load(path)


def test_a_missing_file_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none\.npz: not a readable calibration"):
        Calibration.load(tmp_path / "none.npz")
    np.savez(tmp_path / "m.npz", model="m")
    with pytest.raises(CalibrationError, match=r"m\.npz: not a readable calibration: 'baseline'"):
        Calibration.load(tmp_path / "m.npz")


def test_slashes_in_names_are_no_folders(tmp_path: Path) -> None:
    assert calibration_path(tmp_path, "org/model:7b") == tmp_path / "org_model:7b.npz"


def test_the_ability_is_placed_on_all_rows() -> None:
    made = simulated(2000)
    ability = made.ability(made.prior(scorer().prior))
    assert (ability.model, ability.rows) == (MODEL, 2000)
    p = ability.success(made.skills)
    assert p.mean() == pytest.approx(made.success.mean(), abs=0.01)
    assert np.mean((p > 0.5) == made.success) > 0.8


def test_a_rows_probability_is_that_of_an_ability_placed_without_it() -> None:
    # Success that nothing explains: who has not seen the row cannot know it.
    made = simulated(400, slope=0.0)
    prior = made.prior(scorer().prior)
    seen, unseen = made.ability(prior).success(made.skills), made.success_out_of_fold(prior)
    assert np.corrcoef(unseen, made.success)[0, 1] < np.corrcoef(seen, made.success)[0, 1] - 0.05
    flipped = replace(made, success=np.where(np.arange(400) == 7, 1 - made.success, made.success))
    change = np.abs(flipped.success_out_of_fold(prior) - unseen)
    # The row's own fold does not notice that it changed; the others do.
    assert change[7] == 0
    assert (change == 0).sum() == 400 // FOLDS


def test_a_single_row_gets_what_was_known_before() -> None:
    one = simulated(1)
    prior = scorer().prior
    expected = 1 / (1 + np.exp(-(prior.mean[0] + one.skills @ prior.mean[1:])))
    assert one.success_out_of_fold(prior) == pytest.approx(expected, abs=1e-5)


def test_rows_are_what_the_risk_budgets_method_takes() -> None:
    made = simulated(300, baseline="gpt-4.1")
    rows = rows_of(made)
    strong = scorer().abilities["strong"].success(made.skills)
    success = made.success_out_of_fold(made.prior(scorer().prior))
    assert rows.gap == pytest.approx(strong - success, abs=1e-6)
    assert rows.local.tolist() == made.success.tolist()
    assert rows.baseline.tolist() == made.baseline_success.tolist()
    assert (rows.local_usd.sum(), rows.baseline_usd.sum()) == (0, 300)
    assert np.isnan(rows_of(simulated(300, told=False)).confidence).all()


@pytest.mark.parametrize("thresholds", [Thresholds(1, 1, 0), Thresholds(-1, 1, 0), Thresholds(0.3, 0.9, 0.5)])
def test_a_request_unlike_anything_measured_loses_nothing_whatever_the_thresholds(
    thresholds: Thresholds,
) -> None:
    rows = rows_of(with_some_unknown(simulated(300), 3))
    assert (rows.gap[::3] == 1).all()
    done = apply(rows, thresholds)
    assert (done.loss[::3] == 0).all()
    assert done.loss.sum() > 0
    if thresholds.max_gap < 1:
        assert not done.local[::3].any()
        assert (done.usd[::3] == 1).all()
