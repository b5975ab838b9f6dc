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

from .marks import set_off, spoken
from .words import WordLists

# Of a text, so many edits are looked at, and so many repairs made one after the other.
MOST_EDITS, MOST_REPAIRS = 6, 2
# How many words more or fewer than fit are tried for a reparandum: the other text may have a slip of its own.
SLACK = 1
ASKING = frozenset({"who", "what", "which", "when", "where", "why", "how"})
# A question may start with one of these.
BEFORE_ASKING = frozenset(
    {"in", "after", "before", "at", "on", "by", "for", "from", "to", "with", "during", "since"}
)
# After these, "I mean" is asked about.
MEANING = frozenset(
    {
        "do",
        "did",
        "does",
        "would",
        "could",
        "can",
        "should",
        "what",
        "that",
        "if",
        "the",
        "a",
        "an",
        "say",
        "said",
        "says",
        "sang",
        "wrote",
        "word",
    }
)
# After these, a "no" may be what is said.
SAYING = frozenset(
    {
        "say", "says", "said", "saying", "vote", "votes", "voted", "voting", "answer", "answers", "answered",
        "answering", "yes", "mean", "means", "hear", "heard",
    }
)  # fmt: skip
# After these it is mostly no edit, either.
ANSWERING = frozenset(
    {"or", "and", "a", "the", "get", "got", "with", "has", "have", "had", "there", "is", "are"}
)
# After these, a title may stand.
TITLED = frozenset(
    {
        "sang", "sing", "sings", "sung", "wrote", "write", "say", "says", "said", "song", "film", "movie", "book",
        "called", "titled", "named", "directed", "watch", "read", "line", "play", "plays",
    }
)  # fmt: skip
# Behind a lone "no", these show that a part of the sentence starts anew.
RESTARTING = frozenset({"the", "a", "an", "are", "was", "were", "did", "does", "each"})
# Likewise where they stand before it, too: "the presence of students, no, of workers".
AGAIN = frozenset({"in", "of", "on", "at", "for", "to", "from", "with", "by", "not"})
# Edits that are names of things, too.
NOUNS = frozenset({"wait", "waits", "er", "err", "erm", "ah", "oh", "hm", "hmm"})
# A question that starts with a capital starts anew.
CAPITAL_ASKING = frozenset(word.capitalize() for word in ASKING)
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
    """Finds edits in texts: only such as cannot be read otherwise where they stand.

    "Um" and "I mean" are always said in passing. "Sorry", "no" and the like are edits where they are set off by commas,
    stand beside another edit, or are followed by a question that starts anew; else they may be what is asked about
    ("wait list", "no pets"). Nothing is an edit in capitals ("ER"), behind a colon, in quotes, or in several lines.
    """

    def __init__(self, lists: WordLists) -> None:
        sure = "|".join(sorted(lists.sure_edits, key=len, reverse=True))
        other = "|".join(sorted(lists.edits, key=len, reverse=True))
        self._run = re.compile(rf"(?<!\S)(?:(?:{sure}|{other})(?=\s|$)\s?)+")
        self._one = re.compile(rf"(?<!\S)(?:(?P<sure>{sure})|{other})(?=\s|$)")
        self._weak = lists.classes["weak_edits"]
        self._none = lists.classes["no_edits"]

    def find(self, words: Sequence[str], forms: Sequence[str], gaps: Sequence[str]) -> tuple[Edit, ...]:
        """Return the edits of a text, by their place; mostly none.

        Args:
            words: Of the text, lower case.
            forms: The same, as written.
            gaps: What stands before each word.
        """
        joined = " ".join(words)
        found: list[Edit] = []
        for run in self._run.finditer(joined):
            said = run.group().split()
            start = joined.count(" ", 0, run.start())
            end = start + len(said)
            # Nothing is taken back by an edit at the end.
            if end >= len(words) or len(found) == MOST_EDITS:
                break
            if any("\n" in gap or ":" in gap or "`" in gap for gap in gaps[1 : start + 1]):
                break
            inside = sum(gap.count('"') for gap in gaps[: start + 1]) % 2
            spoken_there = all(spoken(gap) and gap != "-" for gap in gaps[max(1, start) : end + 1])
            if inside or not spoken_there or not _small(forms, start, end):
                continue
            anew = forms[end] in CAPITAL_ASKING and not all(word in self._none for word in said)
            if anew or self._takes_back(run.group(), said, words, gaps, start, end):
                found.append(Edit(start, end, all(word in self._weak for word in said)))
        return tuple(found)

    def _takes_back(
        self, run: str, said: list[str], words: Sequence[str], gaps: Sequence[str], start: int, end: int
    ) -> bool:
        """Whether a run of edits takes something back where it stands."""
        before, after = words[start - 1] if start else "", words[end]
        if said[-1] in ("rather", "instead", "first") and after in ("than", "of"):
            return False
        phrases = list(self._one.finditer(run))
        if any(phrase["sure"] for phrase in phrases):
            if said[0] == "i":
                # "What do I mean by it?"
                return before not in MEANING
            # "The UH 60".
            return not after.isdigit() or set_off(gaps[end]) or len(said) > 1
        if before in TITLED:
            # "Who sang oh no?"
            return False
        asks = _question(words, end)
        there = _Place(
            said,
            words[max(0, start - 6) : start],
            asks or after,
            asks=bool(asks),
            apart=start > 0 and set_off(gaps[start]) and set_off(gaps[end]),
        )
        if all(word in self._none for word in said):
            # "Tea or coffee" and "tell me" take nothing back; "who runs, or first, what is" does.
            return there.asks and "or" in said and len(said) > 1
        if all(word in self._weak for word in said):
            return there.weak_takes_back()
        telling = [word for word in said if word not in self._weak]
        return there.apart or there.telling_takes_back(telling, alone=len(phrases) == 1)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a run of edits stands.

    Attributes:
        said: Its words.
        before: The words before it.
        after: The word behind it; where a question starts there, its question word.
        asks: Whether a question starts behind it.
        apart: Whether it is set off on both sides.
    """

    said: list[str]
    before: Sequence[str]
    after: str
    asks: bool
    apart: bool

    def weak_takes_back(self) -> bool:
        """Whether a run of words that are common in other roles takes something back."""
        said, before = self.said, self.before[-1] if self.before else ""
        if before in SAYING:
            return False
        if self.asks:
            return True
        if before in ANSWERING:
            return False
        denies = said[0] in ("no", "nope", "nah")
        if denies and (self.apart or (len(said) > 1 and said[-1] != "or")):
            return True
        if said == ["rather"]:
            return self.after == "the" and "would" not in self.before
        if said != ["no"]:
            return False
        again = self.after in AGAIN and self.after in self.before
        return again or self.after in RESTARTING or (before.isdigit() and self.after.isdigit())

    def telling_takes_back(self, telling: list[str], *, alone: bool) -> bool:
        """Whether a run that is not set off takes something back.

        Args:
            telling: Its words that are not weak.
            alone: Whether it is one edit.
        """
        said = self.said
        if all(word in NOUNS for word in telling):
            # "A wait list", "no er doctors"; but "no wait the brain".
            if self.asks:
                return telling[-1] != "wait" or self.after in ("what", "who", "which") or len(said) > 1
            several = len(said) > 1 and (self.after in ("the", "a") or said[-1] not in NOUNS)
            return len(set(telling)) > 1 or several
        if not alone:
            return True
        if said[0] in ("hold", "hang", "wow"):
            return False
        if said == ["sorry"]:
            return self.after in ("what", "who", "which", "the")
        return self.asks and said[0] not in ("i", "tell", "first")


def _question(words: Sequence[str], at: int) -> str:
    """Return the question word that a question starts with at a place ("what", "in which"); empty if none does."""
    word = words[at]
    if word in ASKING:
        return "" if word == "how" and words[at + 1 : at + 2] == ["to"] else word
    following = words[at + 1 : at + 2]
    return following[0] if word in BEFORE_ASKING and following and following[0] in ("what", "which") else ""


def _small(forms: Sequence[str], start: int, end: int) -> bool:
    """Whether the words of an edit are written small, but for "I" and the first one of the text."""
    return all(
        form.islower() or form == "I" or (at == 0 and form[1:].islower())
        for at, form in enumerate(forms[:end])
        if at >= start
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
