"""A label head: which of its labels a text has, with calibrated probabilities. Arrays in a file, numpy only.

A linear classifier over three blocks of columns, each of length 1: TF-IDF of words and word pairs, TF-IDF of the
characters inside words (which forgives typing errors and inflection), and the static embedding (which knows words
that no example had). N-grams are known by 64-bit hashes, so that the file holds no text of the examples.
`fit.py` makes heads.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import read_arrays
from ..errors import SettingsError
from ..scoring.classifier import softmax
from ..scoring.embedding import DIMENSIONS, FloatArray, TokenEmbedding

FORMAT = 1
BLOCKS = ("words", "chars")
LONGEST = 4

_ADVICE = "Train one: smallfirst train classifier --data FILE --out FILE.npz"
_WORD = re.compile(r"\w+")
# Any large odd number: of the polynomial that hashes characters, modulo 2^64.
_BASE = np.uint64(0x9E3779B97F4A7C15)

KeyArray = npt.NDArray[np.uint64]
Int8Array = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Ngrams:
    """The known n-grams of one block and what each says for each label. K n-grams, L labels.

    Attributes:
        keys: (K) hashes, ascending.
        idf: (K) inverse document frequency.
        weights: (K, L), in units of the n-gram's scale: a quarter of the memory of single precision.
        scale: (K).
    """

    keys: KeyArray
    idf: FloatArray
    weights: Int8Array
    scale: FloatArray

    @classmethod
    def of(cls, keys: KeyArray, idf: FloatArray, weights: FloatArray) -> Ngrams:
        """Round weights of shape (K, L) to 8 bits."""
        largest = np.abs(weights).max(axis=1, initial=0)
        scale = (np.maximum(largest, 1e-12) / 127).astype(np.float32)
        return cls(keys, idf, np.rint(weights / scale[:, None]).astype(np.int8), scale)

    def scores(self, keys: KeyArray) -> FloatArray:
        """Return what a text's n-grams say for each label, shape (L); zeros where none of them is known."""
        found, counts = np.unique(keys, return_counts=True)
        at = np.searchsorted(self.keys, found)
        at[at == len(self.keys)] = 0
        known = self.keys[at] == found if len(self.keys) else np.zeros(len(found), bool)
        at, counts = at[known], counts[known]
        values = (1 + np.log(counts, dtype=np.float32)) * self.idf[at]
        length = np.sqrt(values @ values)
        scores: FloatArray = (values * self.scale[at]) @ self.weights[at].astype(np.float32)
        return scores / length if length > 0 else scores


@dataclass(frozen=True, slots=True, eq=False)
class LabelHead:
    """Labels, and the arrays that choose among them. Safe to use from several threads. L labels.

    Attributes:
        labels: What a text may be.
        card: How good it is: rows, out-of-fold accuracy and calibration error.
        words: Of words and word pairs.
        chars: Of 2 to 4 characters inside a word, its edges counted.
        dense: (256, L) weights of the embedding.
        bias: (L).
        embedding: May be shared; it is not in the file.
    """

    labels: tuple[str, ...]
    card: Mapping[str, Any]
    words: Ngrams
    chars: Ngrams
    dense: FloatArray
    bias: FloatArray
    embedding: TokenEmbedding

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return each text's probability of each label, shape (texts, L); rows sum to 1."""
        if not texts:
            return np.zeros((0, len(self.labels)), np.float32)
        ngrams = [self.words.scores(word_keys(t)) + self.chars.scores(char_keys(t)) for t in texts]
        return softmax(self.embedding.embed(texts) @ self.dense + np.stack(ngrams) + self.bias)

    def save(self, path: Path) -> None:
        """Write the arrays and, as JSON among them, labels and card. The same head gives the same bytes."""
        header = {"format": FORMAT, "labels": self.labels, "card": dict(self.card)}
        arrays: dict[str, npt.NDArray[Any]] = {"dense": self.dense, "bias": self.bias}
        for name, block in zip(BLOCKS, (self.words, self.chars), strict=True):
            arrays |= {f"{name}_keys": block.keys, f"{name}_idf": block.idf}
            arrays |= {f"{name}_weights": block.weights, f"{name}_scale": block.scale}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path, *, embedding: TokenEmbedding | None = None) -> LabelHead:
        """Read a head.

        Args:
            path: What `save` wrote.
            embedding: One that is loaded already; default: another one.

        Raises:
            SettingsError: The file is missing or damaged, or is no such file.
        """
        try:
            arrays = read_arrays(path)
            header = _header(arrays)
            words, chars = (_block(arrays, name, len(header["labels"])) for name in BLOCKS)
            dense = _checked(arrays, "dense", (DIMENSIONS, len(header["labels"])), np.float32)
            bias = _checked(arrays, "bias", (len(header["labels"]),), np.float32)
        except FileNotFoundError as exc:
            raise SettingsError(f"{path}: there is no such file. {_ADVICE}") from exc
        except (OSError, ValueError) as exc:
            raise SettingsError(f"{path}: not a readable label classifier: {exc}. {_ADVICE}") from exc
        labels, card = tuple(header["labels"]), header["card"]
        return cls(labels, card, words, chars, dense, bias, embedding or TokenEmbedding.load())


def word_keys(text: str) -> KeyArray:
    """Return hashes of a text's words and of its pairs of words, in lower case, repeated as they are in it."""
    words = [zlib.crc32(word.encode("utf-8", "replace")) for word in _WORD.findall(text.lower())]
    single = np.array(words, np.uint64)
    return np.concatenate((single, single[:-1] << np.uint64(32) | single[1:]))


def char_keys(text: str) -> KeyArray:
    """Return hashes of the 2 to 4 characters inside words, a blank before and after each word counted.

    All at once for the whole text, so that a long one costs microseconds, not milliseconds.
    """
    # Lone surrogates are legal in JSON strings, so they may be in a text.
    padded = f" {' '.join(text.lower().split())} ".encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(padded, "<u4").astype(np.uint64)
    blanks = np.concatenate(([0], np.cumsum(codes == ord(" "))))
    keys, found = codes, []
    for length in range(2, LONGEST + 1):
        keys = keys[:-1] * _BASE + codes[length - 1 :]
        # It may begin and end with a blank, but not run over one.
        inside = blanks[length - 1 : len(codes)] == blanks[1 : len(codes) - length + 2]
        found.append(keys[inside])
    return np.concatenate(found)


def _header(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    header = json.loads(_checked(arrays, "header", (-1,), np.uint8).tobytes())
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"expected format {FORMAT}")
    labels, card = header.get("labels"), header.get("card")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("'labels' is no list of strings")
    if len(labels) < 2 or len(set(labels)) < len(labels) or not isinstance(card, dict):
        raise ValueError("fewer than two labels, a label twice, or no card")
    return header


def _block(arrays: Mapping[str, npt.NDArray[Any]], name: str, labels: int) -> Ngrams:
    keys = _checked(arrays, f"{name}_keys", (-1,), np.uint64)
    if (keys[1:] <= keys[:-1]).any():
        raise ValueError(f"'{name}_keys' is not ascending")
    return Ngrams(
        keys,
        _checked(arrays, f"{name}_idf", keys.shape, np.float32),
        _checked(arrays, f"{name}_weights", (len(keys), labels), np.int8),
        _checked(arrays, f"{name}_scale", keys.shape, np.float32),
    )


def _checked(
    arrays: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...], kind: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return an array of the file if it is as it should be; -1 stands for any length."""
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"array '{name}' is missing")
    fits = len(array.shape) == len(shape) and all(
        want in (-1, have) for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != kind:
        raise ValueError(f"array '{name}' has shape {array.shape} and type {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"array '{name}' has values that are no numbers")
    return array
