"""Classes of tokens that say something about a request, as a table over the tokenizer's vocabulary.

Counting words by token id costs one array lookup, where regular expressions over the text would cost a pass each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

_MARK = "▁"

Belongs = Callable[[str], bool]


def _chars(chars: str) -> Belongs:
    wanted = frozenset(chars)
    return lambda piece: bool(bare := piece.strip(_MARK)) and wanted.issuperset(bare)


def _other_script(piece: str) -> bool:
    return not piece.isascii() and any(ord(c) > 0x2AF and c != _MARK and c.isalpha() for c in piece)


def _accented(piece: str) -> bool:
    return not piece.isascii() and any(0x7F < ord(c) <= 0x2AF and c.isalpha() for c in piece)


def _capital(piece: str) -> bool:
    return piece[:1] == _MARK and piece[1:2].isupper() and len(piece) > 2


def _inner(piece: str) -> bool:
    return piece[:1] != _MARK and len(piece) > 1 and piece.isalpha()


def _word(piece: str) -> bool:
    return piece[:1] == _MARK and len(piece) > 2 and piece[1:].isascii() and piece[1:].isalpha()


def _byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x")


# name, meaning, and what belongs to it: a test of the vocabulary's piece, or whole words in any case
CLASSES: tuple[tuple[str, str, Belongs | str], ...] = (
    ("digit", "digits", str.isdigit),
    ("operator", "signs of arithmetic and comparison", _chars("+-*/=<>^%×÷±≤≥≠")),
    ("bracket", "brackets", _chars("()[]{}")),
    ("code", "other marks of code", _chars(";_#&|\\@~`$")),
    ("quote", "quotation marks", _chars("\"'“”‘’«»")),
    ("comma", "commas and semicolons", _chars(",;")),
    ("capital", "words that begin with a capital", _capital),
    ("word", "whole words of Latin letters, or their beginnings", _word),
    ("part", "pieces inside a word: long and rare words", _inner),
    ("other_script", "letters of other scripts than Latin", _other_script),
    ("accented", "accented Latin letters", _accented),
    ("byte", "bytes of characters that the vocabulary lacks", _byte),
    ("wh", "question words", "who whom whose what which when where"),
    ("why", "questions for reasons and ways", "why how explain reason reasons because describe discuss"),
    ("yesno", "openings of yes-no questions", "is are was were does did do can could has have will true false"),
    ("amount", "words of counting", "many much total each every per average sum percent times half twice cost"),
    ("make", "orders to write", "write create generate compose draft story poem letter email article blog song"),
    ("change", "orders to rework text", "rewrite edit translate correct improve change convert replace fix"),
    ("shorten", "orders to condense", "summar summary brief short list extract identify find key main"),
    ("label", "orders to choose", "class category label sentiment positive negative neutral choose select one"),
    ("limit", "limits on the answer", "must least most exactly only should include without avoid ensure no not"),
    ("unit", "units of writing", "words word sentences sentence paragraph letters lines bullet points format"),
    ("negation", "negations and exceptions", "not no never except without none neither nor unless cannot"),
    ("program", "words of programming", "code function class method return import def python java script api "
                                               "data file error test array string int list loop sql html server"),
    ("formal", "words of proof", "prove let suppose theorem equation function given assume integer matrix show"),
    ("condition", "conditions and comparisons", "if then else when than more less before after between while"),
    ("me", "the writer", "i me my mine we our us"),
    ("you", "the assistant", "you your yourself"),
    ("polite", "greetings and thanks", "hi hello hey thanks thank please good morning bye welcome sorry"),
    ("step", "words of stepwise work", "step steps first next then finally plan process think carefully"),
    ("opinion", "choices of value", "best better should would recommend suggest think opinion advice ideas"),
    ("statement", "words of logic", "statement following above according true false correct incorrect both"),
    ("newline", "line breaks", lambda piece: piece == "<0x0A>"),
)  # fmt: skip


def class_table(tokenizer: Tokenizer) -> npt.NDArray[np.uint8]:
    """Return which token belongs to which class: shape (vocabulary, classes), 0 or 1."""
    words: dict[str, list[int]] = {}
    tests: list[tuple[int, Belongs]] = []
    for column, (_, _, members) in enumerate(CLASSES):
        if callable(members):
            tests.append((column, members))
            continue
        for word in members.split():
            words.setdefault(_MARK + word, []).append(column)
    table = np.zeros((tokenizer.get_vocab_size(), len(CLASSES)), np.uint8)
    for piece, at in tokenizer.get_vocab().items():
        columns = [column for column, belongs in tests if belongs(piece)]
        columns += words.get(piece.lower(), ())
        if columns:
            table[at, columns] = 1
    return table
