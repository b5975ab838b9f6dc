"""Whether two texts ask for the same answer: a calibrated probability, and the threshold that keeps an error bound.

Similar is not the same. What the decision goes by is what differs between the texts (`differences`), weighed by small
boosted trees that are constrained so that a larger difference never raises the probability. The threshold is no
setting: it follows from the share of wrong hits that is allowed, by pairs with known truth that the trees had not seen.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import read_arrays
from ..errors import SmallfirstError
from ..scoring.arithmetic import unit
from ..scoring.embedding import FloatArray, TokenEmbedding
from ..trees import leaf_values
from .differences import Differences, Reading, differences, features_hash
from .repair import Edit, Edits
from .words import Lexicon, WordLists

# Thresholds that are tried, from strict to liberal: fixed ahead, so that the calibration pairs cannot choose them.
GRID = tuple(1 / (1 + math.exp(-odds / 20)) for odds in range(160, -1, -1))

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A text read once, to be compared many times.

    Attributes:
        text: As it came.
        vector: Shape (256,), length 1: what candidates are found by. Courtesies at the ends have no part in it.
        reading: Its words.
    """

    text: str
    vector: FloatArray
    reading: Reading


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """The arrays that decide, single precision. R trees, N calibration pairs.

    Attributes:
        split_column: (R, 7) column of the differences that an inner node looks at; children of i are 2i+1 and 2i+2.
        split_at: (R, 7) threshold; greater goes right.
        leaves: (R, 8) values.
        bias: (1) where the sum of the leaves starts.
        calibration: (2) slope and offset on the sum.
        calibration_probability: (N) out-of-fold probabilities of the calibration pairs.
        calibration_same: (N) 1 where they have the same answer.
        calibration_key: (N) which pairs they are, see `pair_key`.
    """

    split_column: IntArray
    split_at: FloatArray
    leaves: FloatArray
    bias: FloatArray
    calibration: FloatArray
    calibration_probability: FloatArray
    calibration_same: npt.NDArray[np.uint8]
    calibration_key: npt.NDArray[np.uint64]

    def log_odds(self, columns: FloatArray) -> FloatArray:
        """Return the trees' sum for many pairs, before calibration, shape (pairs,).

        Args:
            columns: Shape (pairs, columns).
        """
        values = leaf_values(columns, self.split_column, self.split_at, self.leaves)
        sums: FloatArray = values.sum(axis=1) + self.bias[0]
        return sums

    def probability(self, compared: Differences) -> float:
        """Return the calibrated probability of one pair."""
        if compared.refused:
            return 0.0
        slope, offset = self.calibration.tolist()
        odds = slope * float(self.log_odds(compared.columns[None])[0]) + offset
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, odds))))

    def save(self, path: Path, *, trained_for: str) -> None:
        """Write the arrays.

        Args:
            path: `.npz`.
            trained_for: See `features_hash`.
        """
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, features_hash=np.array([trained_for]), **arrays)

    @classmethod
    def load(cls, path: Path, *, trained_for: str) -> Judge:
        """Read the arrays.

        Raises:
            SmallfirstError: The file is missing or broken, or was trained for other features than this version's.
        """
        try:
            arrays = read_arrays(path)
        except (OSError, ValueError) as exc:
            raise SmallfirstError(
                f"{path}: not a readable judge of equivalence: {exc}. Train one: smallfirst train cache"
            ) from exc
        missing = {field.name for field in fields(cls)} - arrays.keys()
        if missing or arrays.pop("features_hash", np.array([""]))[0] != trained_for:
            raise SmallfirstError(
                f"{path}: made for another version's features. Train again: smallfirst train cache"
            )
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})


class Equivalence:
    """Reads texts and says how probable it is that two have the same answer. Safe to use from several threads."""

    def __init__(self, lexicon: Lexicon, judge: Judge, card: Mapping[str, Any]) -> None:
        self.lexicon = lexicon
        self.judge = judge
        self.card = card
        self._reader = Reader(lexicon)

    @classmethod
    def load(cls, embedding: TokenEmbedding, artefact: Path | None = None) -> Equivalence:
        """Read the artefact.

        Args:
            embedding: The gateway's; it is shared, not copied.
            artefact: The arrays; their card lies beside them. Default: the ones that ship.

        Raises:
            SmallfirstError: The artefact is missing or broken, or was made for another version's features.
        """
        path = artefact or packaged_artefact()
        lists = WordLists.load()
        judge = Judge.load(path, trained_for=features_hash(lists))
        try:
            card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise SmallfirstError(f"{path.with_suffix('.json')}: not a readable card: {exc}") from exc
        return cls(Lexicon(embedding, lists), judge, card)

    def read(self, text: str) -> Question | None:
        """Read a text; None where there is nothing to compare: no words, or too many (150, 2,000 letters)."""
        return self._reader.read(text)

    def probability(self, asked: Question, stored: Question) -> float:
        """Return the calibrated probability that two texts have the same answer, in [0, 1]; the same both ways.

        Texts that name different numbers have none.
        """
        return self.judge.probability(compare(asked, stored))

    def threshold(self, max_error: float, *, confidence: float = 0.95) -> float | None:
        """Return the least probability at which accepted pairs are wrong with a share of at most `max_error`.

        True with probability `confidence` over draws of calibration pairs, for pairs like them; None where no
        threshold is shown to keep it. See `safe_threshold`.

        Raises:
            ValueError: A number is not between 0 and 1.
        """
        return safe_threshold(
            self.judge.calibration_probability, self.judge.calibration_same, max_error, confidence=confidence
        )

    def out_of_fold(self, a: str, b: str) -> float | None:
        """Return what trees that had not seen a calibration pair said of it; None for any other pair.

        For honest figures on the pairs that were trained on.
        """
        at = np.flatnonzero(self.judge.calibration_key == pair_key(a, b))
        return float(self.judge.calibration_probability[at[0]]) if len(at) else None


class Reader:
    """Reads texts into questions. Apart from `Equivalence`, as training reads before there is a judge."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._edits = Edits(lexicon.lists)

    def read(self, text: str) -> Question | None:
        """See `Equivalence.read`."""
        read = self._lexicon.read(text)
        if read is None:
            return None
        edits: tuple[Edit, ...] = ()
        if not read.literal:
            edits = self._edits.find([word.text for word in read.words], read.forms, read.gaps)
        vector = np.add.reduce([word.tokens[0] for word in read.words])
        case = "small" if text.islower() else "capitals" if text.isupper() else "mixed"
        return Question(text, unit(vector), Reading(read, edits, case))


def pair_key(a: str, b: str) -> int:
    """Return 64 bits that name a pair of texts; another order is another pair."""
    told = f"{a}\0{b}".encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big")


def compare(a: Question, b: Question) -> Differences:
    """Return what differs between two questions."""
    return differences(a.reading, b.reading)


def safe_threshold(
    probability: FloatArray, same: npt.NDArray[np.uint8], max_error: float, *, confidence: float
) -> float | None:
    """Return the most liberal threshold that calibration pairs show to be safe; None where none is.

    Thresholds of a fixed grid are tested one after the other, from strict to liberal, until one fails: with an exact
    binomial test each, the chance that the last one kept is not safe stays under 1 - confidence (fixed-sequence
    testing, as in Learn then Test, arXiv:2110.01052). The walk starts at the strictest threshold that accepts enough
    pairs to pass at all; that depends on the probabilities, not on the truth.

    Args:
        probability: Of the calibration pairs, by trees that had not seen them.
        same: 1 where a pair has the same answer.
        max_error: Greatest share of wrong pairs among the accepted ones, in (0, 1).
        confidence: In (0, 1).

    Raises:
        ValueError: A number is not between 0 and 1.
    """
    if not (0 < max_error < 1 and 0 < confidence < 1):
        raise ValueError(
            f"max_error and confidence must lie between 0 and 1, not {max_error} and {confidence}"
        )
    order = np.sort(probability)
    wrong = np.sort(probability[same == 0])
    fewest = math.log(1 - confidence) / math.log1p(-max_error)
    best = None
    for at in GRID:
        accepted = len(order) - int(np.searchsorted(order, at, side="left"))
        if accepted < fewest:
            continue
        errors = len(wrong) - int(np.searchsorted(wrong, at, side="left"))
        if at_most(errors, accepted, max_error) > 1 - confidence:
            break
        best = at
    if best is None:
        return None
    # Up to the least accepted probability all thresholds accept the same pairs. The middle one keeps most distance to
    # those that are refused: trees fitted on all pairs say a little else than those that the pairs were tested by.
    return _middle(best, float(order[np.searchsorted(order, best, side="left")]))


def _middle(low: float, high: float) -> float:
    """Return the middle of two probabilities, on the scale of their log-odds."""
    odds = [math.log(p / (1 - p)) for p in (low, min(high, 1 - 1e-6))]
    return 1 / (1 + math.exp(-sum(odds) / 2))


def at_most(errors: int, n: int, rate: float) -> float:
    """Return the chance of at most so many errors in n draws where each is one with a chance of `rate`."""
    if errors >= n:
        return 1.0
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    total = 0.0
    for k in range(errors + 1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(ways + k * log_rate + (n - k) * log_rest)
    return min(1.0, total)


def packaged_artefact() -> Path:
    """Return where the artefact lies that ships."""
    return Path(str(resources.files(__package__) / "data" / "equivalence.npz"))
