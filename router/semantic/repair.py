"""Speech repairs: "What trade, no, I mean religion did they spread?" asks for the religion.

A speaker who corrects himself says a part that does not count (the reparandum), words that say so (the edit), and goes
on with what counts. Which words the reparandum is, only the correct text tells: a text is repaired *towards* another
one. What comes after the edit always stays; so "the king of France, no wait, Spain" never becomes a text about France.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Indel

from .words import WordLists

# Of a text, so many edits are looked at, and so many repairs made one after the other.
MOST_EDITS, MOST_REPAIRS = 6, 2
# How many words more or fewer than fit are tried for a reparandum: the other text may have a slip of its own.
SLACK = 1
ASKING = frozenset({"who", "what", "which", "when", "where", "why", "how"})
# A correction at the end of a text has at most so many words.
MOST_LATE = 6


@dataclass(frozen=True, slots=True)
class Edit:
    """Where an edit stands.

    Attributes:
        start: Its first word.
        end: Behind its last word.
        weak: Whether all its words are common in other roles: "no", "or", "rather".
    """

    start: int
    end: int
    weak: bool


@dataclass(frozen=True, slots=True)
class Repair:
    """A text with one reparandum and its edit taken out.

    Attributes:
        kept: Places of the words that stay, in the order that they are then read in.
        before: All words before this place are as they were.
        weak: Whether the edit was weak.
    """

    kept: tuple[int, ...]
    before: int
    weak: bool


class Edits:
    """Finds edits in texts."""

    def __init__(self, lists: WordLists) -> None:
        longest_first = sorted(lists.edits, key=len, reverse=True)
        phrases = "|".join(longest_first)
        self._run = re.compile(rf"(?<!\S)(?:(?:{phrases})(?:\s+|$))+")
        self._weak = lists.classes["weak_edits"]
        self._none = lists.classes["no_edits"]

    def find(self, words: Sequence[str]) -> tuple[Edit, ...]:
        """Return the edits of a text, by their place; mostly none.

        Args:
            words: Of the text, lower case.
        """
        joined = " ".join(words)
        found = []
        for run in self._run.finditer(joined):
            said = run.group().split()
            start = joined.count(" ", 0, run.start())
            end = start + len(said)
            if all(word in self._none for word in said):
                # "Tea or coffee" and "tell me" take nothing back; "who runs, or first, what is" does.
                asks = end < len(words) and words[end] in ASKING
                if not (asks and "or" in said and len(said) > 1):
                    continue
            found.append(Edit(start, end, all(word in self._weak for word in said)))
            if len(found) == MOST_EDITS:
                break
        # Nothing follows an edit at the end; nothing is taken back by one that "rather than", "instead of" go on from.
        return tuple(
            edit
            for edit in found
            if edit.end < len(words)
            and not (
                words[edit.end - 1] in ("rather", "instead", "first") and words[edit.end] in ("than", "of")
            )
        )


def repair(words: Sequence[str], edits: Sequence[Edit], towards: Sequence[str]) -> Repair | None:
    """Return the one repair that brings a text nearest to another one; None if none brings it nearer.

    Args:
        words: Stems of the text.
        edits: Its edits, see `Edits.find`.
        towards: Stems of the other text.
    """
    best, nearest = None, Indel.distance(words, towards)
    words, towards = list(words), list(towards)
    for edit in edits:
        rest = words[edit.end :]
        fits = len(towards) - len(rest)
        # A weak edit with nothing before it that it takes back is a word like others: "there are no dogs".
        last = edit.start - 1 if edit.weak else edit.start
        for start in range(max(0, fits - SLACK), min(last, fits + SLACK) + 1):
            distance = Indel.distance(words[:start] + rest, towards)
            if distance < nearest:
                kept = (*range(start), *range(edit.end, len(words)))
                best, nearest = Repair(kept, start, edit.weak), distance
        late = _late(words, edit, towards) if nearest else None
        if late is not None:
            best, nearest = late, 0
    return best


def _late(words: list[str], edit: Edit, towards: list[str]) -> Repair | None:
    """A correction at the end: "What did Smith donate, no, Eaton?" asks what Eaton donated.

    Taken only where it gives the other text word for word.
    """
    first = edit.end
    if words[first] == "not" and "but" in words[first:-1]:
        # "… not Smith but Eaton".
        first = words.index("but", first) + 1
    width = len(words) - first
    spared = edit.start + width - len(towards)
    if not 0 < width <= MOST_LATE or not 0 < spared <= width + SLACK + 1:
        return None
    rest = words[first:]
    for at in range(len(towards) - width + 1):
        if towards[at : at + width] != rest or towards[:at] != words[:at]:
            continue
        if towards[at + width :] == words[at + spared : edit.start]:
            kept = (*range(at), *range(first, len(words)), *range(at + spared, edit.start))
            return Repair(kept, at, edit.weak)
    return None
