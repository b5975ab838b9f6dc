"""Reading a text into words that can be compared: numbers, contractions and courtesies are brought to one form.

What the word classes are is data (`data/words.json`), English as the requests are. What every word is like (its class,
its vector, its weight) is looked up once and kept, as requests share most of their words.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..scoring.embedding import FloatArray, TokenEmbedding, unit

# Longer texts are not compared: they are documents, of which one changed word changes the answer.
MAX_WORDS = 600
# Words whose properties are kept; about 1.3 kB each.
KEPT_WORDS = 20_000
# The length of the vector of a word that tells what a text is about (function words have 2, names 15 to 20).
TELLING = 15.0
# The weight of words that say little of what a text is about: "use", "provide", "available".
LIGHT = 0.2
SHORT_FORMS = MappingProxyType({"ll": "will", "re": "are", "ve": "have", "d": "would", "m": "am"})
# In the order of the fields of `Word`.
CLASSES = ("negation", "quantity", "unit", "ask", "modal", "relation", "filler", "literal", "quoting")

# A word that looks like a name in a program or an address: compared as it is, never as a near-synonym.
_CODE = r"(?:https?://\S*[\w/]|\w+(?:[./@\\]\w+)+|\w*_\w*)"
_NUMBER = r"(?:(?<![\w.])-)?\d+(?:,\d{3})+(?:\.\d+)?(?!\d)|(?:(?<![\w.])-)?\d+(?:\.\d+)?(?![\w.]*\.\d)"
# Scripts without spaces are read character by character.
_SINGLE = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_WORDS = re.compile(
    rf"{_CODE}|\d+(?:st|nd|rd|th)\b|{_NUMBER}(?=\W|$|[a-z])|{_SINGLE}|\w+(?:['’][a-z]+)?|[^\w\s]+",
    re.IGNORECASE,
)
# Marks that change no answer by themselves.
_SOFT = re.compile(r"[.,?!;:'\"`´‘’“”„«»()\[\]{}…–—*#|-]+")


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """What is known of a word.

    Attributes:
        text: As it is compared: lower case, a number in its shortest form.
        stem: Without the endings of its inflection; words with the same stem are aligned.
        kind: `content`, `number`, `code`, `symbol` or `function`.
        weight: How much it tells, in [0, 1].
        vector: Its direction in the embedding, shape (256,), length 1.
        tokens: Sum of its tokens' vectors, and how many they are.
        negation: Whether it says no.
        quantity: Whether it says how much, which or in what order.
        unit: Whether it is a unit, a date or a part of the answer that a constraint counts.
        ask: Whether it is a question word.
        modal: Whether it says who, whether or when, and not what.
        relation: Whether it says how two other words belong together.
        filler: Whether it can be left out.
        literal: Whether it asks about how something is written: then every letter counts.
        quoting: Whether it may ask about words themselves: then "sorry" is one of them, and takes nothing back.
        synonyms: Numbers of the sets of synonyms that it is in.
        antonyms: Numbers of the sets of opposites that it is in.
    """

    text: str
    stem: str
    kind: str
    weight: float
    vector: FloatArray
    tokens: tuple[FloatArray, int]
    negation: bool
    quantity: bool
    unit: bool
    ask: bool
    modal: bool
    relation: bool
    filler: bool
    literal: bool
    quoting: bool
    synonyms: frozenset[int]
    antonyms: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class WordLists:
    """The word classes of `data/words.json`, ready to be looked up.

    Attributes:
        classes: Words by the name of their class.
        phrases: Courtesies at the beginning (`opening`) and at the end (`closing`).
        forms: What is written in another form: `contractions`, `symbols`, `ordinals`.
        numbers: Values of spelled numbers; `scales`: what they are multiplied by.
        scales: See `numbers`.
        synonyms: Numbers of the sets that a stem is in.
        antonyms: Likewise.
        opposites: To a word, its opposites.
        edits: Patterns of what a speaker says before correcting himself.
        source: The file, which an artefact is bound to.
    """

    classes: Mapping[str, frozenset[str]]
    phrases: Mapping[str, frozenset[str]]
    forms: Mapping[str, Mapping[str, str]]
    numbers: Mapping[str, int]
    scales: Mapping[str, int]
    synonyms: Mapping[str, frozenset[int]]
    antonyms: Mapping[str, frozenset[int]]
    opposites: Mapping[str, tuple[str, ...]]
    edits: tuple[str, ...]
    source: bytes

    @classmethod
    def load(cls) -> WordLists:
        """Read the file that ships."""
        source = Path(str(resources.files(__package__) / "data" / "words.json")).read_bytes()
        lists = json.loads(source)
        classes = {
            name: frozenset(lists[name].split()) for name in (*CLASSES, "function", "weak_edits", "no_edits")
        }
        return cls(
            classes | {"light": frozenset(_stem(word) for word in lists["light"].split())},
            {name: frozenset(lists[name]) for name in ("opening", "closing")},
            {name: lists[name] for name in ("contractions", "symbols", "ordinals", "irregular")},
            lists["numbers"],
            lists["scales"],
            _sets(lists["synonyms"], lists["irregular"]),
            _sets(lists["antonyms"], lists["irregular"]),
            _opposites(lists["antonyms"]),
            tuple(lists["edits"]),
            source,
        )

    def stem(self, word: str) -> str:
        """Return what inflections of a word have in common."""
        return _stem(self.forms["irregular"].get(word, word))


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """Reads texts into words. Safe to use from several threads: what is kept of words is a bounded cache."""

    embedding: TokenEmbedding
    lists: WordLists
    _known: dict[str, Word] = field(default_factory=dict, repr=False)

    def words(self, text: str) -> list[tuple[Word, str]] | None:
        """Return the words of a text, each with its form as written; None if there are none, or too many.

        Courtesies at the ends are left out, and marks that change no answer.
        """
        if len(text) > 40 * MAX_WORDS:
            return None
        # Quotes are often escaped once too much.
        text = text.replace('\\"', '"')
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        pieces = _WORDS.findall(text)
        if len(pieces) > 2 * MAX_WORDS:
            return None
        read, written = self._plain(pieces, capitals=text.isupper())
        read, written = self._spelled_numbers(read, written)
        start, end = self._courtesies(read)
        read, written = read[start:end], written[start:end]
        if not read or len(read) > MAX_WORDS:
            return None
        known = self._known
        if len(known) > KEPT_WORDS:
            known.clear()
        return [
            (known.get(word) or self._look_up(word), form) for word, form in zip(read, written, strict=True)
        ]

    def _plain(self, pieces: Sequence[str], *, capitals: bool) -> tuple[list[str], list[str]]:
        """Return the words that pieces of text are, in one form, and as written."""
        read: list[str] = []
        written: list[str] = []
        forms, classes = self.lists.forms, self.lists.classes
        contractions, symbols, ordinals = forms["contractions"], forms["symbols"], forms["ordinals"]
        function, negation = classes["function"], classes["negation"]
        for piece in pieces:
            # A star alone may be a sign of arithmetic.
            if piece != "*" and _SOFT.fullmatch(piece):
                continue
            word = piece.lower().replace("’", "'")
            parts = contractions[word].split() if word in contractions else _apart(word)
            if len(parts) > 1:
                read += parts
                written += [piece, *parts[1:]]
                continue
            word = parts[0]
            if word[0].isdigit() or (word[0] == "-" and len(word) > 1):
                word = ordinals.get(word) or _number(word)
            elif word in symbols:
                word = symbols[word]
            elif (
                not capitals
                and len(word) > 1
                and word in function
                and word not in negation
                and piece.isupper()
            ):
                # "US" is not "us", nor "WHO" "who".
                word = piece
            read.append(word)
            written.append(piece)
        return read, written

    def _spelled_numbers(self, read: list[str], written: list[str]) -> tuple[list[str], list[str]]:
        """Write spelled numbers as digits: "twenty five thousand" and "25 thousand" are 25000."""
        numbers, scales = self.lists.numbers, self.lists.scales
        if not any(word in numbers or word in scales for word in read):
            return read, written
        out: list[str] = []
        forms: list[str] = []
        # What is complete ("two thousand"), and what a scale may still multiply; None outside of a number.
        total: float = 0.0
        part: float | None = None
        for word, form in zip(read, written, strict=True):
            plain, scale = numbers.get(word), scales.get(word)
            if plain is not None and part is not None and _continues(total, part, plain):
                part += plain
            elif scale is not None and out and (part is not None or out[-1] in ("a", "one")):
                part = (part or 1) * scale
                if scale > 100:
                    total, part = total + part, 0.0
            else:
                total, part = 0.0, _value(word) if plain is None else float(plain)
                out.append(word if plain is None and scale is None else _shortest(float(plain or scale or 0)))
                forms.append(form)
                continue
            out[-1] = _shortest(total + part)
        return out, forms

    def _courtesies(self, read: list[str]) -> tuple[int, int]:
        """Return where what is asked starts and ends. What is nothing but courtesies stays as it is."""
        openings, closings = self.lists.phrases["opening"], self.lists.phrases["closing"]
        start, end = 0, len(read)
        again = True
        while again:
            again = False
            for width in range(min(5, end - start - 1), 0, -1):
                if " ".join(read[start : start + width]) in openings:
                    start, again = start + width, True
                    break
            for width in range(min(5, end - start - 1), 0, -1):
                if " ".join(read[end - width : end]) in closings:
                    end, again = end - width, True
                    break
        return start, end

    def _look_up(self, word: str) -> Word:
        ids = self.embedding.ids(word)
        tokens = self.embedding.vectors[ids].sum(axis=0) if len(ids) else self.embedding.mean(ids)
        stem = self.lists.stem(word)
        classes = self.lists.classes
        if _is_number(word):
            kind = "number"
        elif "_" in word or any(mark in word for mark in "./@\\") or (
            any(c.isdigit() for c in word) and any(c.isalpha() for c in word)
        ):  # fmt: skip
            kind = "code"
        elif not any(c.isalnum() for c in word):
            kind = "symbol"
        else:
            kind = "function" if word in classes["function"] else "content"
        length = float(np.sqrt(tokens @ tokens))
        said = {name: word in classes[name] for name in CLASSES}
        made = Word(
            text=word,
            stem=stem,
            kind=kind,
            weight=self._weight(stem, kind, length),
            vector=unit(tokens),
            tokens=(tokens, len(ids)),
            synonyms=self.lists.synonyms.get(stem, frozenset()),
            antonyms=self.lists.antonyms.get(stem, frozenset()),
            **said,
        )
        self._known[word] = made
        return made

    def _weight(self, stem: str, kind: str, length: float) -> float:
        if kind == "function":
            return 0.0
        if stem in self.lists.classes["light"]:
            return LIGHT
        return min(1.0, max(2 * LIGHT, length / TELLING))


def _apart(word: str) -> tuple[str, ...]:
    """Take a word with an apostrophe apart: "don't" is two words, "father's" one, with its owner's form."""
    head, mark, tail = word.partition("'")
    if not mark or not head:
        return (word,)
    if tail in ("s", ""):
        return (head,)
    if tail == "t" and head.endswith("n") and len(head) > 2:
        return (head[:-1], "not")
    return (head, SHORT_FORMS[tail]) if tail in SHORT_FORMS else (word,)


def _sets(lines: list[str], irregular: Mapping[str, str]) -> Mapping[str, frozenset[int]]:
    of: dict[str, set[int]] = {}
    for number, line in enumerate(lines):
        for word in line.split():
            of.setdefault(_stem(irregular.get(word, word)), set()).add(number)
    return {stem: frozenset(numbers) for stem, numbers in of.items()}


def _opposites(lines: list[str]) -> Mapping[str, tuple[str, ...]]:
    of: dict[str, tuple[str, ...]] = {}
    for line in lines:
        for word in line.split():
            of[word] = of.get(word, ()) + tuple(other for other in line.split() if other != word)
    return of


def _stem(word: str) -> str:
    """Cut the endings of English inflection; crude, but the same for both texts."""
    if not word.isalpha() or len(word) < 4:
        return word
    if word.endswith("ied") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if word.endswith("ing") and len(word) > 5:
        word = _undoubled(word[:-3])
    elif word.endswith("ed") and len(word) > 4:
        word = _undoubled(word[:-2])
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _undoubled(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz" else word


def _number(word: str) -> str:
    """Bring a number to its shortest form; what only starts like one stays as it is."""
    plain = word.replace(",", "")
    if plain.isdigit():
        # Not more than one zero goes: "05" is a month, "007" is a name.
        return plain[1:] if len(plain) == 2 and plain[0] == "0" else plain
    try:
        return _shortest(float(plain)) if len(plain) < 15 else plain
    except ValueError:
        return word


def _continues(total: float, part: float, plain: int) -> bool:
    """Whether a spelled number goes on: twenty *five*, two hundred *fifty*, two thousand *ten*."""
    if part == 0:
        return total > 0
    return (part % 100 >= 20 and part % 10 == 0 and 0 < plain < 10) or (
        part >= 100 and part % 100 == 0 and 0 < plain < 100
    )


def _shortest(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _value(word: str) -> float | None:
    if not _is_number(word) or len(word) > 12:
        return None
    return float(word)


def _is_number(word: str) -> bool:
    plain = word.removeprefix("-").replace(".", "", 1)
    return plain.isascii() and plain.isdigit()
