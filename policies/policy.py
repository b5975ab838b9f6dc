"""What the operator wants, as one frozen value; the presets are the YAML files beside this one."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field


class Policy(BaseModel):
    """How requests are routed.

    A request goes to the local model where P(local succeeds) is at least `min_local_success` and at most `max_gap`
    under the cloud's. Capabilities, context length and privacy are hard constraints and come first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    description: str = ""
    privacy: Literal["any", "local"] = Field(
        default="any", description="`local`: no request leaves the house, whatever it asks for"
    )
    min_local_success: float = Field(
        default=0.7, ge=0, le=1, description="P(success) that a local model must have"
    )
    max_gap: float = Field(
        default=0.25, ge=0, le=1, description="how far under the cloud's P(success) a local model's may lie"
    )
    uncertain: Literal["cloud", "local"] = Field(
        default="cloud", description="where a request goes that is unlike everything the classifier has seen"
    )
    min_confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how sure a local model must have been of its answer for it to be kept (the geometric mean of its "
        "tokens' probabilities); under that the next model is asked. 0: always kept",
    )
    fallback_to_local: bool = Field(
        default=True, description="answer locally where the cloud is missing or down, and say so"
    )


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
