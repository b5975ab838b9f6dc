"""Scoring: from a request to P(success) of every configured model, the task kind and the difficulty."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from smallfirst.policies.types import Score, TaskKind, Tier

from ..errors import SmallfirstError
from ..wire import ChatRequest
from .classifier import Classifier
from .embedding import TokenEmbedding
from .features import NAMES, FeatureReader, Features

# Heads over published outcomes: Mixtral-8x7B and GPT-4-1106. The others are local models that we measured ourselves.
WEAK, STRONG = "weak", "strong"
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
    """

    classifier: Classifier
    reader: FeatureReader
    card: Mapping[str, Any]
    version: str

    @classmethod
    def load(cls, path: Path | None = None) -> Scorer:
        """Load an artefact: `router.npz` with `card.json` beside it. Takes about 0.3 s.

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
        return cls(classifier, FeatureReader(TokenEmbedding.load()), described, version)

    @property
    def local_heads(self) -> tuple[str, ...]:
        """The measured local models, weakest first (by their share of right answers on the measured rows)."""
        return tuple(self.card["local_heads"])

    def count_tokens(self, text: str) -> int:
        """Return an estimate of a text's tokens, by this vocabulary; from a sample of long ones."""
        return self.reader.count_tokens(text)

    def features(self, request: ChatRequest) -> Features:
        """Read a request. Pure CPU: about 0.6 ms for 500 tokens, bounded for any length."""
        return self.reader.read(request)

    def score(self, features: Features, models: Mapping[str, str]) -> Score:
        """Score a request for the configured models.

        Difficulty is 1 minus the mean P(success) over all heads, from the smallest local model to the strongest cloud
        model: 0 where every one of them gets it right, 1 where none does.

        Args:
            features: From `features`.
            models: Head by configured model name, see `ability_for`.

        Raises:
            KeyError: There is no such head.
        """
        prediction = self.classifier.predict(features)
        success = prediction.success
        task = max(prediction.tasks, key=prediction.tasks.__getitem__)
        if _value(features, "log_tool_results") > 0:
            task = "agent"
        return Score(
            success={name: success[head] for name, head in models.items()},
            task=cast("TaskKind", task),
            difficulty=1 - sum(success.values()) / len(success),
            known=self._known(features, prediction.similarity),
        )

    def ability_for(self, name: str, tier: Tier = "local") -> str:
        """Return the head whose measured outcomes stand for a configured model.

        A measured local model has its own head. Any other local model gets the weakest measured one: it may be better,
        but that is not known. A cloud model counts as strong but for those known to be weak.

        Args:
            name: As configured; matched without case, vendor prefix, quantisation and file ending.
            tier: Where it runs.
        """
        if name in self.classifier.heads:
            return name
        plain = _plain(name)
        for head in self.local_heads:
            if _plain(head) == plain:
                return head
        if tier == "local":
            return self.local_heads[0]
        return WEAK if plain.startswith(_WEAK_CLOUD) else STRONG

    def _known(self, features: Features, similarity: float) -> bool:
        """Whether outcomes of requests like this one were measured."""
        foreign = _value(features, "share_other_script") + _value(features, "share_byte")
        words = round(math.expm1(_value(features, "log_word")))
        return (
            words > 0
            and (words >= WORDS or _value(features, "share_word") >= WORD_SHARE)
            and similarity >= float(self.classifier.similar[0])
            and foreign <= FOREIGN_SHARE
            # Nothing was measured on pictures, nor on what a model does with a tool's result or its own last words.
            and _value(features, "has_media") == 0
            and _value(features, "log_tool_results") == 0
            and _value(features, "last_is_user") == 1
        )


def packaged_artefact() -> Path:
    """Return the path of the artefact that ships in this package."""
    return Path(str(resources.files(__package__) / "data" / "router.npz"))


def _value(features: Features, name: str) -> float:
    return float(features.structure[_COLUMN[name]])


def _plain(name: str) -> str:
    """Reduce a model's name to what identifies its weights: `HF/SmolLM2-135M-Instruct.Q4_1.gguf` to `smollm2-135m`."""
    bare = name.lower().rsplit("/", 1)[-1].removesuffix(".gguf")
    bare = re.sub(r"[.\-_:](?:i?q\d(?:_\w+)*|f16|bf16|f32)$", "", bare)
    return re.sub(r"[\-_:](?:instruct|chat|it|preview|latest)(?=$|[\-_:])", "", bare)
