"""What the operator wants, as one frozen value; the presets are the YAML files beside this one."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .types import PersonalData

# What its form alone gives away: no library is needed to find it.
STRUCTURED: tuple[PersonalData, ...] = (
    "secret", "email", "phone", "card", "iban", "ssn", "passport", "driver_licence", "birth_date", "ip", "crypto",
)  # fmt: skip


class Policy(BaseModel):
    """How requests are routed.

    A request goes to the local model where P(local succeeds) is at least `min_local_success` and at most `max_gap`
    under the cloud's. Capabilities, context length and privacy are hard constraints and come first. `cascade` says
    whether a local answer may still be turned down once it is there, and `min_confidence`, `self_consistency` by what.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    description: str = ""
    privacy: Literal["any", "local"] = Field(
        default="any", description="`local`: no request leaves the house, whatever it asks for"
    )
    pii: Literal["off", "local-only", "redact-and-restore", "block"] = Field(
        default="off",
        description="what becomes of a request that holds personal data or secrets, before it reaches a cloud: "
        "`local-only`: it stays in the house; `redact-and-restore`: the cloud gets placeholders in their place, and "
        "the caller gets them back in the answer; `block`: it is refused; `off`: nobody looks. See docs/privacy.md",
    )
    pii_types: tuple[PersonalData, ...] = Field(
        default=STRUCTURED,
        min_length=1,
        description="what counts; `name` and `address` need the extra `pii`",
    )
    min_local_success: float = Field(
        default=0.7, ge=0, le=1, description="P(success) that a local model must have"
    )
    max_gap: float = Field(
        default=0.25, ge=0, le=1, description="how far under the cloud's P(success) a local model's may lie"
    )
    max_cloud_gap: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how far under the first cloud model's P(success) that of a cheaper one may lie that is asked in "
        "its place; only where the outcomes of both are known, and never under a risk budget",
    )
    max_quality_loss: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="the risk budget: how much quality may be lost on average, relative to always asking the "
        "baseline. It takes the place of `min_local_success`, `max_gap` and `min_confidence`; thresholds come from "
        "the outcomes that `smallfirst calibrate` measured, and without them everything goes to the cloud. "
        "Watched by the tests of docs/drift.md",
    )
    confidence: float = Field(
        default=0.95, gt=0, lt=1, description="probability that the risk budget is kept, given those outcomes"
    )
    uncertain: Literal["cloud", "local"] = Field(
        default="cloud", description="where a request goes that is unlike everything the classifier has seen"
    )
    cascade: Literal["off", "auto", "always"] = Field(
        default="auto",
        description="`auto`: routed, and a local answer is checked where `min_confidence` or `self_consistency` ask "
        "for it; `always`: every request that a local model can take goes there first, and its answer is checked; "
        "`off`: no local answer is checked",
    )
    min_confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how sure a local model must have been of its answer for it to be kept (the geometric mean of its "
        "tokens' probabilities); under that the next model is asked. 0: always kept",
    )
    self_consistency: int = Field(
        default=1,
        ge=1,
        le=5,
        description="how often a local model is asked; with 2 or more, an answer is kept that more than half of them "
        "give. For tool calls, JSON, labels and other short answers: longer ones are not compared",
    )
    early_cloud: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="start the cloud's call while a checked local answer is still being made, as soon as its "
        "confidence so far falls under this; where the local answer is kept after all, that call is stopped and what "
        "it cost is booked. 0: never",
    )
    explore: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="share of requests whose first tier is drawn by lot, each as likely, from those that may take the "
        "request; under a risk budget, and while drift has tightened the policy, only requests of the local model are "
        "drawn. The probability is written down, so that what other policies would have cost can be estimated: see "
        "docs/savings.md",
    )
    fallback_to_local: bool = Field(
        default=True, description="answer locally where the cloud is missing or down, and say so"
    )
    hedge_after: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds without the beginning of an answer after which the next cloud model is asked as well; "
        "the answer that begins first is taken, the other call is stopped, and what both cost is booked. Counted "
        "against the slow model's `retries.budget`. 0: never. See docs/faults.md",
    )
    hedge_whole_after: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="the same for answers in one piece, which begin when all of them is written; default: as "
        "`hedge_after`",
    )
    hedge_same_model: bool = Field(
        default=False, description="where there is no other cloud model, ask the same one a second time"
    )

    @model_validator(mode="after")
    def _off_checks_nothing(self) -> Policy:
        checks = {
            "min_confidence": self.min_confidence > 0,
            "self_consistency": self.self_consistency > 1,
            "early_cloud": self.early_cloud > 0,
        }
        asked = [name for name, is_set in checks.items() if is_set]
        if self.cascade == "off" and asked:
            raise ValueError(
                f"'cascade: off' checks no answer, but '{asked[0]}' asks for it; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _hedges_after_something(self) -> Policy:
        if self.hedge_same_model and not (self.hedge_after or self.hedge_whole_after):
            raise ValueError("'hedge_same_model' does nothing without 'hedge_after'")
        return self

    def hedge(self, *, whole: bool) -> float:
        """Return after how many seconds without a beginning another model is asked as well; 0: never.

        Args:
            whole: Whether the answer is wanted in one piece.
        """
        if whole and self.hedge_whole_after is not None:
            return self.hedge_whole_after
        return self.hedge_after


PRESETS = ("balanced", "thrifty", "quality", "private", "offline")


@cache
def load_preset(name: str) -> Policy:
    """Return a preset by name.

    Raises:
        KeyError: There is no preset of that name.
    """
    if name not in PRESETS:
        raise KeyError(name)
    text = (resources.files(__package__) / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return Policy.model_validate({"name": name, **yaml.safe_load(text)})
