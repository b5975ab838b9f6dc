"""What differs between two texts: the columns that the decision "same answer" is learned from.

Words are aligned; what counts is what stays without a partner. Every column has a direction: more of a difference can
only lower the probability, whatever the training rows say (`DIRECTIONS`). No column says what the texts share, how near
their vectors are, or how long they are: nothing of that can be traded against a difference, so that one other word in a
long shared text weighs as much as in a short one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scoring.embedding import FloatArray
from .alignment import Told, align
from .likeness import SYNONYM, nearness
from .marks import PAUSE, hard, same_gap, spoken
from .repair import MOST_REPAIRS, Edit, repair
from .words import Word, WordLists, Written

# With more telling words without a partner on one side, texts are refused without comparing these.
MOST_ALONE = 12
# What kinds of words tell what a text is about.
TELLING = ("content", "code", "number")
# A question word stands among so many first words of a question.
QUESTION_STARTS = 3
# "… with a pool, no pets".
HAVING = frozenset({"with", "have", "has", "having", "contain", "contains", "include", "includes", "without"})
# In longer texts, what stands far before the question word is mostly told, not asked.
LONGEST_QUESTION = 20
# Who asks for something to be done names himself or whom he asks.
REQUESTING = frozenset({"i", "me", "my", "we", "us", "our", "you", "your", "please"})

COLUMNS: tuple[tuple[str, int], ...] = (
    ("unordered", -1),
    ("longer", -1),
    ("numbers_moved", -1),
    ("negation", -1),
    ("antonyms", -1),
    ("quantity", -1),
    ("unit", -1),
    ("ask", -1),
    ("modal", -1),
    ("relation", -1),
    ("function", -1),
    ("code", -1),
    ("symbols", -1),
    ("names", -1),
    ("alone_more", -1),
    ("alone_fewer", -1),
    ("unlike_more", -1),
    ("unlike_fewer", -1),
    ("worst", -1),
    ("worst_fewer", -1),
    ("chunk", 1),
    ("moved", -1),
    ("relation_moved", -1),
    ("exchanged", -1),
    ("taken_back", -1),
    ("weak_edit", -1),
)
NAMES = tuple(name for name, _ in COLUMNS)
DIRECTIONS = tuple(direction for _, direction in COLUMNS)
# Raise when what a column means changes: an artefact is bound to it.
VERSION = 6


def features_hash(lists: WordLists) -> str:
    """Name what an artefact was trained for: the columns, their version, and the word lists."""
    told = repr((VERSION, COLUMNS)).encode() + lists.source
    return hashlib.blake2b(told, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A text read into words.

    Attributes:
        written: Its words, and what stands between them.
        edits: Where the speaker may have corrected himself.
        case: Of its letters: `small`, `capitals` or `mixed`.
    """

    written: Written
    edits: tuple[Edit, ...]
    case: str


@dataclass(slots=True)
class _Said:
    """What a reading says once what the speaker took back is out; see `Written`."""

    words: list[Word]
    forms: list[str]
    gaps: list[str]
    case: str


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """The columns of a pair.

    Attributes:
        columns: In the order of `NAMES`.
        refused: Whether nothing else counts: the texts name different numbers, share too little, say the same words
            of one another ("from Paris to London"), or are written with other marks, endings, capitals or line
            breaks where these may matter.
    """

    columns: FloatArray
    refused: bool


REFUSED = Differences(np.zeros(len(NAMES), np.float32), True)


def differences(a: Reading, b: Reading) -> Differences:
    """Compare two texts; the same in both directions.

    Args:
        a: One text.
        b: The other one.
    """
    if (len(b.written.words), b.written.forms) < (len(a.written.words), a.written.forms):
        # One order for both directions: which of two equally good alignments is found depends on it.
        a, b = b, a
    one, two = a.written, b.written
    if one.literal != two.literal or one.last != two.last or {one.mark, two.mark} == {".", "?"}:
        return REFUSED
    told = Told()
    said_a, said_b = (
        _Said(list(x.written.words), list(x.written.forms), list(x.written.gaps), x.case) for x in (a, b)
    )
    if a.edits or b.edits:
        _repaired(said_a, a.edits, said_b.words, told)
        _repaired(said_b, b.edits, said_a.words, told)
    words_a, words_b = said_a.words, said_b.words
    if _texts(words_a, "number") != _texts(words_b, "number"):
        return REFUSED
    alone_a, alone_b, partners = align(words_a, words_b, told)
    telling_a = sum(words_a[at].kind in TELLING for at in alone_a)
    telling_b = sum(words_b[at].kind in TELLING for at in alone_b)
    if (
        max(telling_a, telling_b) > MOST_ALONE
        or told.inflected
        or _otherwise_written(said_a, said_b, partners)
    ):
        return REFUSED
    if alone_a or alone_b:
        _compare((words_a, said_a.forms, alone_a), (words_b, said_b.forms, alone_b), told)
    told.longer = abs(len(words_a) - len(words_b))
    columns = np.array([getattr(told, name) for name in NAMES], np.float32)
    turned = told.relation_moved or told.exchanged or told.numbers_moved
    return Differences(columns, bool(turned))


def _texts(words: Sequence[Word], kind: str) -> list[str]:
    """Return the words of one kind: numbers as they may stand in any order, signs as they stand."""
    found = [word.text for word in words if word.kind == kind]
    return sorted(found) if kind == "number" else found


def _otherwise_written(a: _Said, b: _Said, partners: list[tuple[int, int]]) -> bool:
    """Whether the marks, the capitals or the owner's forms of two texts differ where that may matter."""
    if _texts(a.words, "symbol") != _texts(b.words, "symbol") or hard(a.gaps) != hard(b.gaps):
        return True
    there = dict(partners)
    for at, to in partners:
        x, y = a.forms[at], b.forms[to]
        if x != y:
            owners = x.lower().endswith(("'s", "s'")) != y.lower().endswith(("'s", "s'"))
            if owners or (x.lower() == y.lower() and not _case_forgiven(a, at, b, to)):
                return True
        # What stands between the same two words.
        if there.get(at + 1) == to + 1 and not same_gap(a.gaps[at + 1], b.gaps[to + 1]):
            return True
    return False


def _case_forgiven(a: _Said, at: int, b: _Said, to: int) -> bool:
    """Whether a word may be written in both cases.

    In a text without capitals, or all in capitals, case says nothing; yet "us" is not "US", nor "mb" "Mb" or "-d"
    "-D": only words that are plainly capitalised, or small, in the other text.
    """
    if b.case == "mixed" and a.case != "mixed":
        a, at, b, to = b, to, a, at
    form, other = a.forms[at], b.forms[to]
    plain = len(form) > 1 and form.replace("'", "").isalpha() and form[1:].islower()
    if a.case == "mixed" and b.case == "mixed":
        # The first word of a sentence.
        return at == 0 and to == 0 and form[1:] == other[1:] and form[1:].islower()
    if form == "I" or other == "I":
        return any(word.modal for word in (*a.words[max(0, at - 1) : at], *a.words[at + 1 : at + 2]))
    if a.words[at].kind in ("code", "number"):
        return False
    if a.case == "mixed":
        return plain or (b.case == "capitals" and form == "a") or (at == 0 and form == "A")
    # Small letters to capitals.
    return a.words[at].text.replace("'", "").isalpha()


def _repaired(said: _Said, edits: Sequence[Edit], other: Sequence[Word], told: Told) -> None:
    """Take what the speaker took back out of a text, in place."""
    towards = [w.stem for w in other]
    edits = [e for e in edits if not _quoted(said.words, e) and (not e.weak or _asks(said.words, e))]
    for _ in range(MOST_REPAIRS):
        done = repair([w.stem for w in said.words], edits, towards) if edits else None
        if done is None or not _in_speech(said.gaps, done.kept):
            break
        told.taken_back += len(said.words) - len(done.kept)
        said.gaps[:] = [
            said.gaps[at] if at == before + 1 else PAUSE + "".join(said.gaps[before + 1 : before + 2])
            for before, at in zip((-1, *done.kept), done.kept, strict=False)
        ]
        said.words[:] = [said.words[at] for at in done.kept]
        said.forms[:] = [said.forms[at] for at in done.kept]
        told.weak_edit = max(told.weak_edit, float(done.weak))
        # What a second repair would take back stands before the first one's place.
        edits = [e for e in edits if e.end <= done.before]


def _in_speech(gaps: Sequence[str], kept: Sequence[int]) -> bool:
    """Whether nothing but pauses goes with what is taken back: no quotes, brackets or colons."""
    stays = {at for before, at in zip((-1, *kept), kept, strict=False) if at == before + 1}
    return all(spoken(gap) for at, gap in enumerate(gaps) if at not in stays)


def _quoted(words: list[Word], edit: Edit) -> bool:
    """Whether the words of an edit are what is asked about: "What does sorry mean?" takes nothing back."""
    if words[edit.end].quoting:
        return True
    before = words[max(0, edit.start - 2) : edit.start]
    return bool(before) and (before[-1].quoting or (before[-1].kind == "function" and before[0].quoting))


def _asks(words: list[Word], edit: Edit) -> bool:
    """Whether a text is a question for a fact: there a "no" mostly takes back.

    In a request it mostly does not: "Find me a hotel with a pool, no pets".
    """
    if any(word.text in HAVING for word in words[max(0, edit.start - 3) : edit.start]):
        return False
    if words[edit.end].ask or any(word.ask for word in words[:QUESTION_STARTS]):
        return True
    if len(words) > LONGEST_QUESTION or any(word.text in REQUESTING for word in words):
        return False
    return any(word.ask for word in words)


def _compare(
    a: tuple[list[Word], list[str], list[int]], b: tuple[list[Word], list[str], list[int]], told: Told
) -> None:
    """Count what stays without a partner, by what it is.

    Args:
        a: Words of one text, as they are compared and as written, and the places of those without a partner.
        b: The same of the other text.
        told: Where it is counted.
    """
    _count_classes([a[0][at] for at in a[2]], [b[0][at] for at in b[2]], told)
    negations = [sum(word.negation for word in words) for words, _, _ in (a, b)]
    told.negation = max(told.negation, abs(negations[0] - negations[1]))
    content_a, content_b = (
        [at for at in alone if words[at].kind in TELLING and not words[at].filler]
        for words, _, alone in (a, b)
    )
    if not content_a and not content_b:
        return
    left_a, left_b = [a[0][at] for at in content_a], [b[0][at] for at in content_b]
    near_a, near_b = nearness(left_a, left_b, told)
    sides = []
    for (words, forms, _), places, near in ((a, content_a, near_a), (b, content_b, near_b)):
        gaps = [words[at].weight * (1 - x) for at, x in zip(places, near, strict=True)]
        told.names += sum(
            x < SYNONYM and at > 0 and forms[at][0].isupper() for at, x in zip(places, near, strict=True)
        )
        sides.append((sum(words[at].weight for at in places), sum(gaps), max(gaps, default=0.0)))
    (alone_1, unlike_1, worst_1), (alone_2, unlike_2, worst_2) = sides
    told.alone_fewer, told.alone_more = sorted((alone_1, alone_2))
    told.unlike_fewer, told.unlike_more = sorted((unlike_1, unlike_2))
    told.worst_fewer, told.worst = sorted((worst_1, worst_2))
    told.chunk = _chunk(left_a, left_b)


def _count_classes(left_a: list[Word], left_b: list[Word], told: Told) -> None:
    negations = [0, 0]
    asks: list[set[str]] = [set(), set()]
    for side, left in enumerate((left_a, left_b)):
        for word in left:
            if word.filler:
                continue
            if word.negation:
                negations[side] += 1
            elif word.quantity:
                told.quantity += 1
            elif word.unit:
                told.unit += 1
            elif word.ask:
                asks[side].add(word.text)
            elif word.modal:
                told.modal += 1
            elif word.relation:
                told.relation += 1
            elif word.kind == "function":
                told.function += 1
            elif word.kind == "code":
                told.code += 1
            elif word.kind == "symbol":
                told.symbols += 1
    told.negation = abs(negations[0] - negations[1])
    told.ask = len(asks[0] ^ asks[1])


def _chunk(left_a: list[Word], left_b: list[Word]) -> float:
    """Cosine of what is left of the two texts as a whole; 0 where one has nothing left."""
    if not left_a or not left_b:
        return 0.0
    x = np.add.reduce([w.tokens[0] for w in left_a])
    y = np.add.reduce([w.tokens[0] for w in left_b])
    return float(x @ y / max(np.sqrt((x @ x) * (y @ y)), 1e-6))
