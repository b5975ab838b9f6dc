"""Forms of single words: what is left of inflected ones, short forms taken apart, and numbers."""

from __future__ import annotations

from types import MappingProxyType

SHORT_FORMS = MappingProxyType({"ll": "will", "re": "are", "ve": "have", "m": "am"})


def stem(word: str) -> str:
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


def apart(word: str) -> tuple[str, ...]:
    """Take a word with an apostrophe apart: "don't" is two words, "father's" one, with its owner's form."""
    head, mark, tail = word.partition("'")
    if not mark or not head:
        return (word,)
    if tail in ("s", ""):
        return (head,)
    if tail == "t" and head.endswith("n") and len(head) > 2:
        return (head[:-1], "not")
    return (head, SHORT_FORMS[tail]) if tail in SHORT_FORMS else (word,)


def number(word: str) -> str:
    """Take the marks of thousands out of a number; zeros stay, as "3.10" is not 3.1, and "08" not 8."""
    plain = word.replace(",", "")
    return plain if is_number(plain) else word


def continues(total: float, part: float, plain: int) -> bool:
    """Whether a spelled number goes on: twenty *five*, two hundred *fifty*, two thousand *ten*."""
    if part == 0:
        return total > 0
    return (part % 100 >= 20 and part % 10 == 0 and 0 < plain < 10) or (
        part >= 100 and part % 100 == 0 and 0 < plain < 100
    )


def shortest(value: float) -> str:
    """Write a number with the fewest digits."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def value_of(word: str) -> float | None:
    """Return the value of a number in digits; None for other words, and for long ones."""
    if not is_number(word) or len(word) > 12:
        return None
    return float(word)


def is_number(word: str) -> bool:
    """Whether a word is a number in digits."""
    plain = word.removeprefix("-").replace(".", "", 1)
    return plain.isascii() and plain.isdigit()
