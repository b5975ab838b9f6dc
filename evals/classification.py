"""How well texts are labelled, and how far the probabilities can be trusted: by trained heads or by a local model.

Every figure is of rows that the heads did not see, where they are trained here on a pool of examples.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smallfirst.router.classification.choice import text_of
from smallfirst.router.classification.fit import BINS, SEED, fit_head
from smallfirst.router.classification.head import LabelHead
from smallfirst.router.errors import InvalidRequest, ModelUnavailable, RequestError
from smallfirst.router.models.base import Model
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.training.files import DataError, decoded, read_rows
from smallfirst.router.wire import ChatRequest

from .calls import CONCURRENCY, each, needed, placed_rows
from .metrics import expected_calibration_error

COLUMNS = ("id", "subset", "request", "labels", "expected")
POOL_COLUMNS = ("text", "label", "source", "domain")
# CLINC150's label of what belongs to none of the others; its own score leaves these rows out.
OUT_OF_SCOPE = "oos"
# Of an answer in words, where a model has no probabilities to tell.
MAX_TOKENS = 64

Labels = frozenset[str]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class IntentRow:
    """A text to label.

    Attributes:
        id: Its id in the file.
        subset: Which data it is from.
        body: The chat completion body, which asks for one of the labels.
        text: The text: the last user message.
        labels: What it may be.
        expected: What it is.
    """

    id: str
    subset: str
    body: Mapping[str, Any]
    text: str
    labels: Labels
    expected: str


@dataclass(frozen=True, slots=True)
class Guess:
    """What came of a row.

    Attributes:
        row: The row.
        label: The likeliest label; None where the row was refused.
        sure: Its probability; None where it is not known.
        error: The code with which the row was refused.
        baseline: What the baseline says, where there is one.
    """

    row: IntentRow
    label: str | None
    sure: float | None = None
    error: str | None = None
    baseline: str | None = None

    @property
    def right(self) -> bool:
        """Whether the label is the expected one."""
        return self.label == self.row.expected


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A head and a baseline that learned from the same examples.

    Attributes:
        head: The head.
        baseline: Takes texts and returns their labels: TF-IDF of words and a linear SVM, as scikit-learn has them.
        examples: How many there were.
        dropped: How many of the pool were left out, as they are test rows.
    """

    head: LabelHead
    baseline: Callable[[Sequence[str]], list[str]]
    examples: int
    dropped: int


def intent_rows(path: Path) -> list[IntentRow]:
    """Read a file of texts to label: Parquet or JSON lines with the columns of the evaluation data.

    Raises:
        DataError: The file is missing or broken; the message names the row and the column.
    """
    rows = []
    for where, row in placed_rows(path, COLUMNS):
        body = decoded(row, "request", where)
        try:
            text = text_of(ChatRequest.parse(body).fields)
        except InvalidRequest as exc:
            raise DataError(f"{where}: column 'request': {exc.message}") from exc
        labels, expected = frozenset(decoded(row, "labels", where)), str(decoded(row, "expected", where))
        rows.append(IntentRow(row["id"], row["subset"], body, text, labels, expected))
    return rows


def load_heads(paths: Sequence[Path]) -> dict[Labels, LabelHead]:
    """Read heads, by their labels.

    Raises:
        SettingsError: A file is missing or damaged.
    """
    embedding = TokenEmbedding.load()
    heads = (LabelHead.load(path, embedding=embedding) for path in paths)
    return {frozenset(head.labels): head for head in heads}


def guesses_of_heads(rows: Sequence[IntentRow], heads: Mapping[Labels, LabelHead]) -> list[Guess]:
    """Label the rows for whose labels there is a head; the others are left out."""
    guesses = []
    for labels, group in _by_labels(rows).items():
        head = heads.get(labels)
        if head is None:
            continue
        shares = head.predict_proba([row.text for row in group])
        for row, best, sure in zip(group, shares.argmax(axis=1), shares.max(axis=1), strict=True):
            guesses.append(Guess(row, head.labels[best], float(sure)))
    return guesses


async def guesses_of_model(
    model: Model,
    rows: Sequence[IntentRow],
    *,
    concurrency: int = CONCURRENCY,
    progress: Callable[[], None] = lambda: None,
) -> list[Guess]:
    """Have a model that is started label the rows, through its chat completions.

    Raises:
        ModelUnavailable: The model is gone; nothing can be said about the rows.
    """

    async def ask(row: IntentRow) -> Guess:
        return await _ask(model, row)

    return await each(rows, ask, concurrency=concurrency, progress=progress)


async def _ask(model: Model, row: IntentRow) -> Guess:
    body = {"max_tokens": MAX_TOKENS, **row.body, "model": model.name, "temperature": 0}
    try:
        reply = await model.complete(ChatRequest.parse(body))
    except ModelUnavailable:
        raise
    except RequestError as exc:
        return Guess(row, None, error=exc.code or exc.type)
    shares = (reply.body.get("classification") or {}).get("probabilities")
    if shares:
        best = max(shares, key=shares.__getitem__)
        return Guess(row, best, shares[best])
    return Guess(row, _written(reply.body["choices"][0]["message"]["content"] or ""))


def _written(content: str) -> str | None:
    """Return the label of an answer: a JSON string, or the one value of a JSON object."""
    try:
        found = json.loads(content)
    except ValueError:
        return content.strip()
    if isinstance(found, dict) and len(found) == 1:
        (found,) = found.values()
    return found if isinstance(found, str) else None


# --- heads that are trained for it ------------------------------------------------------------------------------


def train_on_pool(
    pool: Path, rows: Sequence[IntentRow], wanted: Sequence[Labels], *, progress: Progress = lambda step: None
) -> dict[Labels, Trained]:
    """Train a head, and the baseline, for each set of labels for which the pool has examples.

    Args:
        pool: With the columns `text, label, source, domain`. Examples are those of the one source whose labels, or
            else domains, are exactly the wanted ones.
        rows: All test rows: no text of theirs is learned from, whatever its case and blanks.
        wanted: Sets of labels.
        progress: Called with each step, in words.

    Raises:
        DataError: The pool is missing or broken, or has too few examples of a label.
        SmallfirstError: The extra `train` is not installed.
    """
    examples = list(read_rows(pool, POOL_COLUMNS))
    for number, example in enumerate(examples, 1):
        needed(example, ("text", "label", "source"), f"{pool}: row {number}")
    embedding = TokenEmbedding.load()
    trained = {}
    for labels in wanted:
        found = _examples(examples, labels)
        tests = {_bare(row.text) for row in rows if row.labels == labels}
        kept = [(text, label) for text, label in found if _bare(text) not in tests]
        if kept:
            texts, names = zip(*kept, strict=True)
            head = fit_head(texts, names, embedding=embedding, progress=progress)
            progress("fitting the baseline")
            trained[labels] = Trained(head, _baseline(texts, names), len(kept), len(found) - len(kept))
    return trained


def guesses_of_trained(rows: Sequence[IntentRow], trained: Mapping[Labels, Trained]) -> list[Guess]:
    """Label the rows with heads that were trained for it, and with their baselines."""
    guesses: list[Guess] = []
    for labels, group in _by_labels(rows).items():
        one = trained.get(labels)
        if one is not None:
            said = one.baseline([row.text for row in group])
            found = guesses_of_heads(group, {labels: one.head})
            guesses += [replace(guess, baseline=label) for guess, label in zip(found, said, strict=True)]
    return guesses


def _examples(pool: Sequence[Mapping[str, Any]], labels: Labels) -> list[tuple[str, str]]:
    """Return texts with their labels, of the source and column whose values are these labels."""
    for column in ("label", "domain"):
        for source in sorted({example["source"] for example in pool}):
            mine = [example for example in pool if example["source"] == source]
            if {example.get(column) for example in mine} == labels:
                return [(example["text"], example[column]) for example in mine]
    return []


def _baseline(texts: Sequence[str], labels: Sequence[str]) -> Callable[[Sequence[str]], list[str]]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    # Its default pattern drops words of one letter; texts may have no others.
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]")
    fitted = LinearSVC(random_state=SEED).fit(vectorizer.fit_transform(texts), labels)

    def said(unseen: Sequence[str]) -> list[str]:
        return [str(label) for label in fitted.predict(vectorizer.transform(unseen))]

    return said


def _bare(text: str) -> str:
    return " ".join(text.casefold().split())


def _by_labels(rows: Sequence[IntentRow]) -> dict[Labels, list[IntentRow]]:
    groups: dict[Labels, list[IntentRow]] = defaultdict(list)
    for row in rows:
        groups[row.labels].append(row)
    return groups


# --- the figures ----------------------------------------------------------------------------------------------


def classification_report(
    rows: Sequence[IntentRow],
    guesses: Sequence[Guess],
    trained: Mapping[Labels, Trained] | None = None,
) -> dict[str, Any]:
    """Return the figures of all rows, and by subset.

    Returns:
        Of all guesses, and likewise in `by_subset`: `n`, `accuracy`, `expected_calibration_error` (15 bins of the
        likeliest label's probability), `unserved` rows by code; where rows may be out of scope also
        `in_scope_accuracy` (their rows left out) and `out_of_scope_recall`; where there is a baseline its figures
        as `baseline`; where heads were trained here the examples that they had as `trained`. And `left_out`: rows
        by subset that there was no head for.
    """
    done = {(guess.row.subset, guess.row.id) for guess in guesses}
    by_subset: dict[str, list[Guess]] = defaultdict(list)
    for guess in guesses:
        by_subset[guess.row.subset].append(guess)
    figures = {name: _group(group) for name, group in sorted(by_subset.items())}
    for name, group in by_subset.items():
        one = (trained or {}).get(group[0].row.labels)
        if one is not None:
            figures[name]["trained"] = {"examples": one.examples, "dropped": one.dropped}
    return {
        **_group(guesses),
        "by_subset": figures,
        "left_out": dict(Counter(row.subset for row in rows if (row.subset, row.id) not in done)),
    }


def _group(guesses: Sequence[Guess]) -> dict[str, Any]:
    known = [(guess.sure, guess.right) for guess in guesses if guess.sure is not None]
    right = np.array([guess.right for guess in guesses], bool)
    inside = np.array([guess.row.expected != OUT_OF_SCOPE for guess in guesses], bool)
    scoped = any(OUT_OF_SCOPE in guess.row.labels for guess in guesses)
    figures: dict[str, Any] = {
        "n": len(guesses),
        **_accuracies(right, inside, scoped=scoped),
        "expected_calibration_error": (
            expected_calibration_error(*zip(*known, strict=True), bins=BINS) if known else None
        ),
        "unserved": dict(Counter(guess.error for guess in guesses if guess.error is not None)),
    }
    if any(guess.baseline is not None for guess in guesses):
        baseline = np.array([guess.baseline == guess.row.expected for guess in guesses], bool)
        figures["baseline"] = _accuracies(baseline, inside, scoped=scoped)
    return figures


def _accuracies(right: Any, inside: Any, *, scoped: bool) -> dict[str, float | None]:
    def share(of: Any) -> float | None:
        return float(of.mean()) if len(of) else None

    if not scoped:
        return {"accuracy": share(right)}
    return {
        "accuracy": share(right),
        "in_scope_accuracy": share(right[inside]),
        "out_of_scope_recall": share(right[~inside]),
    }
