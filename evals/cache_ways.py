"""What `smallfirst eval cache` measures and compares with: judges of likeness, answers to keep, and intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smallfirst.router.cache.recall import Keeps, Question, SameAnswer
from smallfirst.router.errors import RequestError
from smallfirst.router.scoring.embedding import FloatArray, TokenEmbedding
from smallfirst.router.semantic.equivalence import Equivalence, at_most
from smallfirst.router.semantic.equivalence import Question as EquivalenceQuestion
from smallfirst.router.semantic.volatility import CLASSES, Volatility
from smallfirst.router.training.files import DataError, decoded, read_rows
from smallfirst.router.wire import ChatRequest, FunctionDef

# What other gateways are set to; and what is tried for the picture.
FIXED = (0.80, 0.90, 0.95)
TRIED_COSINES = (0.70, 0.75, 0.80, 0.85, 0.88, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995)
TRIED_ERRORS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
# One model stands behind all requests.
TARGET = "eval"
EXACT_ONLY = "exact_only"


FileKind = Literal["pairs", "traffic", "cacheability"]
# What each kind of file must have; cacheability is known by its labels as well.
COLUMNS: Mapping[FileKind, frozenset[str]] = {
    "pairs": frozenset({"request", "request_b", "equivalent", "kind"}),
    "traffic": frozenset({"seq", "t_ms", "kind", "task", "request", "equiv_group", "servable_from_seq"}),
}


def cosine_name(least: float, *, rules: bool = True) -> str:
    """Return what a fixed threshold is called in reports."""
    return f"cosine_{least:.2f}" + ("" if rules else "_no_rules")


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What decides.

    Attributes:
        embedding: Of texts.
        equivalence: The judge that is measured.
        volatility: Says whether an answer keeps; the same for every judge.
    """

    embedding: TokenEmbedding
    equivalence: SameAnswer
    volatility: Keeps


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A text with its vector of length 1."""

    text: str
    vector: FloatArray


class Cosine:
    """Takes two texts to have the same answer where their embeddings are near, as gateways with a fixed threshold do.

    Args:
        embedding: Of texts.
        least: The threshold; it is the same whatever share of wrong answers is allowed, as long as there may be any.
    """

    def __init__(self, embedding: TokenEmbedding, least: float) -> None:
        self._embedding = embedding
        self._least = least

    def read(self, text: str) -> Embedded | None:
        """Embed a text; None where it has no tokens."""
        vector = self._embedding.embed([text])[0]
        return Embedded(text, vector) if vector.any() else None

    def probability(self, asked: Embedded, stored: Embedded) -> float:
        """Return the cosine: no probability, but what such gateways compare with a threshold."""
        return float(asked.vector @ stored.vector)

    def threshold(self, max_error: float) -> float | None:
        """Return the fixed threshold."""
        return self._least


class Unseen:
    """The judge that ships, but pairs that it was trained on are judged by one that had not seen them.

    Args:
        equivalence: The judge; it knows what was said of its training pairs out of fold.
    """

    def __init__(self, equivalence: Equivalence) -> None:
        self.read = equivalence.read
        self.threshold = equivalence.threshold
        self._equivalence = equivalence

    def probability(self, asked: EquivalenceQuestion, stored: EquivalenceQuestion) -> float:
        """Return P(same answer)."""
        unseen = self.out_of_fold(stored.text, asked.text)
        return self._equivalence.probability(asked, stored) if unseen is None else unseen

    def out_of_fold(self, a: str, b: str) -> float | None:
        """Return what was said of a training pair, in either order, without having seen it; None for other pairs."""
        told = self._equivalence.out_of_fold(a, b)
        return self._equivalence.out_of_fold(b, a) if told is None else told


class AtLeast:
    """Another judge with a given threshold: one that was worked out before, or 0 to see every probability.

    Args:
        judge: What reads and compares.
        least: The threshold; None: no two texts are taken to have the same answer.
    """

    def __init__(self, judge: SameAnswer, least: float | None) -> None:
        self.read = judge.read
        self.probability = judge.probability
        self._least = least

    def threshold(self, max_error: float) -> float | None:
        """Return the given threshold."""
        return self._least


class Remembering:
    """Another judge that reads each text, and compares each pair, once: many replays then cost little more than one."""

    def __init__(self, judge: SameAnswer) -> None:
        self.threshold = judge.threshold
        self._judge = judge
        self._read: dict[str, Question | None] = {}
        self._compared: dict[tuple[str, str], float] = {}

    def read(self, text: str) -> Question | None:
        """Read a text, or remember it."""
        if text not in self._read:
            self._read[text] = self._judge.read(text)
        return self._read[text]

    def probability(self, asked: Question, stored: Question) -> float:
        """Compare two texts, or remember what came of it."""
        pair = asked.text, stored.text
        if pair not in self._compared:
            self._compared[pair] = self._judge.probability(asked, stored)
        return self._compared[pair]


class RememberingKeeps:
    """Another judge of what keeps, that looks at each text once."""

    def __init__(self, volatility: Keeps) -> None:
        self._volatility = volatility
        self._known: dict[str, bool] = {}

    def keeps(self, text: str) -> bool:
        """Say whether an answer keeps, or remember it."""
        if text not in self._known:
            self._known[text] = self._volatility.keeps(text)
        return self._known[text]


def load_parts(artefact: Path | None = None) -> Parts:
    """Return the parts as the gateway has them.

    Args:
        artefact: Another judge than the one that ships.

    Raises:
        SmallfirstError: An artefact is missing or broken.
    """
    embedding = TokenEmbedding.load()
    return Parts(embedding, Unseen(Equivalence.load(embedding, artefact)), Volatility.load(embedding))


def provenance(judge: SameAnswer, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return how many pairs of texts were trained on, and judged out of fold; the others are held out."""
    rows = sum(judge.out_of_fold(a, b) is not None for a, b in pairs) if isinstance(judge, Unseen) else 0
    return {"out_of_fold": rows > 0, "out_of_fold_rows": rows, "held_out_rows": len(pairs) - rows}


def threshold_of(judge: SameAnswer, max_error: float) -> float | None:
    """Return a judge's threshold; None also where no wrong answer is allowed at all, as `Evidence` has it."""
    return judge.threshold(max_error) if max_error > 0 else None


def interval_95(hits: int, n: int) -> tuple[float, float] | None:
    """Return the exact (Clopper-Pearson) 95 % interval of a share; None of nothing."""
    if n == 0:
        return None
    return 1.0 - _highest(n - hits, n, 0.025), _highest(hits, n, 0.025)


def upper_95(hits: int, n: int) -> float | None:
    """Return the number that a share is under with 95 % confidence, by the exact binomial; None of nothing."""
    return None if n == 0 else _highest(hits, n, 0.05)


def _highest(hits: int, n: int, error: float) -> float:
    """Return the rate at which so few hits have this chance."""
    low, high = hits / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if not 0 < middle < 1:
            return middle
        if at_most(hits, n, middle) > error:
            low = middle
        else:
            high = middle
    return high


def kind_of_file(path: Path) -> FileKind:
    """Return what a file holds, by its columns.

    Raises:
        DataError: The file cannot be read, is empty, or is of none of the three kinds.
    """
    row = next(iter(read_rows(path)), None)
    if row is None:
        raise DataError(f"{path}: there are no rows.")
    for kind, columns in COLUMNS.items():
        if columns <= row.keys():
            return kind
    # Only this task's rows: many files have these columns.
    if {"request", "labels", "expected"} <= row.keys():
        labels = decoded(row, "labels", f"{path}: row 1")
        if isinstance(labels, list) and set(labels) == set(CLASSES):
            return "cacheability"
    pairs, traffic = (", ".join(sorted(columns)) for columns in COLUMNS.values())
    raise DataError(
        f"{path}: neither pairs (columns {pairs}) nor traffic ({traffic}) nor cacheability "
        f"(request, expected, and labels with {', '.join(CLASSES)}); there are {', '.join(row)}."
    )


def parsed(row: Mapping[str, Any], column: str, where: str, *, tenant: str = "default") -> ChatRequest:
    """Return a column's chat request.

    Raises:
        DataError: It is none; the message starts with `where`.
    """
    body = decoded(row, column, where)
    if not isinstance(body, dict):
        raise DataError(f"{where}: column '{column}': expected a JSON object, a chat completion body.")
    try:
        return ChatRequest.parse(body, tenant=tenant)
    except RequestError as exc:
        raise DataError(f"{where}: column '{column}': {exc.message}") from exc


def last_text(request: ChatRequest) -> str:
    """Return the text of the last message, which is all that many gateways compare."""
    return request.fields.messages[-1].text


def answer(request: ChatRequest, expected: Any, id_: str, *, calls: bool) -> dict[str, Any]:
    """Return an answer as a model would give it: words, or calls of the tools that the request offers.

    Args:
        request: The request.
        expected: What is right, in any of the forms that the data has; None where that is not known.
        id_: Of the answer.
        calls: Whether it calls tools.
    """
    if calls:
        made = [
            {
                "id": f"call_{at}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(given)},
            }
            for at, (name, given) in enumerate(_calls(request, expected))
        ]
        message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": made}
    else:
        words = expected if isinstance(expected, str) else json.dumps(expected)
        message = {"role": "assistant", "content": words if expected is not None else "An answer in words."}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {"id": id_, "object": "chat.completion", "created": 0, "model": TARGET, "choices": [choice]}


def _calls(request: ChatRequest, expected: Any) -> list[tuple[str, Any]]:
    """Return names and arguments; where `expected` has none, a call of the first tool that is offered."""
    found: list[tuple[str, Any]] = []
    for call in expected if isinstance(expected, list) else [expected]:
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            found.append((call["name"], call.get("arguments", {})))
        elif isinstance(call, dict):
            found += [(str(name), given) for name, given in call.items()]
    functions = [tool.function for tool in request.fields.tools or () if tool.function is not None]
    first: FunctionDef | None = functions[0] if functions else None
    return found or [(first.name if first else "function", {})]
