"""Who can take a request at all, and what a caller is told where nobody can."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from .policy import Policy
from .types import Candidate, Needs, Refusal

# Room that an answer needs, in tokens, where the caller sets no lower limit.
OUTPUT_RESERVE = 256

# Why a model cannot take a request that others may send it.
_NOT_ALLOWED = "key"


def local_only(needs: Needs, policy: Policy) -> bool:
    """Whether the request must not leave the house."""
    return needs.privacy == "local" or policy.privacy == "local"


def why_local(needs: Needs, policy: Policy) -> str:
    """Say why a request that is `local_only` is."""
    if not needs.personal:
        return "privacy asks for a local model"
    return f"'{policy.name}' keeps {' and '.join(needs.personal)} in the house and asks for a local model"


def why_not(candidate: Candidate, needs: Needs, policy: Policy) -> str | None:
    """Return why a model cannot take the request: `privacy`, `context`, or the missing capability."""
    if needs.allowed is not None and candidate.name not in needs.allowed:
        return _NOT_ALLOWED
    if candidate.tier == "cloud" and local_only(needs, policy):
        return "privacy"
    missing = needs.capabilities - candidate.capabilities
    if missing:
        return min(missing)
    return "context" if needs.input_tokens + _reserved(candidate, needs) > candidate.context_tokens else None


def without_idle_limit(needs: Needs, candidates: Sequence[Candidate]) -> Needs:
    """Return what a request needs without a limit that no model's answer can reach: it says that there is none."""
    limit = needs.output_tokens
    if limit is None or any(limit < candidate.context_tokens for candidate in candidates):
        return needs
    return replace(needs, output_tokens=None)


def _reserved(candidate: Candidate, needs: Needs) -> int:
    """Return the room that an answer must have at least."""
    if needs.output_tokens is None:
        return OUTPUT_RESERVE
    if candidate.answer_tokens is None:
        return needs.output_tokens
    # One that finds too little room says so, and the next model answers: see `router.escalation`.
    return min(needs.output_tokens, OUTPUT_RESERVE)


def is_cramped(candidate: Candidate, needs: Needs) -> bool:
    """Whether an answer may well be cut by the model's context: better to ask another one, where there is one."""
    expected = candidate.answer_tokens or 0
    if needs.output_tokens is not None:
        expected = min(expected, needs.output_tokens)
    return needs.input_tokens + expected > candidate.context_tokens


def why_no_cloud(candidates: Sequence[Candidate], excluded: dict[str, str]) -> tuple[str, str]:
    """Return why no cloud model answers, as a code and in words.

    Args:
        candidates: All configured models.
        excluded: By name, why those that cannot take the request cannot; see `why_not`.
    """
    clouds = [c for c in candidates if c.tier == "cloud"]
    if not clouds:
        return "cloud_not_configured", "no cloud model is configured"
    if any(c.name not in excluded for c in clouds):
        return "cloud_down", "the cloud is down"
    return "cloud_unable", f"no cloud model can take it ({_words(excluded[clouds[0].name])})"


def why_no_local(candidates: Sequence[Candidate], excluded: dict[str, str]) -> tuple[str, str]:
    """Return why no local model answers, as `why_no_cloud` does."""
    locals_ = [c for c in candidates if c.tier == "local"]
    if not locals_:
        return "local_not_configured", "no local model is configured"
    if any(c.name not in excluded for c in locals_):
        return "local_down", "the local model is not available"
    return "local_unable", f"the local model cannot take it ({_words(excluded[locals_[0].name])})"


def _words(why: str) -> str:
    if why == _NOT_ALLOWED:
        return "the key does not allow it"
    return "too long for its context" if why == "context" else f"needs {why.replace('_', ' ')}"


# What to tell the caller's program to change, by the capability that is missing.
_PARAM = {
    "tools": "tools",
    "json_schema": "response_format",
    "json_object": "response_format",
    "logprobs": "logprobs",
    "multiple": "n",
}


def refuse(
    needs: Needs, policy: Policy, candidates: Sequence[Candidate], excluded: dict[str, str]
) -> Refusal:
    """Say what is missing, by the constraint that would have to give way."""
    # What the key does not allow is not there for its owner; what else stands in the way is told.
    candidates = [c for c in candidates if excluded.get(c.name) != _NOT_ALLOWED]
    if excluded and not candidates:
        said = "the key allows none of the models that could take it"
        return Refusal("model_not_allowed", said, policy.name, "model", excluded)
    excluded = {name: why for name, why in excluded.items() if why != _NOT_ALLOWED}
    reasons = set(excluded.values())
    if len(excluded) < len(candidates) or not candidates:
        return Refusal("no_model_available", "no model that could take it is available", policy.name)
    if "privacy" in reasons:
        others = sorted(reasons - {"privacy"})
        what = f": the local model cannot take it ({_words(others[0])})" if others else ": none is configured"
        return Refusal(
            "privacy_local_only",
            f"{why_local(needs, policy)}{what}",
            policy.name,
            "messages" if needs.personal else "metadata.privacy",
            excluded,
        )
    if "context" in reasons:
        longest = max(candidates, key=lambda c: c.context_tokens)
        return Refusal(
            "context_length_exceeded",
            f"the conversation has about {needs.input_tokens} tokens and asks for {_reserved(longest, needs)} more; "
            f"the longest context configured has {longest.context_tokens}",
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
