"""Whether an answer keeps: would the same good answer serve everyone at any time?

A linear classifier over words and word pairs (the edges of the text counted as words, so that how it begins and ends is
seen), a few classes of words (`data/volatility_words.json`), the text's shape, and the static embedding. Its classes:

* `static`: the same good answer for everyone at any time;
* `time_dependent`: changes with time, place or chance;
* `user_state`: depends on this user's own data;
* `action`: asks for a side effect.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import read_arrays
from ..classification.head import KeyArray, Ngrams, word_keys
from ..errors import SmallfirstError
from ..scoring.classifier import softmax
from ..scoring.embedding import DIMENSIONS, FloatArray, TokenEmbedding

CLASSES = ("static", "time_dependent", "user_state", "action")
FORMAT = 1
# Of a longer text only so many characters of its beginning and of its end are read: that is where requests are made.
HALF = 1000
# The classifier learned from English. Where more than this share of letters is of another alphabet, it cannot know.
FOREIGN = 0.3
# Of a text of more words than this the last sentence, which may ask for something else, is judged on its own as well:
# what is probably not static there (its P(static) is not greater than this) does not keep.
LONG, LEAST_OF_TAIL = 40, 0.1

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?\n])\s+")
_EDGES = "startofmessage {} endofmessage"
_SHAPE = 9
# The first word that is not a courtesy is looked for among so many.
_LEAD = 12


@dataclass(frozen=True, slots=True)
class Cues:
    """Classes of words that tell of time, people and acts.

    Attributes:
        groups: How many there are.
        group_of: Of each word.
        courtesies: Words before the one that says what is asked for.
        hash: Of the file; artefacts name the one they were trained for.
    """

    groups: int
    group_of: Mapping[str, int]
    courtesies: frozenset[str]
    hash: str

    @classmethod
    def load(cls) -> Cues:
        """Read the words that ship."""
        text = resources.files(__package__).joinpath("data/volatility_words.json").read_text(encoding="utf-8")
        lists = json.loads(text)
        groups = lists["groups"].values()
        # A word of several groups counts for the first.
        group_of: dict[str, int] = {}
        for number, listed in enumerate(groups):
            for word in listed.split():
                group_of.setdefault(word, number)
        known = json.dumps([lists["groups"], lists["courtesies"], HALF, _SHAPE, FORMAT])
        return cls(
            len(groups), group_of, frozenset(lists["courtesies"].split()), f"{zlib.crc32(known.encode()):08x}"
        )

    @property
    def columns(self) -> int:
        """How many numbers `of` returns."""
        return 2 * self.groups + _SHAPE

    def of(self, text: str) -> FloatArray:
        """Return what a text says by its word classes and its shape, shape (columns), each in about [0, 1]."""
        words = _WORD.findall(text.lower())
        counts = [0.0] * self.columns
        for word in words:
            group = self.group_of.get(word)
            if group is not None and counts[group] < 1:
                counts[group] += 0.5
        lead = next((word for word in words[:_LEAD] if word not in self.courtesies), None)
        group = None if lead is None else self.group_of.get(lead)
        if group is not None:
            counts[self.groups + group] = 1.0
        number, start = len(words), text[:400]
        counts[-_SHAPE:] = [
            math.log1p(number) / 3,
            10 / (10 + number),
            float(number <= 3),
            float(number > 25),
            float(number > 60),
            float("?" in text),
            min(text.count("\n"), 5) / 5,
            len(re.findall(r"\d", start)) / max(1, len(start)),
            foreign_share(start),
        ]
        return np.array(counts, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What was learned. K n-grams, C cues, 4 classes.

    Attributes:
        words: Of words and word pairs.
        dense: (256, 4) of the embedding.
        cues: (C, 4).
        bias: (4).
        threshold: An answer keeps where P(static) is greater.
    """

    words: Ngrams
    dense: FloatArray
    cues: FloatArray
    bias: FloatArray
    threshold: float


@dataclass(frozen=True, slots=True, eq=False)
class Volatility:
    """Says of a text whether the answer to it keeps. Safe to use from several threads.

    Attributes:
        embedding: The gateway's; it is shared, not copied.
        words: The word classes.
        weights: What was learned.
        card: From what, and how good it is on texts that it had not seen.
    """

    embedding: TokenEmbedding
    words: Cues
    weights: Weights
    card: Mapping[str, Any]

    @classmethod
    def load(cls, embedding: TokenEmbedding, artefact: Path | None = None) -> Volatility:
        """Read the artefact.

        Args:
            embedding: The gateway's.
            artefact: The arrays; their card lies beside them. Default: the ones that ship.

        Raises:
            SmallfirstError: The artefact is missing or broken, or was made for another version's features.
        """
        path = artefact or packaged_artefact()
        words = Cues.load()
        try:
            arrays = read_arrays(path)
            header = json.loads(arrays["header"].tobytes())
            made_for = header["features"]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise SmallfirstError(f"{path}: not a readable judge of what keeps: {exc}. {_ADVICE}") from exc
        if made_for != words.hash or header.get("classes") != list(CLASSES):
            raise SmallfirstError(f"{path}: made for another version's features. {_ADVICE}")
        try:
            weights = _weights(arrays, words, float(header["threshold"]))
            card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise SmallfirstError(f"{path}: not a readable judge of what keeps: {exc}. {_ADVICE}") from exc
        return cls(embedding, words, weights, card)

    @property
    def threshold(self) -> float:
        """An answer keeps where P(static) is greater."""
        return self.weights.threshold

    def classes(self, text: str) -> dict[str, float]:
        """Return the calibrated probability of each of `CLASSES`; they sum to 1."""
        return dict(zip(CLASSES, self._shares(text).tolist(), strict=True))

    def keeps(self, text: str) -> bool:
        """Whether an answer may be given to the next who asks: it is probably static.

        Never for a text without words, nor for one that is mostly not in the Latin alphabet, which nobody taught it.
        """
        if foreign_share(text[:HALF]) > FOREIGN or not _WORD.search(text):
            return False
        if self._shares(text)[0] <= self.weights.threshold:
            return False
        tail = tail_of(text)
        return tail is None or bool(self._shares(tail)[0] > LEAST_OF_TAIL)

    def save(self, path: Path) -> None:
        """Write the arrays and, beside them, the card. The same judge gives the same bytes."""
        weights = self.weights
        header = {"features": self.words.hash, "classes": CLASSES, "threshold": weights.threshold}
        arrays: dict[str, npt.NDArray[Any]] = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "keys": weights.words.keys,
            "idf": weights.words.idf,
            "weights": weights.words.weights,
            "scale": weights.words.scale,
            "dense": weights.dense,
            "cues": weights.cues,
            "bias": weights.bias,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        card = json.dumps(dict(self.card), indent=2)
        path.with_suffix(".json").write_text(card + "\n", encoding="utf-8")

    def _shares(self, text: str) -> FloatArray:
        read = clipped(text)
        weights = self.weights
        scores = weights.words.scores(edge_keys(read)) + self.words.of(read) @ weights.cues + weights.bias
        vector = self.embedding.vector(self.embedding.ids(read))
        return softmax(scores + vector @ weights.dense)


_ADVICE = "Train one: smallfirst train volatility"


def packaged_artefact() -> Path:
    """Return where the arrays that ship are."""
    return Path(str(resources.files(__package__).joinpath("data/volatility.npz")))


def clipped(text: str) -> str:
    """Return what is read of a text: all of it, or its beginning and its end."""
    return text if len(text) <= 2 * HALF else f"{text[:HALF]} {text[-HALF:]}"


def tail_of(text: str) -> str | None:
    """Return the last sentence of a long text (of its last characters, if it has no end); None of a short one."""
    if len(text) <= LONG or len(text[: 20 * LONG].split()) <= LONG:
        return None
    sentences = _SENTENCE_END.split(text[-HALF:].strip())
    return next((sentence for sentence in reversed(sentences) if _WORD.search(sentence)), None)


def edge_keys(text: str) -> KeyArray:
    """Return hashes of words and word pairs, of which the first and the last word are paired with an edge."""
    return word_keys(_EDGES.format(text))


def foreign_share(text: str) -> float:
    """Return the share of letters that are not of the Latin alphabet, in [0, 1]."""
    if text.isascii():
        return 0.0
    letters = [character for character in text if character.isalpha()]
    # Latin letters with marks end at U+024F; those of Vietnamese stand at U+1E00.
    foreign = sum(c > "\u024f" and not "\u1e00" <= c <= "\u1eff" for c in letters)
    return foreign / len(letters) if letters else 0.0


def _weights(arrays: Mapping[str, npt.NDArray[Any]], words: Cues, threshold: float) -> Weights:
    classes, known = len(CLASSES), len(arrays["keys"])
    shapes: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
        "keys": ((known,), np.uint64),
        "idf": ((known,), np.float32),
        "weights": ((known, classes), np.int8),
        "scale": ((known,), np.float32),
        "dense": ((DIMENSIONS, classes), np.float32),
        "cues": ((words.columns, classes), np.float32),
        "bias": ((classes,), np.float32),
    }
    for name, (shape, kind) in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != kind:
            raise ValueError(f"array '{name}' has shape {array.shape} and type {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"array '{name}' has values that are no numbers")
    if (arrays["keys"][1:] <= arrays["keys"][:-1]).any() or not 0 <= threshold <= 1:
        raise ValueError("'keys' is not ascending, or 'threshold' not in [0, 1]")
    ngrams = Ngrams(*(arrays[name] for name in ("keys", "idf", "weights", "scale")))
    return Weights(ngrams, arrays["dense"], arrays["cues"], arrays["bias"], threshold)
