"""Training what the semantic cache decides by: pairs of texts to an artefact with its card.

Every figure in the card is out of fold: of each pair by trees that had seen neither its texts nor near-duplicates of
them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..scoring.embedding import FloatArray, TokenEmbedding
from ..semantic.differences import DIRECTIONS, features_hash
from ..semantic.equivalence import Judge, Question, Reader, compare, pair_key, safe_threshold
from ..semantic.words import Lexicon, WordLists
from ..trees import TREE_DEPTH
from .equivalence_rows import MADE, POOL_ROWS, WRITTEN, Pair, made_pairs, read_pairs, read_pool
from .files import need_extra
from .folds import folds_of, groups_of
from .trees import laid_out

FOLDS, SEED = 5, 0
TREES, LEARNING_RATE, LEAF_ROWS = 300, 0.1, 20
# A pair of a file counts as much as so many constructed ones; pairs with one label, of which some mean the same, less.
REAL_WEIGHT, LABEL_WEIGHT = 3.0, 0.2
# What the card reports.
ERRORS = (0.05, 0.02, 0.01, 0.005)
# Near misses of paraphrases that the calibration has for each of them, so many by what they say and so many by how they
# are written: the files have paraphrases of statements, but no statements that differ in what they say, and a bound
# must hold for those, too.
NEAR_MISSES = 1
LICENCES = (
    "Trained on public pairs: Disfl-QA (CC BY 4.0), Natural Questions (CC BY-SA 3.0), GPTCache's mock data (MIT), "
    "BFCL (Apache-2.0), GSM8K and SVAMP (MIT), IFEval (Apache-2.0), SNIPS (CC0), CLINC150 (CC BY 3.0), "
    "banking77 (CC BY 4.0). "
    "The arrays hold statistics of the rows, no text of theirs."
)
Progress = Callable[[str], None]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What was trained.

    Attributes:
        judge: Fitted on all pairs, calibrated.
        trained_for: See `features_hash`.
        pairs: All pairs.
        probability: Of each pair, out of fold.
        card: What goes beside the arrays.
    """

    judge: Judge
    trained_for: str
    pairs: Sequence[Pair]
    probability: FloatArray
    card: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Columns of N pairs.

    Attributes:
        columns: (N, C).
        refused: (N) whether the pair is refused whatever its columns say.
        same: (N) truth.
        weight: (N) in training; 0 where a pair is not learned from.
    """

    columns: FloatArray
    refused: BoolArray
    same: BoolArray
    weight: FloatArray


def train(
    data: Path,
    *,
    embedding: TokenEmbedding | None = None,
    progress: Progress = lambda step: None,
    most: int | None = None,
    trees: int = TREES,
) -> Trained:
    """Train on the pair files and on constructed pairs; deterministic.

    Args:
        data: Folder of the evaluation data.
        embedding: One that is loaded already.
        progress: Called with each step, in words.
        most: Only so many pairs, drawn evenly: to try the way out. Default: all.
        trees: How many.

    Raises:
        SmallfirstError: The extra `train` is not installed.
        DataError: A data file is missing or broken.
    """
    need_extra("duckdb", "sklearn")
    progress("reading pairs")
    lists = WordLists.load()
    lexicon = Lexicon(embedding or TokenEmbedding.load(), lists)
    given = read_pairs(data)
    given = given if most is None else given[:: max(1, len(given) // most)]
    pool = read_pool(data, POOL_ROWS if most is None else most, SEED)
    reader = Reader(lexicon)
    known: dict[str, Question | None] = {}

    def read(text: str) -> Question | None:
        if text not in known:
            known[text] = reader.read(text)
        return known[text]

    made = made_pairs(given, pool, lexicon, SEED)
    both = [(pair, read(pair.a), read(pair.b)) for pair in [*given, *made]]
    kept = [(pair, a, b) for pair, a, b in both if a is not None and b is not None]
    pairs = [pair for pair, _, _ in kept]
    progress(f"comparing {len(given)} pairs and {len(made)} constructed ones")
    matrix = _matrix(kept)
    fold = folds_by_text(pairs)
    odds = np.zeros(len(pairs), np.float32)
    for number in range(FOLDS):
        progress(f"fold {number + 1} of {FOLDS}")
        held_out = fold == number
        odds[held_out] = _fit(matrix, ~held_out, trees).log_odds(matrix.columns[held_out])
    used = _calibrating(pairs)
    probability = np.zeros(len(pairs), np.float32)
    for number in range(FOLDS):
        held_out = fold == number
        slope, offset = _platt(odds, matrix, used & ~held_out)
        probability[held_out] = _sigmoid(slope * odds[held_out] + offset)
    probability[matrix.refused] = 0.0
    progress("fitting on all pairs")
    fitted = _fit(matrix, np.ones(len(pairs), bool), trees)
    judge = Judge(
        fitted.split_column,
        fitted.split_at,
        fitted.leaves,
        fitted.bias,
        np.array(_platt(odds, matrix, used), np.float32),
        probability[used],
        matrix.same[used].astype(np.uint8),
        np.array([pair_key(pair.a, pair.b) for pair, yes in zip(pairs, used, strict=True) if yes], np.uint64),
    )
    card = _card(pairs, matrix, probability, used)
    trained_for = features_hash(lists)
    return Trained(judge, trained_for, pairs, probability, {"features": trained_for, **card})


def write(trained: Trained, out: Path) -> None:
    """Write the artefact and, beside it, its card."""
    out.parent.mkdir(parents=True, exist_ok=True)
    trained.judge.save(out, trained_for=trained.trained_for)
    text = json.dumps(trained.card, indent=2) + "\n"
    out.with_suffix(".json").write_text(text, encoding="utf-8")


def _matrix(kept: Sequence[tuple[Pair, Question, Question]]) -> Matrix:
    compared = [compare(a, b) for _, a, b in kept]
    pairs = [pair for pair, _, _ in kept]
    weight = [
        pair.weight
        * pair.learned
        * (REAL_WEIGHT if pair.real else 1.0)
        * (LABEL_WEIGHT if pair.kind.startswith("same_intent") else 1.0)
        for pair in pairs
    ]
    return Matrix(
        np.stack([one.columns for one in compared]),
        np.array([one.refused for one in compared]),
        np.array([pair.same for pair in pairs]),
        np.array(weight, np.float32),
    )


def folds_by_text(pairs: Sequence[Pair]) -> npt.NDArray[np.int32]:
    """Return the fold of each pair; pairs that share a text, or near-duplicates of one, are in the same fold."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    n = len(pairs)
    groups = groups_of([pair.a for pair in pairs] + [pair.b for pair in pairs])
    links = sp.csr_matrix((np.ones(n), (groups[:n], groups[n:])), shape=(int(groups.max()) + 1,) * 2)
    together = connected_components(links, directed=False)[1][groups[:n]].astype(np.int32)
    kinds = [pair.kind.split(":")[0] for pair in pairs]
    # A kind too rare to be in every fold is spread with the constructed pairs.
    count = Counter(kinds)
    return folds_of([kind if count[kind] >= FOLDS else MADE for kind in kinds], together, FOLDS, SEED)


def _fit(matrix: Matrix, rows: BoolArray, trees: int) -> Judge:
    """Fit trees, not yet calibrated."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    # These pairs are refused without the trees, so that these need not learn it.
    rows = rows & (matrix.weight > 0) & ~matrix.refused
    boosted = HistGradientBoostingClassifier(
        max_iter=trees,
        learning_rate=LEARNING_RATE,
        max_depth=TREE_DEPTH,
        max_leaf_nodes=2**TREE_DEPTH,
        min_samples_leaf=LEAF_ROWS,
        l2_regularization=5.0,
        monotonic_cst=list(DIRECTIONS),
        early_stopping=False,
        random_state=SEED,
    ).fit(matrix.columns[rows], matrix.same[rows], sample_weight=matrix.weight[rows])
    made = laid_out(boosted)
    nothing = np.zeros(0, np.float32)
    return Judge(
        made.column,
        made.threshold,
        made.leaves,
        np.array([made.start], np.float32),
        np.array([1.0, 0.0], np.float32),
        nothing,
        nothing.astype(np.uint8),
        nothing.astype(np.uint64),
    )


def _calibrating(pairs: Sequence[Pair]) -> BoolArray:
    """Which pairs the calibration has: those of the files, and near misses of paraphrases."""
    used = np.array([pair.real and pair.learned for pair in pairs])
    texts = {pair.a for pair in pairs if pair.kind == "paraphrase_statement"}
    taken: Counter[tuple[str, bool]] = Counter()
    for at, pair in enumerate(pairs):
        if pair.kind.startswith(f"{MADE}:near_miss") and pair.a in texts:
            # As many by what is said, and by how it is written.
            which = (pair.a, pair.kind.startswith(f"{MADE}:{WRITTEN}"))
            taken[which] += 1
            used[at] = taken[which] <= NEAR_MISSES
    return used


def _platt(odds: FloatArray, matrix: Matrix, rows: BoolArray) -> tuple[float, float]:
    """Return slope and offset on the log-odds that fit the truth best."""
    from sklearn.linear_model import LogisticRegression

    rows = rows & ~matrix.refused
    fitted = LogisticRegression(C=1e4).fit(odds[rows, None], matrix.same[rows])
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def _sigmoid(odds: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))), np.float32)


def _card(pairs: Sequence[Pair], matrix: Matrix, probability: FloatArray, used: BoolArray) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    truth = matrix.same.astype(np.uint8)
    kinds: dict[str, int] = {}
    for pair in pairs:
        kinds[pair.kind] = kinds.get(pair.kind, 0) + 1
    at = {
        str(error): figures_at(
            pairs, probability, safe_threshold(probability[used], truth[used], error, confidence=0.95)
        )
        for error in ERRORS
    }
    return {
        "format": 1,
        "trained": date.today().isoformat(),
        "scikit-learn": version("scikit-learn"),
        "seed": SEED,
        "pairs": int(sum(pair.real for pair in pairs)),
        "constructed": int(sum(not pair.real for pair in pairs)),
        "calibration": {
            "n": int(used.sum()),
            "same": int(truth[used].sum()),
            "constructed_near_misses": int(
                sum(not pair.real for pair, is_used in zip(pairs, used, strict=True) if is_used)
            ),
        },
        "kinds": kinds,
        "licences": LICENCES,
        "out_of_fold": {
            "auc": round(float(roc_auc_score(truth[used], probability[used])), 4),
            "max_error": at,
        },
    }


def figures_at(pairs: Sequence[Pair], probability: FloatArray, threshold: float | None) -> dict[str, Any]:
    """Return how the pairs fare at a threshold: precision and recall over the files' pairs, and accepted by kind."""
    accepted = np.zeros(len(pairs), bool) if threshold is None else probability >= threshold
    learned = np.array([pair.real and pair.learned for pair in pairs])
    same = np.array([pair.same for pair in pairs])
    by_kind: dict[str, dict[str, int]] = {}
    for pair, yes in zip(pairs, accepted.tolist(), strict=True):
        kind = by_kind.setdefault(pair.kind, {"n": 0, "same": 0, "accepted": 0})
        kind["n"] += 1
        kind["same"] += pair.same
        kind["accepted"] += yes
    right, wrong = int((accepted & learned & same).sum()), int((accepted & learned & ~same).sum())
    return {
        "threshold": None if threshold is None else round(threshold, 5),
        "accepted": right + wrong,
        "precision": round(right / (right + wrong), 4) if right + wrong else None,
        "recall": round(right / max(1, int((learned & same).sum())), 4),
        "by_kind": dict(sorted(by_kind.items())),
    }
