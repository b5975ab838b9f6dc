"""One HTTP request's way past the gate: what its key allows, what it reserves, and what the answer's headers say."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from smallfirst.policies.constraints import OUTPUT_RESERVE

from ..errors import ModelNotAllowed, OverLimit
from ..money.usage import Usage, tier_name
from ..routing import AUTO, Target
from .gate import Gate
from .grant import Grant
from .headers import RateHeaders
from .keys import VirtualKey
from .limits import NANO, Demand, Level, Settlement, Verdict, demand_of

if TYPE_CHECKING:
    from ..gateway import Gateway
    from ..settings import AnyModelSettings
    from ..wire import ChatRequest

_THRIFTY = "thrifty"

# How limits are called in a refusal.
_WORDS = {
    "requests": "requests a minute",
    "tokens": "tokens a minute",
    "concurrent": "requests at the same time",
    "requests_total": "requests",
    "requests_day": "requests a day",
    "usd_day": "US dollars a day",
    "usd_month": "US dollars a month",
}
_RATES = ("requests", "tokens", "concurrent")


class Admission:
    """What one HTTP request may do. It may ask several times: for each prompt of a list.

    Args:
        gate: Whose key it is.
        key: None where no key is needed: everything may be asked.
    """

    def __init__(self, gate: Gate | None = None, key: VirtualKey | None = None) -> None:
        self._gate = gate
        self.key = key
        self._verdict: Verdict | None = None
        self._extra: dict[str, str] = {}

    def target(self, gateway: Gateway, model: str) -> Target:
        """Resolve a request's `model` as the key may use it.

        Raises:
            ModelNotFound: There is none of that name.
            ModelNotAllowed: The key may not use it.
        """
        target = gateway.routing.target(self._name(gateway, model))
        if self.key is None:
            return target
        rules = self.key.rules
        if target.pinned is None:
            if rules.policies is not None and target.policy.name not in rules.policies:
                raise ModelNotAllowed(
                    f"The key may not use the policy '{target.policy.name}'. Allowed: {', '.join(rules.policies)}."
                )
            return target
        allowed = self.models(gateway)
        if allowed is not None and target.pinned not in allowed:
            why = (
                "has a budget in US dollars, and the price of '{}' is not known"
                if self._may(target.pinned)
                else ("may not use the model '{}'")
            )
            raise ModelNotAllowed(f"The key {why.format(target.pinned)}.")
        return target

    def models(self, gateway: Gateway) -> frozenset[str] | None:
        """Return the models that may answer the key's requests; None: all.

        Under a budget in US dollars those whose price is not known are left out: what they cost could not be counted.
        """
        if self.key is None:
            return None
        if self.key.rules.models is None and not self.key.rules.in_usd:
            return None
        return frozenset(
            model.name
            for model in gateway.settings.models
            if self._may(model.name) and (not self.key.rules.in_usd or gateway.expected.priced(model.name))
        )

    def allows(self, gateway: Gateway, model: str) -> bool:
        """Whether the key may use what a name of `model` stands for."""
        try:
            self.target(gateway, model)
        except ModelNotAllowed:
            return False
        return True

    @asynccontextmanager
    async def admitted(self, gateway: Gateway, request: ChatRequest) -> AsyncIterator[ChatRequest]:
        """Admit a request while its answer begins; gives the request with what it was granted.

        Raises:
            ModelNotFound, ModelNotAllowed: As of `target`.
            OverLimit: A limit or budget of the key stands in the way.
            LimitsUnavailable: It cannot be counted now.
        """
        admitted = await self.admit(gateway, request)
        try:
            yield admitted
        except BaseException:
            if admitted.grant is not None:
                admitted.grant.release()
            raise

    async def admit(self, gateway: Gateway, request: ChatRequest) -> ChatRequest:
        """As `admitted`; the gateway settles the grant when it records the request."""
        if self.key is None:
            return request
        allowed = self.allowed(gateway, request)
        grant, rules = allowed.grant, self.key.rules
        if grant is not None and rules.limited:
            target = gateway.routing.target(grant.target or request.fields.model)
            tokens, nano_usd = self._estimate(gateway, allowed, grant, target)
            verdict = await self._reserve(gateway, grant, tokens, nano_usd)
            if verdict.spent is not None and verdict.spent >= rules.thrifty_at:
                self._save(grant, target, verdict.spent)
        return allowed

    def allowed(self, gateway: Gateway, request: ChatRequest) -> ChatRequest:
        """Return a request with what the key allows; nothing is counted.

        Raises:
            ModelNotFound, ModelNotAllowed: As of `target`.
        """
        if self.key is None:
            return request
        self.target(gateway, request.fields.model)
        name = self._name(gateway, request.fields.model)
        return replace(request, grant=Grant(self.key.id, target=name, models=self.models(gateway)))

    def _estimate(
        self, gateway: Gateway, request: ChatRequest, grant: Grant, target: Target
    ) -> tuple[int, int]:
        """Return what a request may take: tokens, and billionths of a dollar on the dearest model that may answer.

        Its prompt is counted by our tokenizer, its answer is as long as the caller allows; where the caller sets no
        limit, as long as deciding reserves room for. A service tier that the caller asks for counts where it is
        dearer and its price is known. Where the policy hedges, two models may be asked at once, and both are in it.
        """
        assert self.key is not None
        rules = self.key.rules
        if rules.tpm is None and not rules.in_usd:
            return 0, 0
        # Deciding reads the same again: it is handed on.
        grant.features = gateway.routing.features(request)
        prompt = grant.features.input_tokens
        fields = request.fields
        # Of both names the larger: which of them a server heeds is its own affair.
        longest = max(fields.max_tokens or 0, fields.max_completion_tokens or 0) or OUTPUT_RESERVE
        answer = longest * (fields.n or 1)
        policy = target.policy
        hedged = policy.hedge(whole=not fields.stream) and (policy.hedge_same_model or not target.pinned)
        calls = 2 if hedged else 1
        tokens = calls * (prompt + answer)
        if not rules.in_usd:
            return tokens, 0
        usage = Usage(prompt, answer, cpu_seconds=0.0)
        tier = tier_name(request.body.get("service_tier"))
        asked_tier = Usage(prompt, answer, service_tier=tier, cpu_seconds=0.0)
        costs = sorted(
            max(gateway.prices.price(model, each) or 0.0 for each in (usage, asked_tier))
            for model in _asked(gateway, target, grant.models)
        )
        if policy.hedge_same_model:
            costs += costs[-1:]
        return tokens, math.ceil(sum(costs[-calls:]) * NANO)

    async def count(self, gateway: Gateway, *, tokens: int = 0) -> Grant | None:
        """Admit what no chat model is asked for and costs nothing: embeddings, moderation.

        Raises:
            OverLimit, LimitsUnavailable: As of `admitted`.
        """
        if self.key is None or not self.key.rules.limited:
            return None
        grant = Grant(self.key.id)
        await self._reserve(gateway, grant, tokens, 0)
        return grant

    def headers(self, names: RateHeaders) -> dict[str, str]:
        """Return what the answer's headers say of the limits; nothing where none was counted."""
        if self._verdict is None or self._gate is None:
            return {}
        return {**names(self._verdict, self._gate.clock()), **self._extra}

    async def _reserve(self, gateway: Gateway, grant: Grant, tokens: int, nano_usd: int) -> Verdict:
        assert self._gate is not None
        assert self.key is not None
        await self._gate.ready()
        demand = demand_of(
            self.key.id,
            self.key.tenant,
            self.key.rules,
            lease=uuid.uuid4().hex,
            now=self._gate.clock(),
            tokens=tokens,
            nano_usd=nano_usd,
        )
        verdict = self._verdict = await self._gate.limiter.admit(demand)
        if not verdict.admitted:
            gateway.metrics.refused(verdict.refused_by or "")
            exc = _refusal(demand, verdict)
            if exc.type == "insufficient_quota" or exc.retry_after is None:
                # The clients of OpenAI and Anthropic try a 429 again unless they are told not to.
                self._extra["x-should-retry"] = "false"
            raise exc
        limiter = self._gate.limiter

        def settle(used: int | None, cost: int | None) -> None:
            limiter.settle(Settlement(demand, verdict, used, cost))

        grant.settle = settle
        return verdict

    def _save(self, grant: Grant, target: Target, spent: float) -> None:
        """Let `thrifty` decide, where a policy decides that keeps no data in the house."""
        assert self.key is not None
        policies = self.key.rules.policies
        if (
            target.pinned is not None
            or target.policy.privacy == "local"
            or target.policy.pii != "off"
            or target.policy.name == _THRIFTY
            or (policies is not None and _THRIFTY not in policies)
        ):
            return
        grant.target = f"{AUTO}/{_THRIFTY}"
        grant.thrift = f"{spent:.0%} of the key's budget is used, so '{_THRIFTY}' decides"
        self._extra["x-smallfirst-budget-policy"] = _THRIFTY

    def _may(self, model: str) -> bool:
        assert self.key is not None
        return self.key.rules.models is None or model in self.key.rules.models

    def _name(self, gateway: Gateway, model: str) -> str:
        """Return what a request's `model` stands for: `auto` is the key's first policy where the default is not its."""
        if model != AUTO or self.key is None or self.key.rules.policies is None:
            return model
        policies = self.key.rules.policies
        return AUTO if gateway.settings.policy in policies else f"{AUTO}/{policies[0]}"


def _asked(gateway: Gateway, target: Target, models: frozenset[str] | None) -> list[AnyModelSettings]:
    """Return the models that a request may come to."""
    configured = gateway.settings.models
    if target.pinned is not None:
        return [model for model in configured if model.name == target.pinned]
    local = target.policy.privacy == "local"
    return [
        model
        for model in configured
        if (models is None or model.name in models) and (not local or model.tier == "local")
    ]


def _refusal(demand: Demand, verdict: Verdict) -> OverLimit:
    name = verdict.refused_by or ""
    wait = verdict.retry_after if math.isfinite(verdict.retry_after) else None
    level = _level(demand, verdict, name)
    limit = (
        "" if level is None else f"{level.limit / NANO:g} " if name.startswith("usd") else f"{level.limit} "
    )
    if name == "concurrent":
        limit = f"{demand.slots} "
    if name in _RATES:
        said = f"The key's limit of {limit}{_WORDS[name]} is reached."
        if wait is None:
            cost = next(rate.cost for rate in demand.rates if rate.name == name)
            said = f"The request may take {cost} tokens; the key's limit is {limit}{_WORDS[name]}."
        kind = "tokens" if name == "tokens" else "requests"
        return OverLimit(said, retry_after=wait, type=kind, code="rate_limit_exceeded")
    said = (
        f"The key's budget of {limit}{_WORDS[name]} is used up, or what is left does not cover this request."
    )
    return OverLimit(said, retry_after=wait, type="insufficient_quota", code="insufficient_quota")


def _level(demand: Demand, verdict: Verdict, name: str) -> Level | None:
    return verdict.rates.get(name) if name in _RATES else verdict.budgets.get(name.removesuffix("_total"))
