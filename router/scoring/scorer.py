"""Scoring: from a request to P(success) of every configured model, the task kind and the difficulty."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np

from smallfirst.policies.types import Score, TaskKind, Tier

from ..errors import SmallfirstError
from ..wire import ChatRequest
from .abilities import Ability, AbilityPrior, plain_name
from .classifier import STRONG, WEAK, Classifier, Prediction, sigmoid
from .embedding import FloatArray, TokenEmbedding
from .features import NAMES, FeatureReader, Features

# Cloud models of about the weak head's strength, by the beginning of their names.
_WEAK_CLOUD = (
    "mixtral",
    "mistral-7b",
    "open-mistral",
    "open-mixtral",
    "gpt-3.5",
    "llama-2",
    "llama-3.2",
    "gemma-2b",
)

# Of a message's tokens, the share in other scripts over which nothing is known: the outcomes are in English.
FOREIGN_SHARE = 0.25
# A text is read as language where it has this share of whole words, or so many of them; the rest is keyboard noise.
WORD_SHARE, WORDS = 0.2, 8
_COLUMN = {name: at for at, name in enumerate(NAMES)}


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """The classifier with all that it needs. Stateless after loading; safe to use from several threads.

    Attributes:
        classifier: The trained arrays.
        reader: Turns requests into features.
        card: Where the arrays come from: data, date, measured figures.
        version: Names the artefact's content; decisions of another version may differ.
        abilities: Of all measured models, by name: heads of the classifier, and published models placed beside them.
    """

    classifier: Classifier
    reader: FeatureReader
    card: Mapping[str, Any]
    version: str
    abilities: Mapping[str, Ability]

    @classmethod
    def load(cls, path: Path | None = None) -> Scorer:
        """Load an artefact: `router.npz` with `card.json` beside it. Takes about 0.4 s the first time in a process.

        Args:
            path: The `.npz` file; default: the one that ships in this package.

        Raises:
            SmallfirstError: It is missing, broken, or made for other features.
        """
        path = path or packaged_artefact()
        classifier = Classifier.load(path)
        card = path.with_name("card.json") if path.stem == "router" else path.with_suffix(".json")
        try:
            described = json.loads(card.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise SmallfirstError(f"{card}: the classifier's card cannot be read: {exc}") from exc
        version = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return cls(classifier, FeatureReader.packaged(), described, version, _abilities(classifier))

    @property
    def local_heads(self) -> tuple[str, ...]:
        """The measured local models, weakest first (by their share of right answers on the measured rows)."""
        return tuple(self.card["local_heads"])

    @property
    def prior(self) -> AbilityPrior:
        """What is known of a model before it is measured."""
        return AbilityPrior(self.classifier.prior_mean, self.classifier.prior_precision)

    @property
    def embedding(self) -> TokenEmbedding:
        """What requests are embedded with."""
        return self.reader.embedding

    def count_tokens(self, text: str) -> int:
        """Return an estimate of a text's tokens, by this vocabulary; from a sample of long ones."""
        return self.reader.count_tokens(text)

    def features(self, request: ChatRequest) -> Features:
        """Read a request. Pure CPU, bounded for any length."""
        return self.reader.read(request)

    def input_tokens(self, request: ChatRequest) -> int:
        """Return the `input_tokens` of a request's features; all that is needed of one that names its model."""
        return self.reader.input_tokens(request)

    def score(self, features: Features, models: Mapping[str, Ability]) -> Score:
        """Score a request for the configured models.

        Difficulty is 1 minus the mean P(success) over all heads, from the smallest local model to the strongest cloud
        model: 0 where every one of them gets it right, 1 where none does.

        Args:
            features: From `features`.
            models: Ability by configured model name, see `ability_for`.
        """
        prediction = self.classifier.predict(features)
        task = max(prediction.tasks, key=prediction.tasks.__getitem__)
        if _value(features, "log_tool_results") > 0:
            task = "agent"
        return Score(
            success={name: ability.chance(prediction.skills) for name, ability in models.items()},
            task=cast("TaskKind", task),
            difficulty=1 - sum(prediction.success.values()) / len(prediction.success),
            known=self.is_known(features, prediction),
        )

    def difficulty(self, skills: FloatArray) -> FloatArray:
        """Return 1 minus the mean P(success) over all heads, for skills of shape (S) or (n, S)."""
        return np.asarray(1 - sigmoid(skills[..., : len(self.classifier.heads)]).mean(axis=-1), np.float32)

    def ability_named(self, name: str) -> Ability | None:
        """Return the ability of a measured model by its name, or None where nobody measured it.

        Matched without case, vendor prefix, quantisation and file ending.
        """
        if name in self.abilities:
            return self.abilities[name]
        plain = plain_name(name)
        return next(
            (ability for known, ability in self.abilities.items() if plain_name(known) == plain), None
        )

    def ability_for(self, name: str, tier: Tier = "local") -> Ability:
        """Return the ability that stands for a configured model.

        A local model that we measured has its own. Any other gets the weakest measured one's: it may be better, but
        that is not known. A cloud model counts as strong but for those known to be weak. Abilities of published models
        are not taken by name alone: each source's rows are of another difficulty, and two models from different
        sources are not on one scale. `ability:` in the settings asks for one, `calibrate` measures one.

        Args:
            name: As configured.
            tier: Where it runs.
        """
        measured = self.ability_named(name)
        if measured is not None and measured.model in self.local_heads:
            return measured
        if tier == "local":
            return self.abilities[self.local_heads[0]]
        return self.abilities[WEAK if plain_name(name).startswith(_WEAK_CLOUD) else STRONG]

    def is_known(self, features: Features, prediction: Prediction) -> bool:
        """Return whether outcomes of requests like this one were measured."""
        foreign = _value(features, "share_other_script") + _value(features, "share_byte")
        words = round(math.expm1(_value(features, "log_word")))
        return (
            words > 0
            and (words >= WORDS or _value(features, "share_word") >= WORD_SHARE)
            and prediction.similarity >= float(self.classifier.similar[0])
            and foreign <= FOREIGN_SHARE
            # Nothing was measured on pictures, nor on what a model does with a tool's result or its own last words.
            and _value(features, "has_media") == 0
            and _value(features, "log_tool_results") == 0
            and _value(features, "last_is_user") == 1
        )


def _abilities(classifier: Classifier) -> dict[str, Ability]:
    """Heads speak for themselves: their own log-odds, unchanged."""
    heads = classifier.heads.tolist()
    skills = len(classifier.prior_mean) - 1
    known = {
        head: Ability(head, np.eye(skills, dtype=np.float32)[at], 0.0, 0) for at, head in enumerate(heads)
    }
    placed = zip(
        classifier.models.tolist(), classifier.abilities, classifier.placed_with.tolist(), strict=True
    )
    return known | {name: Ability(name, of[1:], float(of[0]), rows) for name, of, rows in placed}


def packaged_artefact() -> Path:
    """Return the path of the artefact that ships in this package."""
    return Path(str(resources.files(__package__) / "data" / "router.npz"))


def _value(features: Features, name: str) -> float:
    return float(features.structure[_COLUMN[name]])
