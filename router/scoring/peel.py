"""Looking past what is said about a request: claims of ease, difficulty, urgency or expertise.

"This is very hard." says nothing of how hard it is, but moves every statistic of a short text. Such a sentence at
either end is left out of what the classifier reads; nothing is left out of what the model is asked. It keeps honest
habits of writing from moving decisions; somebody who knows these words can still write around them.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that a claim may be made of; it needs one of the second set, else it may be the request itself.
_FILLER = _words(
    """
    a about ai all am an and answer any anyone are as ask asked assistant at be been by can child could do does
    don even ever everyone exercise following for from get give gives got has have hello here hey hi how i if in
    is it its just know let like ll m made make may me model models more most much must my need needs no nobody
    not now of on one only or our out own people person please problem puzzle question questions re read really
    reply request respond s say seen should so solution solve some sure t take task than that the them then
    there these they thing think this time to too us use ve very want we well what when which will with world
    would you your
    """
)
_CLAIMS = _words(
    """
    accurate accurately advanced asap basic beginner beginners best careful carefully challenging class college
    complex correctly critical crucial deep deeply difficult easiest easy effort elementary experienced expert
    experts frontier genius graduate hard hardest helpful important importantly impossible level phd precise
    precisely professional professor quick reason reasoning simple simplest slowly smart smartest step steps
    straightforward strong strongest thoroughly top tough toughest tricky trivial urgent urgently weak
    """
)
_WORD = re.compile(r"[^\W\d_]+")
_FIRST = re.compile(r"\s*(.{1,200}?)(?:[.!?:]+(?=\s|$)|\n)", re.DOTALL)
_LAST = re.compile(r"(?<=[.!?:\n])\s*([^.!?:\n]{1,200})[.!?:]*\s*\Z")
# At most so many sentences are left out at the beginning; words that must remain.
_MOST, _REMAINING = 3, 4


def peeled(text: str) -> str:
    """Return a text without claims at its ends; the whole text where little else is there."""
    rest = text
    for _ in range(_MOST):
        first = _FIRST.match(rest)
        if first is None or not _is_claim(first.group(1)):
            break
        rest = rest[first.end() :].lstrip(" .!?:\n")
    if _is_claim(_last_words(rest)):
        last = _LAST.search(rest, max(0, len(rest) - 260))
        if last is not None and _is_claim(last.group(1)):
            rest = rest[: last.start()]
    if rest is text or len(_WORD.findall(rest[:400])) < _REMAINING:
        return text
    return rest


def _last_words(text: str) -> str:
    """Return about what `_LAST` finds, or more; in much less time, as most texts end otherwise."""
    end = text[-400:].rstrip().rstrip(".!?:")
    return end[max(map(end.rfind, ".!?:\n")) + 1 :]


def _is_claim(sentence: str) -> bool:
    """Whether a sentence says nothing of the request."""
    claims = False
    # Most sentences are none, and their first words say so.
    for match in _WORD.finditer(sentence):
        word = match[0].lower()
        if word in _CLAIMS:
            claims = True
        elif word not in _FILLER:
            return False
    return claims and not any(map(str.isdigit, sentence))
