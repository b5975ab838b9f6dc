"""How near two words are that stand for each other: synonyms, words of one family, and opposites.

Slips of the pen are not forgiven: a proton is no photon, and a word alone does not tell a slip from a name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .alignment import Told
from .words import Word

# What is told of words that share most of their beginning ("transform", "transformation").
RELATED, SHARED_BEGINNING = 0.7, 0.6
SYNONYM = 0.9


def nearness(left_a: Sequence[Word], left_b: Sequence[Word], told: Told) -> tuple[list[float], list[float]]:
    """Return how near each word without a partner is to the nearest such word of the other text, in [0, 1].

    A word that is another one's opposite is near to nothing; words of programs, and numbers, are like none but
    themselves.

    Args:
        left_a: Words of one text that have no partner.
        left_b: Those of the other one.
        told: Where opposites are counted.
    """
    if not left_a or not left_b:
        return [0.0] * len(left_a), [0.0] * len(left_b)
    like = np.stack([w.vector for w in left_a]) @ np.stack([w.vector for w in left_b]).T
    np.clip(like, 0, 1, out=like)
    opposite: list[tuple[int, int]] = []
    for i, x in enumerate(left_a):
        for j, y in enumerate(left_b):
            if x.kind != "content" or y.kind != "content":
                like[i, j] = 0
            elif _opposites(x, y):
                opposite.append((i, j))
                like[i, j] = 0
            elif x.synonyms and x.synonyms & y.synonyms:
                like[i, j] = max(like[i, j], SYNONYM)
            elif x.text[:3] == y.text[:3] and _related(x.stem, y.stem):
                like[i, j] = max(like[i, j], RELATED)
    near_a, near_b = like.max(axis=1).tolist(), like.max(axis=0).tolist()
    # An opposite counts unless both words have better partners ("start … end" told the other way round).
    told.antonyms += sum(near_a[i] < SYNONYM or near_b[j] < SYNONYM for i, j in opposite)
    return near_a, near_b


def _opposites(x: Word, y: Word) -> bool:
    if x.antonyms and x.antonyms & y.antonyms and not x.synonyms & y.synonyms:
        return True
    shorter, longer = (x.text, y.text) if len(x.text) < len(y.text) else (y.text, x.text)
    return (
        len(shorter) > 2
        and longer.endswith(shorter)
        and longer.removesuffix(shorter) in ("un", "in", "im", "ir", "il", "dis", "non", "de", "anti", "mis")
    )


def _related(x: str, y: str) -> bool:
    shared = 0
    for p, q in zip(x, y, strict=False):
        if p != q:
            break
        shared += 1
    return shared >= SHARED_BEGINNING * max(len(x), len(y)) and shared >= 4
