"""From calibrations to what each policy's risk budget allows each local model. Done once, at start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np

from smallfirst.policies import Allowance, Policy
from smallfirst.policies.risk import CalibrationRows, RiskControl, Thresholds, apply, control

from ..drift import ScoreReference
from ..errors import SettingsError
from ..scoring import Scorer
from ..scoring.abilities import Ability
from ..scoring.embedding import FloatArray
from ..settings import AnyModelSettings, Settings
from ..wire import Usage
from .calibration import UNKNOWN_GAP, Calibration, CalibrationError, calibration_path

log = logging.getLogger("smallfirst.risk")

Price = Callable[[AnyModelSettings, Usage], float | None]


@dataclass(frozen=True, slots=True, eq=False)
class Budgets:
    """What is allowed under the policies that have a risk budget.

    Attributes:
        calibrations: By model; only those that fit this classifier.
        abilities: Of these models, placed on their calibrations.
        controls: By policy, by local model: what was found.
        allowances: Likewise what comes of it; without the models that get nothing.
        reference: The scores of the calibration's requests, for tests of drift; None without one.
        reference_of: Which model's scores these are.
    """

    calibrations: Mapping[str, Calibration]
    abilities: Mapping[str, Ability]
    controls: Mapping[str, Mapping[str, RiskControl]]
    allowances: Mapping[str, Mapping[str, Allowance]]
    reference: ScoreReference | None = None
    reference_of: str | None = None

    @classmethod
    def load(cls, settings: Settings, scorer: Scorer, price: Price) -> Budgets:
        """Read the calibrations of the configured models and choose thresholds for every policy with a budget.

        A calibration that cannot be used is left out with a warning: its model then gets nothing under a budget.

        Args:
            settings: Models, policies, and the calibrations' folder.
            scorer: Calibrations made with another classifier do not count.
            price: What a model's tokens cost; where the baseline's price is unknown, every request costs the same.
        """
        calibrations = _load(settings, scorer)
        priors = {name: of.prior(scorer.prior) for name, of in calibrations.items()}
        abilities = {name: of.ability(priors[name]) for name, of in calibrations.items()}
        policies = [settings.policy_named(name) for name in settings.policy_names]
        asked = [policy for policy in policies if policy.max_quality_loss is not None]
        baseline = settings.baseline_model
        if not asked or baseline is None:
            return cls(calibrations, abilities, {}, {})
        rows = {
            name: _against(baseline.name, of).rows(
                of.success_out_of_fold(priors[name]),
                abilities.get(baseline.name) or configured_ability(baseline, scorer),
                usd=_usd(of, settings.model_named(name), baseline, price),
            )
            for name, of in calibrations.items()
            if settings.model_named(name).tier == "local"
        }
        controls = {policy.name: _controls(policy, rows) for policy in asked}
        for policy in asked:
            _say(policy, controls[policy.name])
        allowances = {
            name: {
                model: _allowance(found.thresholds, rows[model])
                for model, found in by_model.items()
                if found.thresholds is not None
            }
            for name, by_model in controls.items()
        }
        first = next(iter(rows), None)
        reference = None if first is None else _reference(calibrations[first], rows[first], scorer)
        return cls(calibrations, abilities, controls, allowances, reference, first)


NO_BUDGETS = Budgets({}, {}, {}, {})


def _reference(of: Calibration, rows: CalibrationRows, scorer: Scorer) -> ScoreReference:
    difficulty = scorer.difficulty(of.skills)
    return ScoreReference.of(
        {"difficulty": float(hard), "gap": float(gap), "known": bool(known)}
        for hard, gap, known in zip(difficulty, rows.gap, of.known, strict=True)
    )


def _against(baseline: str, of: Calibration) -> Calibration:
    """Return the calibration for this baseline: where answers were held against another one's, it counts as always
    right."""
    if of.baseline in (None, baseline):
        return of
    log.warning(
        "%s was calibrated against %s, and the baseline is %s, which counts as always right until you run: "
        "smallfirst calibrate --model %s --baseline %s",
        of.model,
        of.baseline,
        baseline,
        of.model,
        baseline,
    )
    return replace(of, baseline=None, baseline_success=np.ones(len(of), np.float32))


def _controls(policy: Policy, rows: Mapping[str, CalibrationRows]) -> dict[str, RiskControl]:
    """Choose for each model. Several share the budget and the error probability, each as if it alone answered.

    Where the policy checks no answer there is no cascade.
    """
    assert policy.max_quality_loss is not None
    shares = max(1, len(rows))
    confidence = 1 - (1 - policy.confidence) / shares
    if policy.cascade == "off":
        rows = {name: replace(of, confidence=np.full(len(of), np.nan)) for name, of in rows.items()}
    return {name: control(of, policy.max_quality_loss / shares, confidence) for name, of in rows.items()}


def _allowance(thresholds: Thresholds, rows: CalibrationRows) -> Allowance:
    route = rows.gap <= thresholds.max_gap
    cascade = ~route & (rows.gap <= thresholds.cascade_gap) & (rows.gap < UNKNOWN_GAP)
    done = apply(rows, thresholds)
    kept = float((done.local & cascade).sum() / max(1, int(cascade.sum())))
    return Allowance(thresholds.max_gap, thresholds.cascade_gap, thresholds.min_confidence, kept)


def _load(settings: Settings, scorer: Scorer) -> dict[str, Calibration]:
    found = {}
    for model in settings.models:
        path = calibration_path(settings.calibrations, model.name)
        if not path.is_file():
            continue
        try:
            calibration = Calibration.load(path)
        except CalibrationError as exc:
            log.warning("%s", exc)
            continue
        if calibration.artefact != scorer.version:
            log.warning(
                "%s was made with another classifier and is left out. Make it again: smallfirst calibrate --model %s",
                path,
                model.name,
            )
            continue
        found[model.name] = calibration
    return found


def configured_ability(model: AnyModelSettings, scorer: Scorer) -> Ability:
    """Return the ability that stands for a model that was not calibrated here.

    Raises:
        SettingsError: Its `ability` names a model that nobody measured.
    """
    if model.ability is None:
        return scorer.ability_for(model.name, model.tier)
    named = scorer.ability_named(model.ability)
    if named is None:
        close = ", ".join(get_close_matches(model.ability, scorer.abilities, cutoff=0.4)) or "weak, strong"
        raise SettingsError(
            f"models: '{model.name}': ability: nobody measured '{model.ability}'. Close to it: {close}. "
            "Measure it yourself: smallfirst calibrate"
        )
    return named


def _usd(
    of: Calibration, model: AnyModelSettings, baseline: AnyModelSettings, price: Price
) -> tuple[FloatArray, FloatArray]:
    """Return what asking the model and the baseline costs, a value a row; 0 and 1 where a price is unknown."""

    def costs(spec: AnyModelSettings) -> Sequence[float | None]:
        tokens = zip(of.input_tokens.tolist(), of.output_tokens.tolist(), strict=True)
        return [price(spec, Usage(int(i), int(o), cpu_seconds=0.0)) for i, o in tokens]

    local, cloud = costs(model), costs(baseline)
    if any(cost is None for cost in (*local, *cloud)):
        return np.zeros(len(of), np.float32), np.ones(len(of), np.float32)
    return np.array(local, np.float32), np.array(cloud, np.float32)


def _say(policy: Policy, found: Mapping[str, RiskControl]) -> None:
    """Log what a budget comes to, so that nobody wonders why all goes to the cloud."""
    if not found:
        log.warning(
            "policy '%s' has a risk budget, but no local model is calibrated: everything goes to the cloud. "
            "Run: smallfirst calibrate --model NAME",
            policy.name,
        )
    for model, of in found.items():
        if of.thresholds is None:
            log.warning("policy '%s': %s gets nothing: %s", policy.name, model, of.reason)
        else:
            log.info(
                "policy '%s': %s answers %.0f %% of requests like the %d that it was calibrated on",
                policy.name,
                model,
                100 * of.local_share,
                of.n,
            )
