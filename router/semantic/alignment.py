"""Aligning the words of two texts: which have a partner at the same place, which elsewhere, and which have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rapidfuzz.distance import LCSseq

from .words import Word


@dataclass(slots=True)
class Told:
    """The columns of a pair while they are counted; what each one means is said where it is counted."""

    unordered: int = 0
    longer: int = 0
    numbers_moved: int = 0
    negation: int = 0
    antonyms: int = 0
    quantity: int = 0
    unit: int = 0
    ask: int = 0
    modal: int = 0
    relation: int = 0
    function: int = 0
    code: int = 0
    symbols: int = 0
    names: int = 0
    alone_more: float = 0.0
    alone_fewer: float = 0.0
    unlike_more: float = 0.0
    unlike_fewer: float = 0.0
    worst: float = 0.0
    worst_fewer: float = 0.0
    chunk: float = 1.0
    moved: int = 0
    relation_moved: int = 0
    exchanged: int = 0
    inflected: int = 0
    taken_back: int = 0
    weak_edit: float = 0.0


def align(
    words_a: list[Word], words_b: list[Word], told: Told
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Find each word's partner; return the places of those that have none, and of partners.

    Args:
        words_a: Words of one text.
        words_b: Words of the other one.
        told: Where it is counted.
    """
    stems_a, stems_b = [w.stem for w in words_a], [w.stem for w in words_b]
    if stems_a == stems_b:
        told.inflected = sum(x is not y and x.text != y.text for x, y in zip(words_a, words_b, strict=True))
        return [], [], [(at, at) for at in range(len(words_a))]
    equal, gap = 0, 0
    gaps_a: dict[int, int] = {}
    gaps_b: dict[int, int] = {}
    partners: list[tuple[int, int]] = []
    for code in LCSseq.opcodes(stems_a, stems_b):
        a0, a1, b0, b1 = code.src_start, code.src_end, code.dest_start, code.dest_end
        if code.tag == "equal":
            equal += a1 - a0
            gap += 1
            partners += zip(range(a0, a1), range(b0, b1), strict=True)
            for x, y in zip(words_a[a0:a1], words_b[b0:b1], strict=True):
                if x is not y and x.text != y.text:
                    told.inflected += 1
        else:
            gaps_a.update(dict.fromkeys(range(a0, a1), gap))
            gaps_b.update(dict.fromkeys(range(b0, b1), gap))
    told.unordered = len(stems_a) + len(stems_b) - 2 * equal
    if gaps_a and gaps_b:
        told.antonyms = _opposed(words_a, words_b, gaps_a, gaps_b)
        partners += _pair_moved(words_a, words_b, gaps_a, gaps_b, told)
    return list(gaps_a), list(gaps_b), partners


def _opposed(
    words_a: list[Word], words_b: list[Word], gaps_a: Mapping[int, int], gaps_b: Mapping[int, int]
) -> int:
    """Count places where a function word gives way to its opposite: "before" to "after", "and" to "or"."""
    there: dict[int, list[Word]] = {}
    for at, gap in gaps_b.items():
        if words_b[at].kind == "function" and words_b[at].antonyms:
            there.setdefault(gap, []).append(words_b[at])
    return sum(
        any(word.antonyms & other.antonyms and word.stem != other.stem for other in there.get(gap, ()))
        for word, gap in ((words_a[at], gap) for at, gap in gaps_a.items())
        if word.kind == "function" and word.antonyms
    )


def _pair_moved(
    words_a: list[Word], words_b: list[Word], gaps_a: dict[int, int], gaps_b: dict[int, int], told: Told
) -> list[tuple[int, int]]:
    """Pair words that stand elsewhere in the other text, and count them by what their move may mean.

    Args:
        words_a: Words of one text.
        words_b: Words of the other one.
        gaps_a: Places of the words without a partner, and the gap between aligned words that they stand in; the paired
            ones are taken out.
        gaps_b: Likewise.
        told: Where it is counted.
    """
    places: dict[str, list[int]] = {}
    for at in gaps_b:
        places.setdefault(words_b[at].stem, []).append(at)
    pairs: list[tuple[int, int]] = []
    for at in gaps_a:
        there = places.get(words_a[at].stem)
        if there:
            pairs.append((at, there.pop(0)))
    filled_a = {gap for at, gap in gaps_a.items() if words_a[at].kind != "function"}
    filled_b = {gap for at, gap in gaps_b.items() if words_b[at].kind != "function"}
    for at, to in pairs:
        word = words_a[at]
        if word.kind == "function":
            # "To Rome from Oslo" has all words of "from Rome to Oslo".
            told.relation_moved += word.relation
            told.moved += word.negation or word.quantity
            continue
        if word.kind == "number":
            told.numbers_moved += 1
        else:
            told.moved += 1
        told.relation_moved += _led_by(words_a, at) != _led_by(words_b, to)
        # Another word has taken its place, and it has taken another one's.
        told.exchanged += gaps_a[at] in filled_b and gaps_b[to] in filled_a
    for at, to in pairs:
        del gaps_a[at], gaps_b[to]
    return pairs


def _led_by(words: list[Word], at: int) -> str:
    """The relation that a word stands in: the nearest such word before it, at most three words away."""
    for before in range(at - 1, max(-1, at - 4), -1):
        if words[before].relation:
            return words[before].text
    return ""
