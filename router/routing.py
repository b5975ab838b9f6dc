"""From a request to a plan: which models may answer, in which order, and why. Runs nothing and does no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from smallfirst.policies import Candidate, Decision, Needs, Policy, Refusal, Score, decide
from smallfirst.policies.types import TaskKind

from .errors import CannotServe, ModelNotAllowed, ModelNotFound, ModelUnavailable, RequestError
from .health import ModelHealth
from .hints import Hints
from .money.expected import ExpectedCost
from .needs import needs_of
from .risk import NO_BUDGETS, Budgets, configured_ability
from .scoring import Scorer
from .scoring.features import Features
from .settings import (
    ADAPTER_MARK,
    AnyModelSettings,
    ClassifierSettings,
    CloudModelSettings,
    LocalModelSettings,
    Settings,
)
from .wire import ChatFields, ChatRequest

AUTO = "auto"

# What of a policy has no say in which answers are kept.
_SAME_ANSWERS = ("description", "explore", "hedge_after", "hedge_whole_after", "hedge_same_model")


class Target(msgspec.Struct, frozen=True):
    """What the caller's `model` stands for.

    Attributes:
        policy: The policy that decides.
        pinned: The model that the caller named, or None under `auto`.
        models: Who may answer; None: all.
        fingerprint: Stands for everything in the settings that changes who answers; part of the cache key.
    """

    policy: Policy
    pinned: str | None
    fingerprint: str
    models: frozenset[str] | None = None

    def only(self, models: frozenset[str]) -> Target:
        """Return the same target for a caller who may use these models alone."""
        # Under `auto` others may answer then, so that answers are not to be had from the same place in the cache.
        fingerprint = self.fingerprint if self.pinned else _fingerprint([self.fingerprint, sorted(models)])
        return replace(self, models=models, fingerprint=fingerprint)


class Plan(msgspec.Struct, frozen=True):
    """A decision with what it was made of."""

    decision: Decision
    input_tokens: int

    @property
    def task(self) -> TaskKind | None:
        """What kind of task it is; None where nothing was scored."""
        return None if self.decision.score is None else self.decision.score.task


class Routing:
    """Decides who answers.

    Args:
        settings: Models and policies.
        scorer: Gives P(success) per model.
        health: Knows which models are down.
        budgets: What risk budgets allow.
        expected: Predicts costs; default: they are unknown.
        specialists: By model: P(its answer is right) for requests that it was made for, None for all others.
        tightened: By how much more likely to be right local models must be, by policy; see `DriftMonitor`.
    """

    def __init__(
        self,
        settings: Settings,
        scorer: Scorer,
        health: ModelHealth,
        *,
        budgets: Budgets = NO_BUDGETS,
        expected: ExpectedCost | None = None,
        specialists: Mapping[str, Callable[[ChatFields], float | None]] | None = None,
        tightened: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        self._settings = settings
        self._budgets = budgets
        self._expected = expected or ExpectedCost(settings.models, lambda _model, _usage: None)
        self._specialists = dict(specialists or {})
        self._tightened = tightened
        self._scorer = scorer
        self._health = health
        self._models = {model.name: model for model in settings.models}
        self._abilities = {
            model.name: budgets.abilities.get(model.name) or configured_ability(model, scorer)
            for model in settings.models
        }
        baseline = settings.baseline_model
        self._baseline = None if baseline is None else baseline.name
        # By its own outcomes: those measured here, or those that the operator says stand for it.
        self._measured = {
            model.name: model.name in budgets.abilities or model.ability is not None
            for model in settings.models
        }
        self._targets = self._make_targets()

    def target(self, model: str) -> Target:
        """Resolve the `model` of a request.

        Raises:
            ModelNotFound: Neither a model nor `auto` nor `auto/<policy>`.
        """
        try:
            return self._targets[model]
        except KeyError:
            known = ", ".join(self.model_names)
            raise ModelNotFound(
                f"The model '{model[:100]}' does not exist. Available: {known}.", param="model"
            ) from None

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name that a client may put into `model`: `auto`, `auto/<policy>`, then the configured models."""
        return tuple(self._targets)

    def plan(self, request: ChatRequest, hints: Hints, target: Target, *, draw: float | None = None) -> Plan:
        """Score the request and decide.

        Args:
            request: The request.
            hints: Its labels.
            target: What its `model` stands for.
            draw: Uniform in [0, 1); decides whether the policy explores. None: it does not.

        Raises:
            CannotServe: No model may or can take it; says what would have been needed.
            ModelUnavailable: Those that could are down.
        """
        # Who names a model is not scored: only the length of the prompt matters then.
        features = self.features(request) if target.pinned is None else None
        input_tokens = self.input_tokens(request) if features is None else features.input_tokens
        needs = needs_of(request, hints, input_tokens=input_tokens, pinned=target.pinned)
        if target.models is not None:
            needs = replace(needs, allowed=target.models)
        score: Score | None = None
        special: dict[str, float] = {}
        if features is not None:
            score = self._scorer.score(features, self._abilities)
            special = self._special(request.fields)
            if special:
                success = {**score.success, **special}
                # A sure specialist knows the request; for the others it is as unknown as it was. A budget was not
                # calibrated with specialists.
                sure = (
                    target.policy.max_quality_loss is None
                    and max(special.values()) >= target.policy.min_local_success
                )
                score = replace(score, success=success, task="classification", known=score.known or sure)
        tightened = self._tightened(target.policy.name)
        costs = self._costs(request, hints, needs, score)
        decided = decide(
            needs,
            score,
            target.policy,
            self._candidates(special, target.pinned, costs, None if score is None else score.task),
            allowances=self._budgets.allowances.get(target.policy.name, {}),
            tightened=tightened,
            draw=draw,
        )
        if isinstance(decided, Refusal):
            raise _refused(decided, self._soonest())
        screening = request.screening
        if screening is not None and screening.redacts and any(a.tier == "cloud" for a in decided.attempts):
            decided = replace(decided, reason=f"{decided.reason}; {screening.reason}")
        return Plan(decided, input_tokens)

    def _soonest(self) -> float:
        """Return after how many seconds the first of the models that rest is asked again, where one does."""
        rests = [left for name in self._models if (left := self._health.rest_left(name))]
        return max(1.0, min(rests, default=5.0))

    def _special(self, fields: ChatFields) -> dict[str, float]:
        if fields.response_format is None:
            return {}
        found = {name: certainty(fields) for name, certainty in self._specialists.items()}
        return {name: certain for name, certain in found.items() if certain is not None}

    def _costs(
        self, request: ChatRequest, hints: Hints, needs: Needs, score: Score | None
    ) -> Mapping[str, float | None]:
        """Return what the request is expected to cost on each model, in US dollars; nothing for a pinned model."""
        if score is None:
            return {}
        return {
            name: self._expected.usd(
                name,
                score.task,
                input_tokens=needs.input_tokens,
                limit=needs.output_tokens,
                tenant=request.tenant,
                session=hints.session,
            )
            for name in self._models
        }

    def _candidates(
        self,
        special: Mapping[str, float],
        pinned: str | None,
        costs: Mapping[str, float | None],
        task: TaskKind | None,
    ) -> tuple[Candidate, ...]:
        """Return who could answer: specialists first, and only for what they were made for."""
        models = [m for m in self._settings.models if m.name not in self._specialists or m.name == pinned]
        specialists = [m for m in self._settings.models if m.name in special]
        return tuple(
            Candidate(
                name=model.name,
                tier=model.tier,
                context_tokens=model.context_tokens,
                capabilities=model.capabilities,
                available=self._health.available(model.name),
                measured=self._measured[model.name],
                usd=costs.get(model.name),
                baseline=model.name == self._baseline,
                # Servers elsewhere may want room for the whole of the caller's limit.
                answer_tokens=None
                if isinstance(model, CloudModelSettings)
                else self._expected.room(model.name, task),
            )
            for model in (*specialists, *models)
        )

    def features(self, request: ChatRequest) -> Features:
        """Read a request, unless it was read when its limits were looked at."""
        known = None if request.grant is None else request.grant.features
        return self._scorer.features(request) if known is None else known

    def input_tokens(self, request: ChatRequest) -> int:
        """Return an estimate of a prompt's tokens, tools and schema included."""
        known = None if request.grant is None else request.grant.features
        return self._scorer.input_tokens(request) if known is None else known.input_tokens

    def count_tokens(self, text: str) -> int:
        """Return an estimate of a text's tokens, for replies whose model counts none."""
        return self._scorer.count_tokens(text)

    def _make_targets(self) -> Mapping[str, Target]:
        settings = self._settings
        targets = {AUTO: self._auto(settings.policy_named(settings.policy))}
        for name in settings.policy_names:
            targets[f"{AUTO}/{name}"] = self._auto(settings.policy_named(name))
        default = settings.policy_named(settings.policy)
        for model in settings.models:
            targets[model.name] = Target(default, model.name, _fingerprint(_identity(model)))
            for adapter in model.adapters if isinstance(model, LocalModelSettings) else ():
                name = f"{model.name}{ADAPTER_MARK}{adapter}"
                targets[name] = Target(default, model.name, _fingerprint([*_identity(model), adapter]))
        return targets

    def _auto(self, policy: Policy) -> Target:
        models = [_identity(model) for model in self._settings.models]
        rules = policy.model_dump(mode="json", exclude={*_SAME_ANSWERS})
        allowed = self._budgets.allowances.get(policy.name, {})
        scores = {name: ability.to_dict() for name, ability in self._abilities.items()}
        return Target(
            policy,
            None,
            f"{AUTO}:{_fingerprint([rules, models, self._baseline, scores, self._scorer.version, allowed])}",
        )


def _identity(model: AnyModelSettings) -> list[object]:
    """What makes a model answer as it does; no secrets."""
    if isinstance(model, LocalModelSettings):
        adapters = {name: adapter.model_dump() for name, adapter in model.adapters.items()}
        limits = [model.context_tokens, model.max_output_tokens, model.system_prompt]
        return [model.name, model.kind, model.source, model.sha256, *limits, adapters]
    if isinstance(model, ClassifierSettings):
        return [model.name, model.kind, str(model.path), model.path.stat().st_mtime_ns]
    return [model.name, model.kind, model.base_url, model.model]


def _fingerprint(value: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(value, order="sorted"), digest_size=12).hexdigest()


def _refused(refusal: Refusal, soonest: float) -> RequestError:
    """Return the error that says so; `soonest`: after how many seconds a model may be back."""
    message = f"{refusal.reason[0].upper()}{refusal.reason[1:]}."
    if refusal.code == "no_model_available":
        return ModelUnavailable(message, retry_after=soonest, code=refusal.code)
    if refusal.code == "model_not_allowed":
        return ModelNotAllowed(message)
    return CannotServe(message, param=refusal.param, code=refusal.code)
