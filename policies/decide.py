"""The decision: a pure function of what a request needs, how it scored, the policy, and who could answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from .constraints import (
    is_cramped,
    local_only,
    refuse,
    why_local,
    why_no_cloud,
    why_no_local,
    why_not,
    without_idle_limit,
)
from .policy import Policy
from .types import Allowance, Attempt, Candidate, Decision, Needs, Refusal, Score

_NOTHING: Mapping[str, Allowance] = MappingProxyType({})


def decide(
    needs: Needs,
    score: Score | None,
    policy: Policy,
    candidates: Sequence[Candidate],
    *,
    allowances: Mapping[str, Allowance] = _NOTHING,
    tightened: float = 0.0,
    draw: float | None = None,
) -> Decision | Refusal:
    """Choose who answers, in which order.

    Args:
        needs: The request's hard constraints.
        score: P(success) by model name; may be None only for a pinned model.
        policy: What the operator wants.
        candidates: The configured models in the operator's order: of two that would do, the first is taken.
        allowances: Under a risk budget, what it allows the local models, by name; those that are not there get
            nothing.
        tightened: How much more likely to be right local models must be than is asked; over 1, nothing stays local.
        draw: Uniform in [0, 1); decides whether the policy explores. None: it does not.

    Returns:
        A plan with at least one attempt, or a refusal that says what would have been needed.
    """
    decided = _decided(
        needs, score, policy, candidates, allowances=allowances, tightened=tightened, draw=draw
    )
    hedge = policy.hedge(whole=needs.whole)
    return decided if isinstance(decided, Refusal) or not hedge else _hedged(decided, policy, hedge)


def _hedged(decision: Decision, policy: Policy, seconds: float) -> Decision:
    """Return a decision whose cloud attempts are hedged, where there is anybody to hedge them with."""
    attempts = list(decision.attempts)
    others = policy.hedge_same_model
    for at in reversed(range(len(attempts))):
        if attempts[at].tier == "cloud":
            attempts[at] = replace(attempts[at], hedge=seconds if others else 0.0)
            others = True
    return replace(decision, attempts=tuple(attempts))


def _decided(
    needs: Needs,
    score: Score | None,
    policy: Policy,
    candidates: Sequence[Candidate],
    *,
    allowances: Mapping[str, Allowance],
    tightened: float,
    draw: float | None,
) -> Decision | Refusal:
    needs = without_idle_limit(needs, candidates)
    excluded = {c.name: why for c in candidates if (why := why_not(c, needs, policy)) is not None}
    if needs.pinned is not None:
        return _pinned(needs, policy, candidates, excluded)
    able = [c for c in candidates if c.name not in excluded and c.available]
    if not able:
        return refuse(needs, policy, candidates, excluded)
    local = [c for c in able if c.tier == "local"]
    cloud = [c for c in able if c.tier == "cloud"]
    if local_only(needs, policy):
        code = "pii_local_only" if needs.personal else "privacy_local"
        choice = _Choice(code, why_local(needs, policy))
        return _plan(_best_first(local, score), choice, policy, score)
    if not cloud:
        return _without_cloud(local, score, policy, why_no_cloud(candidates, excluded))
    reference = _reference(cloud, policy)
    cloud = _cheapest_first(cloud, reference, score, policy)
    cramped = {c.name: "context" for c in local if is_cramped(c, needs)}
    if len(cramped) == len(local):
        spare = _best_first(local, score) if policy.fallback_to_local else []
        choice = _Choice(*why_no_local(candidates, {**excluded, **cramped}))
        return _plan([*cloud, *spare], choice, policy, score)
    local = [c for c in local if c.name not in cramped]
    if policy.max_quality_loss is None:
        choice = _by_score(local, reference, score, policy, tightened)
    else:
        # Down or unable, it is still what was calibrated against; another one's score would move the thresholds.
        baseline = next((c for c in candidates if c.baseline), reference)
        choice = _by_budget(local, baseline, score, policy, allowances, tightened)
    if _dearer(choice, cloud[0]):
        choice = _Choice("cloud_cheaper", f"{cloud[0].name} is expected to cost less")
    choice = _explore(choice, _best_first(local, score)[0], policy, tightened, draw)
    if choice.local is not None:
        return _plan([choice.local, *cloud], choice, policy, score)
    spare = _best_first(local, score) if policy.fallback_to_local else []
    return _plan([*cloud, *spare], choice, policy, score)


class _Choice(msgspec.Struct, frozen=True):
    """Why a plan is as it is; the local model that answers first, None where none was chosen; how it is checked; how
    likely it was."""

    code: str
    reason: str
    local: Candidate | None = None
    check: Allowance | None = None
    propensity: float = 1.0


_EXPLORED = "explored"


def _explore(
    choice: _Choice, local: Candidate, policy: Policy, tightened: float, draw: float | None
) -> _Choice:
    """Return the choice, or with half of the policy's rate the other tier's: of two tiers, a lot has each as often.

    Asking the cloud in the local model's place costs money and no quality; the other way round it costs quality, which
    a risk budget, or one that drift has used up, has not to give.
    """
    spared = policy.max_quality_loss is not None or tightened > 0
    if draw is None or not policy.explore or (choice.local is None and spared):
        return choice
    other = policy.explore / 2
    if draw >= other:
        return replace(choice, propensity=1 - other)
    where = "cloud" if choice.local is not None else "local model"
    reason = f"drawn by lot for the {where}: '{policy.name}' explores {policy.explore:.3g} of its requests"
    return _Choice(_EXPLORED, reason, local if choice.local is None else None, propensity=other)


def _without_cloud(
    local: Sequence[Candidate], score: Score | None, policy: Policy, why: tuple[str, str]
) -> Decision | Refusal:
    """Let the local models answer, where the policy falls back to them; `why`: a code, and words."""
    code, reason = why
    if not policy.fallback_to_local:
        return Refusal("no_model_available", f"{reason}, and the policy does not fall back", policy.name)
    choice = _Choice(code, f"{reason}; the local model answers")
    return _plan(_best_first(local, score), choice, policy, score)


def _plan(order: Sequence[Candidate], choice: _Choice, policy: Policy, score: Score | None) -> Decision:
    attempts = _attempts(order, policy) if choice.check is None else _checked(order, policy, choice.check)
    explored = choice.code == _EXPLORED
    return Decision(attempts, choice.reason, choice.code, policy.name, score, choice.propensity, explored)


def _attempts(order: Sequence[Candidate], policy: Policy) -> tuple[Attempt, ...]:
    """Return the attempts; local answers are checked where somebody comes after who may do better."""
    attempts = [Attempt(c.name, c.tier) for c in order]
    # Under a risk budget an answer stands or is checked as it was calibrated, see `_checked`.
    least, samples = (
        (policy.min_confidence, policy.self_consistency) if policy.max_quality_loss is None else (0.0, 1)
    )
    asked = least > 0 or samples > 1
    if policy.cascade == "always" or (policy.cascade == "auto" and asked):
        for at, following in enumerate(order[1:]):
            if attempts[at].tier == "local":
                attempts[at] = replace(
                    attempts[at],
                    min_confidence=least,
                    samples=samples,
                    valid=True,
                    early=policy.early_cloud if following.tier == "cloud" else 0.0,
                )
    return tuple(attempts)


def _checked(order: Sequence[Candidate], policy: Policy, check: Allowance) -> tuple[Attempt, ...]:
    """Return the attempts of a cascade under a risk budget: only the first one's answer is checked."""
    first, *rest = (Attempt(c.name, c.tier) for c in order)
    first = replace(
        first, min_confidence=check.min_confidence, sure=True, valid=True, early=policy.early_cloud
    )
    return (first, *rest)


def _reference(cloud: Sequence[Candidate], policy: Policy) -> Candidate:
    """Return the cloud model that others are held against: the operator's first one; under a risk budget the baseline,
    which it was calibrated on."""
    if policy.max_quality_loss is None:
        return cloud[0]
    return next((c for c in cloud if c.baseline), cloud[0])


def _cheapest_first(
    cloud: Sequence[Candidate], reference: Candidate, score: Score | None, policy: Policy
) -> list[Candidate]:
    """Return the cloud models, first the one to ask: the cheapest that is about as good as the reference.

    Only where the outcomes of both are known may another model take the reference's place, and none under a risk
    budget.
    """
    first = reference
    may_be_another = policy.max_quality_loss is None and reference.measured and reference.usd is not None
    if may_be_another and score is not None and score.known:
        least = score.success.get(reference.name, 1.0) - policy.max_cloud_gap
        able = [
            c for c in cloud if c.measured and c.usd is not None and score.success.get(c.name, 0.0) >= least
        ]
        first = min((reference, *able), key=lambda c: c.usd if c.usd is not None else float("inf"))
    return [first, *(c for c in cloud if c is not first)]


def _dearer(choice: _Choice, cloud: Candidate) -> bool:
    """Whether asking the local model, and the cloud after it where that must be, costs more than the cloud alone."""
    if choice.local is None or choice.local.usd is None or cloud.usd is None:
        return False
    escalated = 0.0 if choice.check is None else 1 - choice.check.kept
    return choice.local.usd + escalated * cloud.usd > cloud.usd


def _by_budget(
    local: Sequence[Candidate],
    baseline: Candidate,
    score: Score | None,
    policy: Policy,
    allowances: Mapping[str, Allowance],
    tightened: float,
) -> _Choice:
    """Choose a local model, or none, under the risk budget."""
    budget = f"quality loss of at most {policy.max_quality_loss:g}"
    allowed = [c for c in local if c.name in allowances]
    if not allowed:
        return _Choice("budget_not_met", f"no calibration shows that local answers keep a {budget}")
    if score is None or not score.known:
        return _Choice("uncertain_cloud", f"unlike anything measured, and a {budget} is asked for")
    strong = score.success.get(baseline.name, 1.0)
    for model in allowed:
        rule = allowances[model.name]
        gap = strong - score.success.get(model.name, 0.0) + tightened
        where = f"{_task(score)}: {baseline.name} leads {model.name} by {gap:.2f}"
        if gap <= rule.max_gap:
            reason = f"{where}, at most {rule.max_gap:.2f} under a {budget}"
            return _Choice("within_budget", reason, model)
        if gap <= rule.cascade_gap:
            reason = f"{where}; its answer is checked under a {budget}"
            return _Choice("within_budget_checked", reason, model, rule)
    return _Choice("over_budget", f"{where}, too much for a {budget}")


def _by_score(
    local: Sequence[Candidate], cloud: Candidate, score: Score | None, policy: Policy, tightened: float
) -> _Choice:
    """Choose a local model, or none, by P(success) of each and of this cloud model."""
    if policy.cascade == "always" and tightened <= 1:
        first = _best_first(local, score)[0]
        return _Choice("local_first", f"'{policy.name}' asks {first.name} first and checks its answer", first)
    if score is None or not score.known:
        where = "local" if policy.uncertain == "local" and not tightened else "cloud"
        reason = f"unlike anything measured; '{policy.name}' sends that to the {where}"
        return _Choice(f"uncertain_{where}", reason, local[0] if where == "local" else None)
    strong = score.success.get(cloud.name, 1.0)
    for model in local:
        weak = score.success.get(model.name, 0.0)
        if weak - tightened >= policy.min_local_success and strong - weak + tightened <= policy.max_gap:
            why = f"{model.name} is likely to be right ({weak:.2f}, at least {policy.min_local_success:.2f})"
            return _Choice("local_likely_right", f"{_task(score)}: {why}", model)
    best = max((score.success.get(model.name, 0.0) for model in local), default=0.0)
    if best < policy.min_local_success:
        why = f"too hard for the local model ({best:.2f}, under {policy.min_local_success:.2f})"
        return _Choice("local_likely_wrong", f"{_task(score)}: {why}")
    why = f"the cloud is likely to do better ({strong:.2f} against {best:.2f})"
    return _Choice("cloud_likely_better", f"{_task(score)}: {why}")


def _task(score: Score) -> str:
    return score.task.replace("_", " ")


def _best_first(local: Sequence[Candidate], score: Score | None) -> list[Candidate]:
    """Order by P(success); the operator's order where it is unknown or equal (sorting is stable)."""
    if score is None or not score.known:
        return list(local)
    return sorted(local, key=lambda c: -score.success.get(c.name, 0.0))


def _pinned(
    needs: Needs, policy: Policy, candidates: Sequence[Candidate], excluded: dict[str, str]
) -> Decision | Refusal:
    target = next(c for c in candidates if c.name == needs.pinned)
    if target.name in excluded:
        return refuse(needs, policy, [target], {target.name: excluded[target.name]})
    return Decision(
        (Attempt(target.name, target.tier),), "the caller named this model", "pinned", policy.name, None
    )
