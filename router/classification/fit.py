"""From labelled examples to a label head. Needs scikit-learn (extra `train`); deterministic by its seed.

Every figure in the card is out of fold: of each example by a classifier that had not seen it, nor the same text.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..scoring.classifier import softmax
from ..scoring.embedding import FloatArray, TokenEmbedding
from ..training.files import DataError, json_lines, need_extra, read_rows
from .head import KeyArray, LabelHead, Ngrams, char_keys, word_keys

if TYPE_CHECKING:
    import scipy.sparse as sp

FOLDS, SEED = 5, 0
# Below this many examples logistic regression is up to two points better and costs seconds; above it a linear SVM is
# as good and three times as fast. The embedding counts for more where examples are few. By validation.
SMALL = 3000
SMALL_C, SMALL_EMBEDDING = 8.0, 2.0
LARGE_C, LARGE_EMBEDDING = 0.5, 1.5
TOLERANCE = 1e-2
# N-grams in fewer examples than this are left out: of words, of characters.
LEAST = (2, 3)
# Bins of the calibration error.
BINS = 15

IntArray = npt.NDArray[np.int64]
Progress = Callable[[str], None]


def read_examples(path: Path, *, source: str | None = None) -> tuple[list[str], list[str]]:
    """Return texts and labels of a file with the columns `text` and `label`.

    Args:
        path: `.parquet`, `.csv` (with a header) or `.jsonl`.
        source: Only rows whose `source` is this; the file must have that column then.

    Raises:
        DataError: The file is missing or broken, a row lacks a field, or there are too few examples. The message
            names the file, and the line or row and the field.
    """
    fields = ("text", "label") if source is None else ("text", "label", "source")
    texts, labels = [], []
    for where, row in _rows(path, fields):
        values = {field: _field(row, field, where) for field in fields}
        if source is None or values["source"] == source:
            texts.append(values["text"])
            labels.append(values["label"])
    if not texts:
        of_source = "" if source is None else f" whose 'source' is '{source}'"
        raise DataError(f"{path}: there are no examples{of_source}.")
    _check(labels, f"{path}: ")
    return texts, labels


def fit_head(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    folds: int = FOLDS,
    seed: int = SEED,
    embedding: TokenEmbedding | None = None,
    progress: Progress = lambda step: None,
) -> LabelHead:
    """Fit a head on examples; its probabilities are calibrated by out-of-fold ones.

    Args:
        texts: One text an example.
        labels: Its label.
        folds: At least 2.
        seed: Of the folds and of the solver.
        embedding: One that is loaded already; default: another one.
        progress: Called with each step, in words.

    Raises:
        DataError: Fewer than two labels, or a label with fewer than two examples.
        SmallfirstError: The extra `train` is not installed.
    """
    need_extra("sklearn")
    _check(labels)
    names, classes = np.unique(np.array(labels, object), return_inverse=True)
    embedding = embedding or TokenEmbedding.load()
    progress(f"reading {len(texts)} texts with {len(names)} labels")
    columns = _Columns.of(texts, embedding)
    fold = folds_of(texts, classes, folds, seed)
    scores = np.zeros((len(texts), len(names)), np.float32)
    guessed = np.zeros(len(texts), np.int64)
    for number in range(folds):
        progress(f"fold {number + 1} of {folds}")
        seen, held_out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(held_out):
            scores[held_out] = _fit(columns, classes, seen, seed).scores(columns, held_out)
            guessed[held_out] = _baseline(texts, classes, seen, held_out)
    sharpness = _sharpness(scores, classes)
    chances = _crossed(scores, classes, fold)
    progress("fitting on all examples")
    fitted = _fit(columns, classes, np.arange(len(texts)), seed)
    card = {
        "n": len(texts),
        "labels": len(names),
        "folds": folds,
        "seed": seed,
        "accuracy": round(float((scores.argmax(axis=1) == classes).mean()), 4),
        "expected_calibration_error": round(calibration_error(chances, classes), 4),
        "baseline_accuracy": round(float((guessed == classes).mean()), 4),
    }
    return fitted.head(tuple(names.tolist()), card, columns, sharpness, embedding)


def folds_of(texts: Sequence[str], classes: IntArray, count: int, seed: int) -> IntArray:
    """Return each example's fold, in `range(count)`.

    Every label is spread evenly, so that even one with two examples is in every training part. Texts that are equal
    but for case, punctuation and numbers stay together, unless a label has no others.
    """
    same = [" ".join("0" if w.isdigit() else w for w in re.findall(r"\w+", t.lower())) for t in texts]
    order = np.random.default_rng(seed).permutation(len(texts))
    units: dict[int, dict[str, list[int]]] = {}
    for at in order.tolist():
        units.setdefault(int(classes[at]), {}).setdefault(same[at], []).append(at)
    fold = np.zeros(len(texts), np.int64)
    total = [0] * count
    for of_label in units.values():
        mine = [0] * count
        # Large ones first: the small ones then even out.
        groups = sorted(of_label.values(), key=len, reverse=True)
        if len(groups) == 1:
            groups = [[at] for at in groups[0]]
        for group in groups:
            least = min(range(count), key=lambda number: (mine[number], total[number]))
            fold[group] = least
            mine[least] += len(group)
            total[least] += len(group)
    return fold


def calibration_error(chances: FloatArray, classes: IntArray) -> float:
    """Return the expected calibration error of the likeliest label, over 15 bins of equal width, in [0, 1]."""
    sure = chances.max(axis=1)
    right = chances.argmax(axis=1) == classes
    at = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = [at == number for number in range(BINS)]
    return float(sum(abs(sure[b].mean() - right[b].mean()) * b.mean() for b in bins if b.any()))


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """The n-grams of all texts: hashes (K), ascending, and sublinear counts (rows, K)."""

    keys: KeyArray
    counts: sp.csr_matrix

    @classmethod
    def of(cls, texts: Sequence[str], read: Callable[[str], KeyArray]) -> _Block:
        import scipy.sparse as sp

        pairs = [np.unique(read(text), return_counts=True) for text in texts]
        starts = np.cumsum([0, *(len(found) for found, _ in pairs)])
        keys, at = np.unique(np.concatenate([found for found, _ in pairs]), return_inverse=True)
        values = (1 + np.log(np.concatenate([counts for _, counts in pairs]))).astype(np.float32)
        return cls(keys, sp.csr_matrix((values, at, starts), shape=(len(texts), len(keys))))


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """What a classifier may look at of each text: n-grams of words, of characters, and the embedding (rows, 256)."""

    blocks: tuple[_Block, _Block]
    dense: FloatArray

    @classmethod
    def of(cls, texts: Sequence[str], embedding: TokenEmbedding) -> _Columns:
        return cls((_Block.of(texts, word_keys), _Block.of(texts, char_keys)), embedding.embed(texts))


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The n-grams of a block that a classifier uses: which columns, idf, and weights (K, L)."""

    at: IntArray
    idf: FloatArray
    weights: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    tables: tuple[_Table, _Table]
    dense: FloatArray
    bias: FloatArray

    def scores(self, columns: _Columns, rows: IntArray) -> FloatArray:
        """Return the labels' scores, not calibrated, shape (rows, L)."""
        scores = columns.dense[rows] @ self.dense + self.bias
        for block, table in zip(columns.blocks, self.tables, strict=True):
            scores += _tfidf(block.counts[rows], table.at, table.idf) @ table.weights
        return scores

    def head(
        self,
        names: tuple[str, ...],
        card: Mapping[str, Any],
        columns: _Columns,
        sharpness: float,
        embedding: TokenEmbedding,
    ) -> LabelHead:
        """Return the head; the factor that calibrates is multiplied into its weights."""
        words, chars = (
            Ngrams.of(block.keys[table.at], table.idf, table.weights * np.float32(sharpness))
            for block, table in zip(columns.blocks, self.tables, strict=True)
        )
        dense, bias = self.dense * np.float32(sharpness), self.bias * np.float32(sharpness)
        return LabelHead(names, card, words, chars, dense, bias, embedding)


def _fit(columns: _Columns, classes: IntArray, rows: IntArray, seed: int) -> _Fitted:
    import scipy.sparse as sp

    # By the number of all examples: classifiers of the folds must be of the kind whose scores they calibrate.
    small = len(columns.dense) < SMALL
    factor = np.float32(SMALL_EMBEDDING if small else LARGE_EMBEDDING)
    vocabularies, parts = [], []
    for block, least in zip(columns.blocks, LEAST, strict=True):
        counts = block.counts[rows]
        texts_with = np.bincount(counts.indices, minlength=counts.shape[1])
        at = np.flatnonzero(texts_with >= least)
        idf = (np.log((1 + len(rows)) / (1 + texts_with[at])) + 1).astype(np.float32)
        vocabularies.append((at, idf))
        parts.append(_tfidf(counts, at, idf))
    wide = sp.hstack([*parts, sp.csr_matrix(columns.dense[rows] * factor)]).tocsr()
    weights, bias = (_logistic if small else _svm)(wide, classes[rows], seed)
    first, second = np.cumsum([part.shape[1] for part in parts])
    split = (weights[:first], weights[first:second])
    words, chars = (_Table(at, idf, w) for (at, idf), w in zip(vocabularies, split, strict=True))
    return _Fitted((words, chars), weights[second:] * factor, bias)


def _tfidf(counts: sp.csr_matrix, at: IntArray, idf: FloatArray) -> sp.csr_matrix:
    """Choose columns and scale rows to length 1; rows of zeros stay so."""
    import scipy.sparse as sp

    weighted = counts[:, at] @ sp.diags(idf)
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return (sp.diags((1 / np.maximum(length, 1e-12)).astype(np.float32)) @ weighted).tocsr()


def _logistic(wide: sp.csr_matrix, classes: IntArray, seed: int) -> tuple[FloatArray, FloatArray]:
    """One logistic regression a label against all others: weights (columns, L) and offsets (L)."""
    from sklearn.linear_model import LogisticRegression

    wide = wide.astype(np.float64)
    each = [
        LogisticRegression(C=SMALL_C, solver="liblinear", dual=True, tol=TOLERANCE, random_state=seed).fit(
            wide, classes == label
        )
        for label in range(classes.max() + 1)
    ]
    weights = np.stack([one.coef_[0] for one in each], axis=1)
    return weights.astype(np.float32), np.array([one.intercept_[0] for one in each], np.float32)


def _svm(wide: sp.csr_matrix, classes: IntArray, seed: int) -> tuple[FloatArray, FloatArray]:
    """Likewise with the squared hinge loss."""
    from sklearn.svm import LinearSVC

    fitted = LinearSVC(C=LARGE_C, tol=TOLERANCE, random_state=seed).fit(wide.astype(np.float64), classes)
    weights, bias = fitted.coef_.T, fitted.intercept_
    if weights.shape[1] == 1:
        weights, bias = np.concatenate((-weights, weights), axis=1), np.concatenate((-bias, bias))
    return weights.astype(np.float32), bias.astype(np.float32)


def _baseline(texts: Sequence[str], classes: IntArray, seen: IntArray, held_out: IntArray) -> IntArray:
    """Guess by TF-IDF of words and a linear SVM, scikit-learn's own: what anyone would try first."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    # Its default pattern drops words of one letter; texts may have no others.
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]")
    known = vectorizer.fit_transform([texts[at] for at in seen])
    fitted = LinearSVC(random_state=SEED).fit(known, classes[seen])
    guessed: IntArray = fitted.predict(vectorizer.transform([texts[at] for at in held_out]))
    return guessed


def _sharpness(scores: FloatArray, classes: IntArray) -> float:
    """Return the factor on the scores (one over the temperature) under which the labels are likeliest.

    A little of the chance is spread over all labels, as if one more example had been wrong: else a few examples
    that are all right would call for certainty.
    """
    from scipy.optimize import minimize_scalar

    spread = 1 / (len(classes) + 2)

    def loss(log_factor: float) -> float:
        raised = scores * np.float32(np.exp(log_factor))
        raised -= raised.max(axis=1, keepdims=True)
        raised -= np.log(np.exp(raised).sum(axis=1, keepdims=True))
        right = raised[np.arange(len(classes)), classes].mean()
        return -float((1 - spread) * right + spread * raised.mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 5.0), method="bounded").x))


def _crossed(scores: FloatArray, classes: IntArray, fold: IntArray) -> FloatArray:
    """Calibrate each fold by the others, so that the reported calibration is out of fold, too."""
    chances = np.zeros_like(scores)
    for number in np.unique(fold):
        inside = fold == number
        chances[inside] = softmax(scores[inside] * np.float32(_sharpness(scores[~inside], classes[~inside])))
    return chances


def _check(labels: Sequence[str], where: str = "") -> None:
    counts = Counter(labels)
    if len(counts) < 2:
        raise DataError(
            f"{where}a classifier needs at least 2 labels; there is {' and '.join(counts) or 'none'}."
        )
    rare = sorted(label for label, count in counts.items() if count < 2)
    if rare:
        named = ", ".join(f"'{label}'" for label in rare[:10]) + (" ..." if len(rare) > 10 else "")
        raise DataError(f"{where}each label needs at least 2 examples; there is 1 of {named}.")


def _field(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if value is None:
        raise DataError(f"{where}: field '{field}' is missing.")
    # Numbers are common as labels.
    if isinstance(value, int) and not isinstance(value, bool) and field != "text":
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field '{field}': expected text that is not empty.")
    return value


def _rows(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield where a row is, in words, and the row."""
    if path.suffix == ".parquet":
        for number, row in enumerate(read_rows(path, fields), 1):
            yield f"{path}: row {number}", row
        return
    if path.suffix not in (".csv", ".jsonl", ".ndjson"):
        raise DataError(f"{path}: expected a .parquet, .csv or .jsonl file.")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    yield from _csv(path, fields) if path.suffix == ".csv" else json_lines(path)


def _csv(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Spreadsheets write a byte order mark, which `utf-8-sig` drops.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = reader.fieldnames or ()
            missing = [field for field in fields if field not in names]
            if missing:
                there = ", ".join(names) or "none"
                raise DataError(f"{path}: line 1: column '{missing[0]}' is missing; there are: {there}.")
            for row in reader:
                if None in row:
                    raise DataError(
                        f"{path}: line {reader.line_num}: more fields than the header has; "
                        "a text with commas must be in quotes."
                    )
                yield f"{path}: line {reader.line_num}", row
        except (csv.Error, UnicodeDecodeError) as exc:
            raise DataError(f"{path}: line {reader.line_num + 1}: not valid CSV in UTF-8: {exc}.") from exc
