"""What stands between the words of a text: marks, line breaks, and the courtesies at its ends.

A mark can be the whole difference: "C#" and "C", "10-(2-3)" and "(10-2)-3", "eats, shoots" and "eats shoots". So all of
them are kept, but for what provably changes nothing: the width of spaces within a line, the kind of quotes, the mark
that ends a text, and the marks around a courtesy.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from types import MappingProxyType

# Quotes and apostrophes of all kinds are one.
_QUOTES = str.maketrans("’‘“”„«»", '\'\'"""""')
_SPACES = re.compile(r"[ \t\u00a0]+")
_LINE_END = re.compile(r"[ \t]+(?=\n)|\r")
# What may stand between an opening courtesy and what follows, with which the courtesy is surely one.
_ADDRESSED, _BEFORE_CLOSING = re.compile(r"\s*[,:.!]\s+"), re.compile(r"\"?\s*(?:[.?!,]\s*|\n\s*)")
# Marks that show that what follows is material, not talk: then the mark at the end is part of it.
_MATERIAL = re.compile("[:`\n]")
# Between these marks, what a speaker took back may end.
_SPOKEN = re.compile(r"[ ,.…'–—-]*")
_ASKING = frozenset({"who", "whom", "whose", "what", "which", "when", "where", "why", "how"})
# Openings that stand without a mark; those of asking only before a question word.
_BARE = frozenset(
    {"please", "kindly", "could you please", "can you please", "would you please", "would you kindly"}
)
_ASKED = frozenset(
    {
        "tell me", "please tell me", "can you tell me", "could you tell me", "could you please tell me",
        "can you please tell me", "would you tell me", "will you tell me", "may i ask", "do you know",
        "i want to know", "i would like to know", "i'd like to know", "i need to know",
    }
)  # fmt: skip
# In such questions, "thanks" behind a comma may be what is asked about: "How do you say yes, please?"
_SAYING = frozenset(
    {
        "say", "says", "said", "saying", "write", "writes", "wrote", "read", "reads", "mean", "means", "word", "words",
        "phrase", "sang", "sung", "sing", "sings", "spell", "type", "print", "prints", "reply", "answer", "call",
        "called", "named",
    }
)  # fmt: skip
LONGEST_COURTESY = 5
# Begins what stands where something was taken back: there a comma may have gone, too.
PAUSE = "\0"
PLAIN_ENDS = MappingProxyType({"": "", ".": ".", "!": ".", "?": "?"})


def one_form(text: str) -> str:
    """Bring characters of one meaning to one form: composed letters, wide letters, quotes.

    Superscripts, fractions and Roman numerals stay what they are: "10²" is not 102.
    """
    # Quotes are often escaped once too much.
    text = text.replace('\\"', '"')
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text).translate(_QUOTES)
    return "".join(_narrow(c) if c > "\u2fff" else c for c in text)


def _narrow(character: str) -> str:
    kept = unicodedata.decomposition(character).startswith(("<wide>", "<narrow>"))
    return unicodedata.normalize("NFKC", character) if kept else character


def between(raw: str, *, exact: bool) -> str:
    """Return what stands between two words as it is compared; empty for nothing but spaces.

    Args:
        raw: As written.
        exact: Whether the number of spaces counts: in texts of several lines, and beside quotes.
    """
    if raw in ("", " "):
        return ""
    if "\n" in raw:
        return _LINE_END.sub("", raw)
    if exact:
        return raw
    one = _SPACES.sub(" ", raw)
    return "" if one == " " else one


def spoken(gap: str) -> bool:
    """Whether a speaker may correct himself there: beside commas and pauses, not beside quotes or brackets."""
    return _SPOKEN.fullmatch(gap) is not None and "\n" not in gap


def hard(gaps: Sequence[str]) -> str:
    """Return the marks of a text in their order, less commas and spaces, which move with the words."""
    return "".join(gaps).replace(",", "").replace(" ", "").replace(PAUSE, "")


def same_gap(a: str, b: str) -> bool:
    """Whether the same stands between two words; where something was taken back, a comma may be missing."""
    if a == b:
        return True
    if a[:1] == PAUSE and b[:1] == PAUSE:
        return True
    if b[:1] == PAUSE:
        a, b = b, a
    return a[:1] == PAUSE and b in ("", a[1:])


def set_off(gap: str) -> bool:
    """Whether there is a pause."""
    return any(mark in gap for mark in (",", "…", "...", "–", "—", " - "))


def ending(gap: str, before: str, *, material: bool) -> tuple[str, str]:
    """Return what stands after the last word apart: marks that count, and the mark that ends the sentence.

    Args:
        gap: All that stands after the last word.
        before: The last word.
        material: Whether the text holds material: then no mark is left out.
    """
    marks = re.search(r"\s*([.?!]?)\s*$", gap)
    if marks is None or material:
        return gap.strip(" "), ""
    rest = gap[: marks.start()]
    sign = not rest and marks.group(1) == "!" and (before[-1:].isdigit() or len(before) == 1)
    # "5!" is 120.
    return (gap.strip(), "") if sign else (rest, PLAIN_ENDS[marks.group(1)])


def material(gaps: Sequence[str]) -> bool:
    """Whether a text holds material, such as what is to be translated, by the marks within it."""
    return any(_MATERIAL.search(gap) for gap in gaps)


def opening(
    words: Sequence[str],
    forms: Sequence[str],
    gaps: Sequence[str],
    phrases: frozenset[str],
    *,
    function: frozenset[str],
    start: int,
) -> int:
    """Return where an opening courtesy that begins at `start` ends; `start` if none does.

    Args:
        words: Of the text.
        forms: The same, as written.
        gaps: What stands before each word.
        phrases: Courtesies.
        function: Words that are no names though they are written with a capital.
        start: Where to look.
    """
    for width in range(min(LONGEST_COURTESY, len(words) - start - 1), 0, -1):
        end = start + width
        said = " ".join(words[start:end])
        if said not in phrases or any(gaps[start + 1 : end]):
            continue
        gap, following = gaps[end], words[end]
        name = forms[end][0].isupper() and following not in function
        if _ADDRESSED.fullmatch(gap):
            # "Hey, Jude" is addressed to nobody; after another mark a sentence begins.
            if "," not in gap or not name:
                return end
        elif not gap and not name:
            asks = said in _ASKED and following in _ASKING
            if asks or (said in _BARE and following not in ("please", "mr", "mister", "mr.")):
                return end
    return start


def closing(words: Sequence[str], gaps: Sequence[str], phrases: frozenset[str], *, end: int) -> int:
    """Return where a closing courtesy before `end` begins; `end` if there is none.

    Args:
        words: Of the text.
        gaps: What stands before each word.
        phrases: Courtesies.
        end: Behind the last word that is looked at.
    """
    for width in range(min(LONGEST_COURTESY, end - 1), 0, -1):
        at = end - width
        if " ".join(words[at:end]) not in phrases or any(gaps[at + 1 : end]):
            continue
        gap = gaps[at]
        if not _BEFORE_CLOSING.fullmatch(gap) or ("," in gap and not _SAYING.isdisjoint(words[:at])):
            continue
        return at
    return end
