"""Pairs of texts that the semantic cache's decision is trained on: those of the pair files, and constructed ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..semantic.equivalence import Question, Reader
from ..semantic.words import Lexicon
from .equivalence_variants import Variants, pools_of
from .equivalence_written import Rewritten
from .files import read_rows

PAIR_FILES = ("cache_pairs_dev.parquet", "cache_pairs_gptcache_mock_dev.parquet")
POOL_FILE = "intent_train_pool_dev.parquet"
COLUMNS = ("id", "prompt_a", "prompt_b", "equivalent", "kind")
# Their texts are equal; what tells them apart (tools, earlier turns) is compared before any text is.
GUARDED = frozenset({"same_prompt_other_tools", "same_last_message_other_history"})
# Equivalent for a label or for a tool call, which is not the same answer: the former count as different, the latter
# are left out of what is learned (a paraphrase of a tool request is not what they are: dates and genres differ).
LABEL_ONLY = frozenset({"same_intent_clinc", "same_intent_bank"})
UNDECIDED = frozenset({"tool_same_args"})
# Utterances of the intent pool that are taken, and how many changed texts are made of a text.
POOL_ROWS, CHANGES = 1500, 3
# The name that constructed pairs' kinds begin with, and what such a pair weighs.
MADE, MADE_WEIGHT = "made", 0.5
# Near misses by how a text is written.
WRITTEN = "near_miss_written"
# Changes that a mean of word vectors does not see, or hardly: what texts that are built to collide look like.
TELLING, TELLING_WEIGHT = frozenset({"order", "swapped", "turned", "negated", "opposite"}), 1.5


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts and whether they have the same answer.

    Attributes:
        id: Of the row in its file; empty for a constructed pair.
        a: One text.
        b: The other one.
        same: Whether they have the same answer.
        kind: As the file has it; `made:…` for a constructed pair.
        weight: In training.
        learned: Whether it is a row to learn from.
    """

    id: str
    a: str
    b: str
    same: bool
    kind: str
    weight: float = 1.0
    learned: bool = True

    @property
    def real(self) -> bool:
        """Whether the pair is one of a file."""
        return bool(self.id)


def read_pairs(data: Path) -> list[Pair]:
    """Return the pairs of the pair files, less those that are told apart before their texts are compared.

    Raises:
        DataError: A file is missing or broken.
    """
    pairs = []
    for name in PAIR_FILES:
        for row in read_rows(data / name, COLUMNS):
            kind = row["kind"]
            if kind in GUARDED:
                continue
            same = bool(row["equivalent"]) and kind not in LABEL_ONLY
            pairs.append(
                Pair(row["id"], row["prompt_a"], row["prompt_b"], same, kind, learned=kind not in UNDECIDED)
            )
    return pairs


def read_pool(data: Path, count: int, seed: int) -> list[tuple[str, str]]:
    """Return utterances of the intent pool, each with its label, drawn by the seed.

    Raises:
        DataError: The file is missing or broken.
    """
    rows = [(row["text"], row["label"]) for row in read_rows(data / POOL_FILE, ("text", "label"))]
    return random.Random(seed).sample(sorted(set(rows)), min(count, len(rows)))


def made_pairs(
    pairs: Sequence[Pair], pool: Sequence[tuple[str, str]], lexicon: Lexicon, seed: int
) -> list[Pair]:
    """Return constructed pairs: near misses of every text, near misses of paraphrases, and harmless variants."""
    texts = sorted({pair.a for pair in pairs if pair.learned} | {text for text, _ in pool})
    variants = Variants(pools_of(texts, lexicon), lexicon.lists, seed)
    rewritten = Rewritten(seed)
    made: list[Pair] = []

    def stems(text: str) -> list[str]:
        return [word.stem for word in read.words] if (read := lexicon.read(text)) else []

    def add(a: str, b: str | None, same: bool, how: str, weight: float = MADE_WEIGHT) -> None:
        # What changes an ending at most ("test", "testing") changes no answer.
        if b is not None and a != b and (same or stems(a) != stems(b)):
            made.append(Pair("", a, b, same, f"{MADE}:{how}", weight))

    for text in texts:
        for other, how in variants.changed(text, CHANGES):
            add(text, other, False, how, TELLING_WEIGHT if how in TELLING else MADE_WEIGHT)
        written = rewritten.changed(text)
        if written is not None:
            made.append(Pair("", text, written[0], False, f"{MADE}:{written[1]}", MADE_WEIGHT))
        add(text, variants.surface(text), True, "surface", 0.3)
        add(text, variants.disfluent(text), True, "disfluent", 0.2)
    for pair in pairs:
        if pair.same and pair.learned:
            # In a text of a speaker who corrects himself, a change may fall on what he takes back: change the other.
            told, kept = (pair.a, pair.b) if pair.kind == "disfluent_same" else (pair.b, pair.a)
            for other, how in variants.changed(told, CHANGES):
                add(kept, other, False, f"near_miss_{how}")
            written = rewritten.changed(told)
            if written is not None:
                made.append(Pair("", kept, written[0], False, f"{MADE}:{WRITTEN}_{written[1]}", MADE_WEIGHT))
    for _ in range(150):
        a, b = variants.without_it()
        add(a, b, False, "without_it")
        a, b = rewritten.courtesies()
        add(a, b, False, "courtesy")
    made += _neighbours(pairs, pool, Reader(lexicon))
    return made


def _neighbours(pairs: Sequence[Pair], pool: Sequence[tuple[str, str]], reader: Reader) -> list[Pair]:
    """Return, for utterances, the nearest one with another label; for statements and questions, the nearest other one.

    Statements of one document often say the same: only such count as different that name other things of a program.
    """
    found: list[Pair] = []
    labelled = [(text, label) for text, label in pool]
    statements = sorted({(p.a, "") for p in pairs if p.kind == "paraphrase_statement"})
    questions = sorted(
        {(p.a, p.a) for p in pairs if p.kind in ("disfluent_same", "same_passage_other_question")}
    )
    for how, rows in (
        ("other_label", labelled),
        ("other_statement", statements),
        ("other_question", questions),
    ):
        read = [(text, label, reader.read(text)) for text, label in rows]
        known = [(text, label, question) for text, label, question in read if question is not None]
        if not known:
            continue
        vectors = np.stack([question.vector for _, _, question in known])
        for at, (text, label, question) in enumerate(known):
            nearest = np.argsort(-(vectors @ vectors[at]), kind="stable")[1:12].tolist()
            for to in nearest:
                other, its, its_question = known[to]
                apart = _codes(question) != _codes(its_question) if how == "other_statement" else label != its
                if apart and other != text:
                    found.append(Pair("", text, other, False, f"{MADE}:{how}", MADE_WEIGHT))
                    break
    return found


def _codes(question: Question) -> set[str]:
    return {word.text for word in question.reading.written.words if word.kind in ("code", "number")}
