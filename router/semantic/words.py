"""Reading a text into words that can be compared: spelled numbers, contractions and courtesies have one form.

What the word classes are is data (`data/words.json`), English as the requests are. What every word is like (its class,
its vector, its weight) is looked up once and kept, as requests share most of their words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np

from ..scoring.arithmetic import unit
from ..scoring.embedding import FloatArray, TokenEmbedding
from .forms import apart, continues, is_number, number, shortest, stem, value_of
from .marks import between, closing, ending, material, one_form, opening

# Longer texts are not compared: they are documents, of which one changed word changes the answer.
MAX_WORDS, MAX_CHARACTERS = 150, 2_000
# Words whose properties are kept, about 3.5 kB each; then all are looked up anew (50 µs). Texts have numbers and names
# that never come again, so that it would else grow for long.
KEPT_WORDS = 4_000
# The length of the vector of a word that tells what a text is about (function words have 2, names 15 to 20).
TELLING = 15.0
# The weight of words that say little of what a text is about: "use", "provide", "available".
LIGHT = 0.2
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
# Marks that are no word of their own; they are kept as what stands between words.
_SOFT = re.compile(r"[.,?!;:'\"`´‘’“”„«»()\[\]{}…–—*#|-]+")


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """What is known of a word.

    Attributes:
        text: As it is compared: lower case, a number in digits, with the zeros that it is written with.
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
        edits: Patterns of what a speaker says before correcting himself; `sure_edits` are said for nothing else.
        sure_edits: See `edits`.
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
    sure_edits: tuple[str, ...]
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
            classes | {"light": frozenset(stem(word) for word in lists["light"].split())},
            {name: frozenset(lists[name]) for name in ("opening", "closing")},
            {name: lists[name] for name in ("contractions", "symbols", "ordinals", "irregular")},
            lists["numbers"],
            lists["scales"],
            _sets(lists["synonyms"], lists["irregular"]),
            _sets(lists["antonyms"], lists["irregular"]),
            _opposites(lists["antonyms"]),
            tuple(lists["edits"]),
            tuple(lists["sure_edits"]),
            source,
        )

    def stem(self, word: str) -> str:
        """Return what inflections of a word have in common."""
        return stem(self.forms["irregular"].get(word, word))


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A text as words and what stands between them.

    Attributes:
        words: In their order.
        forms: The same, as written; of a contraction, each word's own part.
        gaps: What stands before each word, see `marks.between`.
        last: What stands after the last word, less the mark that ends a sentence.
        mark: That mark: nothing, a full stop, or a question mark.
        literal: The whole text where it asks about how something is written: then nothing may differ. Else empty.
    """

    words: tuple[Word, ...]
    forms: tuple[str, ...]
    gaps: tuple[str, ...]
    last: str
    mark: str
    literal: str


@dataclass(slots=True)
class _Plain:
    """A text while it is read; see `Written`."""

    words: list[str]
    forms: list[str]
    gaps: list[str]
    after: str = ""
    capitals: bool = False

    def add(self, word: str, form: str, gap: str) -> None:
        self.words.append(word)
        self.forms.append(form)
        self.gaps.append(gap)


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """Reads texts into words. Safe to use from several threads: what is kept of words is a bounded cache."""

    embedding: TokenEmbedding
    lists: WordLists
    _known: dict[str, Word] = field(default_factory=dict, repr=False)

    def read(self, text: str) -> Written | None:
        """Read a text, less the courtesies at its ends; None if there are no words, or too many."""
        if len(text) > MAX_CHARACTERS:
            return None
        text = one_form(text)
        pieces = list(_WORDS.finditer(text))
        if not pieces or len(pieces) > 2 * MAX_WORDS:
            return None
        plain = self._plain(text, pieces)
        if not plain.words:
            return None
        plain = self._spelled_numbers(plain)
        known = self._known
        if len(known) > KEPT_WORDS:
            known.clear()
        words = [known.get(word) or self._look_up(word) for word in plain.words]
        literal = any(word.literal for word in words)
        start, end = (0, len(words)) if literal else self._courtesies(plain)
        if end - start > MAX_WORDS:
            return None
        gaps = plain.gaps[start:end]
        after = plain.gaps[end] if end < len(words) else plain.after
        if start:
            gaps[0] = ""
        if end < len(words):
            # What ends the sentence stands before the courtesy.
            after = after.replace(",", "").rstrip()
        last, mark = ending(after, plain.forms[end - 1], material=literal or material(gaps[1:]))
        return Written(
            tuple(words[start:end]),
            tuple(plain.forms[start:end]),
            tuple(gaps),
            last,
            mark,
            text if literal else "",
        )

    def _plain(self, text: str, pieces: Sequence[re.Match[str]]) -> _Plain:
        """Return the words that pieces of a text are, in one form, as written, and what stands between them."""
        plain = _Plain([], [], [])
        forms, classes = self.lists.forms, self.lists.classes
        contractions, symbols, ordinals = forms["contractions"], forms["symbols"], forms["ordinals"]
        function, negation = classes["function"], classes["negation"]
        capitals = text.isupper()
        exact = any(mark in text for mark in '`"\n')
        # What is quoted counts as it is written.
        quoting = any(mark in text for mark in '`"')
        behind = 0
        for match in pieces:
            piece = match.group()
            # A star alone may be a sign of arithmetic.
            if piece != "*" and _SOFT.fullmatch(piece):
                continue
            gap = between(text[behind : match.start()], exact=exact)
            beside = text[behind : match.start()][-1:]
            behind = match.end()
            word = piece.lower()
            # ".ts" is no word, and "x'd" in a program no short form.
            inside = beside and not beside.isspace() and beside not in "\"'(,"
            parts = contractions[word].split() if word in contractions and not inside else apart(word)
            if quoting:
                parts = [word]
            if len(parts) > 1:
                head = piece[: len(parts[0])]
                others = [part.upper() for part in parts[1:]] if capitals else parts[1:]
                plain.add(parts[0], head if head.lower() == parts[0] else parts[0], gap)
                for part, other in zip(parts[1:], others, strict=True):
                    plain.add(part, other, "")
                continue
            word = parts[0]
            if word[0].isdigit() or (word[0] == "-" and len(word) > 1):
                word = ordinals.get(word) or number(word)
            elif word in symbols:
                word = _sign(word, symbols[word], text, match)
            elif not capitals and plain.words and piece == "A":
                # "Vitamin A" is no vitamin of any kind.
                word = piece
            elif (
                not capitals
                and len(word) > 1
                and word in function
                and word not in negation
                and piece.isupper()
            ):
                # "US" is not "us", nor "WHO" "who".
                word = piece
            plain.add(word, piece, gap)
        plain.after = between(text[behind:].rstrip(), exact=exact)
        plain.capitals = capitals
        return plain

    def _spelled_numbers(self, plain: _Plain) -> _Plain:
        """Write spelled numbers as digits: "twenty five thousand" and "25 thousand" are 25000."""
        numbers, scales = self.lists.numbers, self.lists.scales
        if not any(word in numbers or word in scales for word in plain.words):
            return plain
        out = _Plain([], [], [], plain.after, plain.capitals)
        # What is complete ("two thousand"), and what a scale may still multiply; None outside of a number.
        total: float = 0.0
        part: float | None = None
        alone = False
        for word, form, gap in zip(plain.words, plain.forms, plain.gaps, strict=True):
            value, scale = numbers.get(word), scales.get(word)
            if form[0].isupper() and out.words and not plain.capitals:
                # "Who directed Seven?" asks for a film.
                value = scale = None
            if gap not in ("", "-"):
                part = None
            if value is not None and part is not None and continues(total, part, value):
                part += value
            elif (
                scale is not None
                and out.words
                and (part is not None or (not gap and out.words[-1] in ("a", "one")))
            ):
                part = (part or 1) * scale
                if scale > 100:
                    total, part = total + part, 0.0
            else:
                total, part = 0.0, value_of(word) if value is None else float(value)
                spelled = value if value is not None else scale
                alone = spelled is not None
                out.add(word if spelled is None else shortest(float(spelled)), form, gap)
                continue
            alone = False
            out.words[-1] = shortest(total + part)
        if alone:
            # "Who directed seven?"
            out.words[-1] = plain.words[-1]
        return out

    def _courtesies(self, plain: _Plain) -> tuple[int, int]:
        """Return where what is asked starts and ends. What is nothing but courtesies stays as it is."""
        words, gaps = plain.words, plain.gaps
        first = [form.lower() for form in plain.forms] if plain.capitals else plain.forms
        start, end = 0, len(words)
        phrases, function = self.lists.phrases, self.lists.classes["function"]
        while (to := opening(words, first, gaps, phrases["opening"], function=function, start=start)) > start:
            start = to
        if material(gaps[start + 1 :]) or "".join(gaps).count('"') % 2:
            # What is to be translated or judged may end in "thanks".
            return start, end
        while (to := closing(words, gaps, phrases["closing"], end=end)) < end and to > start:
            end = to
        return start, end

    def _look_up(self, word: str) -> Word:
        ids = self.embedding.ids(word)
        tokens = self.embedding.vectors[ids].sum(axis=0)
        stem = self.lists.stem(word)
        classes = self.lists.classes
        if is_number(word):
            kind = "number"
        elif "_" in word or any(mark in word for mark in "./@\\") or (
            any(c.isdigit() or c.isnumeric() for c in word)
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


def _sets(lines: list[str], irregular: Mapping[str, str]) -> Mapping[str, frozenset[int]]:
    of: dict[str, set[int]] = {}
    for at, line in enumerate(lines):
        for word in line.split():
            of.setdefault(stem(irregular.get(word, word)), set()).add(at)
    return {one: frozenset(numbers) for one, numbers in of.items()}


def _opposites(lines: list[str]) -> Mapping[str, tuple[str, ...]]:
    of: dict[str, tuple[str, ...]] = {}
    for line in lines:
        for word in line.split():
            of[word] = of.get(word, ()) + tuple(other for other in line.split() if other != word)
    return of


def _sign(piece: str, word: str, text: str, match: re.Match[str]) -> str:
    """Return the word that a sign stands for, where it does: "$5", "5%", "a & b", but not "$x", "a&b"."""
    before, after = text[: match.start()][-1:], text[match.end() :][:1]
    if piece == "&":
        return word if before.isspace() and after.isspace() else piece
    return word if (before if piece == "%" else after).isdigit() else piece
