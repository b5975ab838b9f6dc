"""Training the judgement whether an answer keeps. Needs scikit-learn (extra `train`); deterministic by its seed.

Every figure in the card is out of fold, in two ways: `seen_kinds` of texts whose near-duplicates were left out, and
`unseen_kinds` of texts whose whole intent, function or family of sentences was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..classification.fit import calibration_error
from ..classification.head import KeyArray, Ngrams
from ..scoring.classifier import softmax
from ..scoring.embedding import FloatArray, TokenEmbedding
from ..semantic.volatility import (
    CLASSES,
    FOREIGN,
    HALF,
    LEAST_OF_TAIL,
    Cues,
    Volatility,
    Weights,
    clipped,
    edge_keys,
    foreign_share,
    tail_of,
)
from .files import need_extra
from .folds import groups_of
from .volatility_rows import Example, read_examples

if TYPE_CHECKING:
    import scipy.sparse as sp

FOLDS, SEED = 10, 0
# Of the regression; of n-grams, how many texts and how many kinds of them must have one: those of one intent alone tell
# its topic, not its class. By validation on unseen kinds.
STRENGTH, TEXTS, KINDS = 4.0, 5, 4
# What a text of a source counts for; 1 where nothing is said. The intents are many alike, the others few and precious.
COUNTS_FOR: Mapping[str, float] = {
    "clinc150": 0.25,
    "banking77": 0.25,
    "by_hand": 3.0,
    "nq_open": 3.0,
    "boolq": 3.0,
    "clinc150_oos": 4.0,
}
# The threshold refuses this share of the texts that do not keep, of kinds that were seen.
REFUSED = 0.955
GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)

IntArray = npt.NDArray[np.int64]
Progress = Callable[[str], None]


def train(data: Path, *, embedding: TokenEmbedding | None = None, progress: Progress = print) -> Volatility:
    """Train on the evaluation data and the sentences written by hand.

    Args:
        data: Folder of the evaluation data.
        embedding: One that is loaded already; default: another one.
        progress: Called with each step, in words.

    Raises:
        DataError: A file is missing or broken.
        SmallfirstError: The extra `train` is not installed.
    """
    return train_on(read_examples(data), embedding=embedding, progress=progress)


def train_on(
    examples: Sequence[Example], *, embedding: TokenEmbedding | None = None, progress: Progress = print
) -> Volatility:
    """Train on examples; see `train`."""
    need_extra("sklearn")
    embedding, cues = embedding or TokenEmbedding.load(), Cues.load()
    progress(f"reading {len(examples)} texts")
    columns = _Columns.of(examples, embedding, cues)
    sources = np.unique(columns.source, return_inverse=True)[1]
    folds = {
        "seen_kinds": _folds(columns.group, sources * len(CLASSES) + columns.label, FOLDS),
        "unseen_kinds": _folds(columns.kind, columns.label, FOLDS),
    }
    scores = {}
    for name, fold in folds.items():
        progress(f"{name.replace('_', ' ')}: {fold.max() + 1} folds")
        scores[name] = _out_of_fold(columns, fold)
    sharpness = _sharpness(scores["seen_kinds"], columns)
    shares = {name: softmax(of * np.float32(sharpness)) for name, of in scores.items()}
    static = {name: _served_by(of, columns) for name, of in shares.items()}
    threshold = round(float(np.quantile(static["seen_kinds"][columns.label != 0], REFUSED)), 4)
    progress("fitting on all texts")
    fitted = _fit(columns, np.arange(len(examples)))
    card = {
        "format": 1,
        "features": cues.hash,
        "classes": CLASSES,
        "n": len(examples),
        "seed": SEED,
        "threshold": threshold,
        "out_of_fold": {
            name: _figures(columns, shares[name][columns.whole], static[name], threshold) for name in shares
        },
    }
    return Volatility(embedding, cues, fitted.weights(columns, sharpness, threshold), card)


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """What is known of N examples. Rows N to R are last sentences of long ones: they are judged, not learned from.

    Attributes:
        keys: (K) hashes of all words and pairs, ascending.
        counts: (R, K) sublinear counts.
        dense: (R, 256) embedding.
        cues: (R, C) word classes and shape.
        tail_of: (R - N) whose last sentence it is.
        readable: (N) whether it is in an alphabet that is judged.
        label: (N) index of the class.
        weight: (N) what it counts for.
        group: (N) near-duplicates have the same.
        kind: (N) examples of a family have the same, others that of their group.
        source: (N).
    """

    keys: KeyArray
    counts: sp.csr_matrix
    dense: FloatArray
    cues: FloatArray
    tail_of: IntArray
    readable: npt.NDArray[np.bool_]
    label: IntArray
    weight: npt.NDArray[np.float64]
    group: IntArray
    kind: IntArray
    source: npt.NDArray[Any]

    @classmethod
    def of(cls, examples: Sequence[Example], embedding: TokenEmbedding, cues: Cues) -> _Columns:
        import scipy.sparse as sp

        tails = [(at, tail) for at, e in enumerate(examples) if (tail := tail_of(e.text)) is not None]
        texts = [clipped(text) for text in (*(e.text for e in examples), *(tail for _, tail in tails))]
        pairs = [np.unique(edge_keys(text), return_counts=True) for text in texts]
        starts = np.cumsum([0, *(len(found) for found, _ in pairs)])
        keys, at = np.unique(np.concatenate([found for found, _ in pairs]), return_inverse=True)
        values = (1 + np.log(np.concatenate([counts for _, counts in pairs]))).astype(np.float32)
        group = groups_of([example.text for example in examples]).astype(np.int64)
        names = [example.family or f"group {number}" for example, number in zip(examples, group, strict=True)]
        return cls(
            keys,
            sp.csr_matrix((values, at, starts), shape=(len(texts), len(keys))),
            embedding.embed(texts),
            np.stack([cues.of(text) for text in texts]),
            np.array([at for at, _ in tails], np.int64),
            np.array([foreign_share(example.text[:HALF]) <= FOREIGN for example in examples]),
            np.array([CLASSES.index(example.label) for example in examples]),
            np.array([COUNTS_FOR.get(example.source, 1.0) for example in examples]),
            group,
            np.unique(np.array(names, object).astype(str), return_inverse=True)[1],
            np.array([example.source for example in examples]),
        )

    @property
    def whole(self) -> slice:
        """The rows of the examples themselves."""
        return slice(len(self.label))


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """A regression: which n-grams it uses, their idf, and weights (columns, 4)."""

    at: IntArray
    idf: FloatArray
    words: FloatArray
    dense: FloatArray
    cues: FloatArray
    bias: FloatArray

    def scores(self, columns: _Columns, rows: IntArray) -> FloatArray:
        """Return the classes' scores, shape (rows, 4)."""
        known = _tfidf(columns.counts[rows], self.at, self.idf)
        scores: FloatArray = (
            known @ self.words + columns.dense[rows] @ self.dense + columns.cues[rows] @ self.cues + self.bias
        )
        return scores

    def weights(self, columns: _Columns, sharpness: float, threshold: float) -> Weights:
        """Return what serves; the factor that calibrates is multiplied into it."""
        factor = np.float32(sharpness)
        words = Ngrams.of(columns.keys[self.at], self.idf, self.words * factor)
        return Weights(words, self.dense * factor, self.cues * factor, self.bias * factor, threshold)


def _fit(columns: _Columns, rows: IntArray) -> _Fitted:
    import scipy.sparse as sp
    from sklearn.linear_model import LogisticRegression

    counts = columns.counts[rows]
    has = sp.csr_matrix((np.ones(counts.nnz, np.float32), counts.indices, counts.indptr), shape=counts.shape)
    _, kind = np.unique(columns.kind[rows], return_inverse=True)
    of_kind = sp.csr_matrix((np.ones(len(rows), np.float32), (kind, np.arange(len(rows)))))
    texts = np.bincount(counts.indices, minlength=counts.shape[1])
    kinds = np.bincount((of_kind @ has).tocsr().indices, minlength=counts.shape[1])
    at = np.flatnonzero((texts >= TEXTS) & (kinds >= KINDS))
    idf = (np.log((1 + len(rows)) / (1 + texts[at])) + 1).astype(np.float32)
    wide = sp.hstack(
        [_tfidf(counts, at, idf), sp.csr_matrix(columns.dense[rows]), sp.csr_matrix(columns.cues[rows])]
    ).tocsr()
    model = LogisticRegression(C=STRENGTH, max_iter=400, tol=1e-3, random_state=SEED)
    model.fit(wide.astype(np.float64), columns.label[rows], sample_weight=columns.weight[rows])
    weights = model.coef_.T.astype(np.float32)
    first, second = len(at), len(at) + columns.dense.shape[1]
    words, dense, cues = weights[:first], weights[first:second], weights[second:]
    return _Fitted(at, idf, words, dense, cues, model.intercept_.astype(np.float32))


def _tfidf(counts: sp.csr_matrix, at: IntArray, idf: FloatArray) -> sp.csr_matrix:
    """Choose columns and scale rows to length 1, as `Ngrams.scores` does; rows of zeros stay so."""
    import scipy.sparse as sp

    weighted = counts[:, at] @ sp.diags(idf)
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return (sp.diags((1 / np.maximum(length, 1e-12)).astype(np.float32)) @ weighted).tocsr()


def _folds(groups: IntArray, strata: IntArray, count: int) -> IntArray:
    """Return each example's fold: groups stay together, and every stratum is spread evenly."""
    sizes = np.bincount(groups)
    stratum = np.zeros(len(sizes), np.int64)
    stratum[groups] = strata
    order = np.random.default_rng(SEED).permutation(len(sizes))
    fold, load = np.zeros(len(sizes), np.int64), np.zeros((count, strata.max() + 1), np.int64)
    # Large ones first: the small ones then even out.
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold[group] = load[:, stratum[group]].argmin()
        load[fold[group], stratum[group]] += sizes[group]
    return fold[groups]


def _out_of_fold(columns: _Columns, fold: IntArray) -> FloatArray:
    """Return the scores of all rows, tails by the fold of their text, shape (R, 4)."""
    of_row = np.concatenate((fold, fold[columns.tail_of]))
    scores = np.zeros((len(of_row), len(CLASSES)), np.float32)
    for number in range(int(fold.max()) + 1):
        held_out = np.flatnonzero(of_row == number)
        if len(held_out):
            scores[held_out] = _fit(columns, np.flatnonzero(fold != number)).scores(columns, held_out)
    return scores


def _sharpness(scores: FloatArray, columns: _Columns) -> float:
    """Return the factor on the scores under which the classes are likeliest."""
    from scipy.optimize import minimize_scalar

    def loss(log_factor: float) -> float:
        raised = scores[columns.whole] * np.float32(np.exp(log_factor))
        raised -= raised.max(axis=1, keepdims=True)
        raised -= np.log(np.exp(raised).sum(axis=1, keepdims=True))
        return -float(np.average(raised[np.arange(len(raised)), columns.label], weights=columns.weight))

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def _served_by(shares: FloatArray, columns: _Columns) -> npt.NDArray[np.float64]:
    """Return what the threshold is held against, as `Volatility.keeps` does: 0 of what it refuses anyhow, shape (N)."""
    refused = ~columns.readable
    refused[columns.tail_of[shares[len(refused) :, 0] <= LEAST_OF_TAIL]] = True
    return np.where(refused, 0.0, shares[columns.whole, 0])


def _figures(
    columns: _Columns, shares: FloatArray, static: npt.NDArray[np.float64], threshold: float
) -> dict[str, Any]:
    """Return how good it is, in all, by source, and at other thresholds."""
    keeps, right = columns.label == 0, shares.argmax(axis=1) == columns.label
    by_source = {}
    for source in sorted(set(columns.source.tolist())):
        of = columns.source == source
        by_source[source] = {"accuracy": _share(right[of]), **_served(static[of], keeps[of], threshold)}
    return {
        "accuracy": _share(right),
        "expected_calibration_error": round(calibration_error(shares, columns.label), 4),
        "recall": {name: _share(right[columns.label == at]) for at, name in enumerate(CLASSES)},
        **_served(static, keeps, threshold),
        "by_source": by_source,
        "at_other_thresholds": {str(other): _served(static, keeps, other) for other in GRID},
    }


def _served(
    static: npt.NDArray[np.float64], keeps: npt.NDArray[np.bool_], threshold: float
) -> dict[str, Any]:
    served = static > threshold
    return {
        "static": int(keeps.sum()),
        "kept": _share(served[keeps]),
        "other": int((~keeps).sum()),
        "refused": _share(~served[~keeps]),
    }


def _share(of: npt.NDArray[np.bool_]) -> float | None:
    return round(float(of.mean()), 4) if len(of) else None
