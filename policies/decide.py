"""The decision: a pure function of what a request needs, how it scored, the policy, and who could answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .policy import Policy
from .types import Attempt, Candidate, Decision, Needs, Refusal, Score

# Room that an answer needs where the caller sets no limit, in tokens.
OUTPUT_RESERVE = 256


def decide(
    needs: Needs, score: Score | None, policy: Policy, candidates: Sequence[Candidate]
) -> Decision | Refusal:
    """Choose who answers, in which order.

    Args:
        needs: The request's hard constraints.
        score: P(success) by model name; may be None only for a pinned model.
        policy: What the operator wants.
        candidates: The configured models in the operator's order: of two that would do, the first is taken.

    Returns:
        A plan with at least one attempt, or a refusal that says what would have been needed.
    """
    excluded = {c.name: why for c in candidates if (why := _why_not(c, needs, policy)) is not None}
    able = [c for c in candidates if c.name not in excluded]
    if needs.pinned is not None:
        return _pinned(needs, policy, candidates, excluded)
    local = [c for c in able if c.tier == "local" and c.available]
    cloud = [c for c in able if c.tier == "cloud" and c.available]
    if not local and not cloud:
        return _refuse(needs, policy, candidates, excluded)

    def plan(first: Iterable[Candidate], then: Iterable[Candidate], code: str, reason: str) -> Decision:
        attempts = tuple(Attempt(c.name, c.tier) for c in (*first, *then))
        return Decision(attempts, reason, code, policy.name, score)

    if _local_only(needs, policy):
        return plan(_best_first(local, score), (), "privacy_local", "privacy asks for a local model")
    if not cloud:
        code, reason = _why_no_cloud(candidates, excluded)
        if not policy.fallback_to_local:
            return Refusal("no_model_available", f"{reason}, and the policy does not fall back", policy.name)
        return plan(_best_first(local, score), (), code, f"{reason}; the local model answers")
    if not local:
        code, reason = _why_no_local(candidates, excluded)
        return plan(cloud, (), code, reason)
    spare = local if policy.fallback_to_local else []
    chosen, code, reason = _by_score(local, cloud[0], score, policy)
    if chosen is not None:
        return plan([chosen], cloud, code, reason)
    return plan(cloud, _best_first(spare, score), code, reason)


def _by_score(
    local: Sequence[Candidate], cloud: Candidate, score: Score | None, policy: Policy
) -> tuple[Candidate | None, str, str]:
    """Return the local model to take, or None for the cloud, with code and reason."""
    if score is None or not score.known:
        target = local[0] if policy.uncertain == "local" else None
        where = "local" if target else "cloud"
        return (
            target,
            f"uncertain_{where}",
            f"unlike anything measured; '{policy.name}' sends that to the {where}",
        )
    strong = score.success.get(cloud.name, 1.0)
    for model in local:
        weak = score.success.get(model.name, 0.0)
        if weak >= policy.min_local_success and strong - weak <= policy.max_gap:
            return (
                model,
                "local_likely_right",
                f"{_task(score)}: {model.name} is likely to be right "
                f"({weak:.2f}, at least {policy.min_local_success:.2f})",
            )
    best = max((score.success.get(model.name, 0.0) for model in local), default=0.0)
    if best < policy.min_local_success:
        why = f"too hard for the local model ({best:.2f}, under {policy.min_local_success:.2f})"
        return None, "local_likely_wrong", f"{_task(score)}: {why}"
    why = f"the cloud is likely to do better ({strong:.2f} against {best:.2f})"
    return None, "cloud_likely_better", f"{_task(score)}: {why}"


def _task(score: Score) -> str:
    return score.task.replace("_", " ")


def _local_only(needs: Needs, policy: Policy) -> bool:
    return needs.privacy == "local" or policy.privacy == "local"


def _best_first(local: Sequence[Candidate], score: Score | None) -> list[Candidate]:
    """Order by P(success); the operator's order where it is unknown or equal (sorting is stable)."""
    if score is None or not score.known:
        return list(local)
    return sorted(local, key=lambda c: -score.success.get(c.name, 0.0))


def _why_not(candidate: Candidate, needs: Needs, policy: Policy) -> str | None:
    """Return why a model cannot take the request: `privacy`, `context`, or the missing capability."""
    if candidate.tier == "cloud" and _local_only(needs, policy):
        return "privacy"
    missing = needs.capabilities - candidate.capabilities
    if missing:
        return min(missing)
    if needs.input_tokens + (needs.output_tokens or 0) > candidate.context_tokens:
        return "context"
    if needs.output_tokens is None and needs.input_tokens + OUTPUT_RESERVE > candidate.context_tokens:
        return "context"
    return None


def _pinned(
    needs: Needs, policy: Policy, candidates: Sequence[Candidate], excluded: dict[str, str]
) -> Decision | Refusal:
    target = next(c for c in candidates if c.name == needs.pinned)
    if target.name in excluded:
        return _refuse(needs, policy, [target], {target.name: excluded[target.name]})
    return Decision(
        (Attempt(target.name, target.tier),), "the caller named this model", "pinned", policy.name, None
    )


def _why_no_cloud(candidates: Sequence[Candidate], excluded: dict[str, str]) -> tuple[str, str]:
    clouds = [c for c in candidates if c.tier == "cloud"]
    if not clouds:
        return "cloud_not_configured", "no cloud model is configured"
    if any(c.name not in excluded for c in clouds):
        return "cloud_down", "the cloud is down"
    return "cloud_unable", f"no cloud model can take it ({_words(excluded[clouds[0].name])})"


def _why_no_local(candidates: Sequence[Candidate], excluded: dict[str, str]) -> tuple[str, str]:
    locals_ = [c for c in candidates if c.tier == "local"]
    if not locals_:
        return "local_not_configured", "no local model is configured"
    if any(c.name not in excluded for c in locals_):
        return "local_down", "the local model is not available"
    return "local_unable", f"the local model cannot take it ({_words(excluded[locals_[0].name])})"


def _words(why: str) -> str:
    return "too long for its context" if why == "context" else f"needs {why.replace('_', ' ')}"


# What to tell the caller's program to change, by the capability that is missing.
_PARAM = {
    "tools": "tools",
    "json_schema": "response_format",
    "json_object": "response_format",
    "logprobs": "logprobs",
    "multiple": "n",
}


def _refuse(
    needs: Needs, policy: Policy, candidates: Sequence[Candidate], excluded: dict[str, str]
) -> Refusal:
    """Say what is missing, by the constraint that would have to give way."""
    reasons = set(excluded.values())
    if len(excluded) < len(candidates) or not candidates:
        return Refusal("no_model_available", "no model that could take it is available", policy.name)
    if "privacy" in reasons:
        others = sorted(reasons - {"privacy"})
        what = f": the local model cannot take it ({_words(others[0])})" if others else ": none is configured"
        return Refusal(
            "privacy_local_only",
            f"privacy asks for a local model{what}",
            policy.name,
            "metadata.privacy",
            excluded,
        )
    if "context" in reasons:
        longest = max(c.context_tokens for c in candidates)
        return Refusal(
            "context_length_exceeded",
            f"the conversation has about {needs.input_tokens} tokens and asks for "
            f"{needs.output_tokens or OUTPUT_RESERVE} more; the longest context configured has {longest}",
            policy.name,
            "messages",
            excluded,
        )
    missing = sorted(reasons)
    param = _PARAM.get(missing[0], "messages")
    return Refusal(
        "unsupported_capability",
        f"'{param}' needs a model with {' and '.join(missing)}; none is configured",
        policy.name,
        param,
        excluded,
    )
