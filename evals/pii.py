"""How much personal data is found, and what is taken for it: precision and recall by type, over rows with marked spans.

A gold span is found where something of its type overlaps it, exactly where both ends agree. What is found is right
where a gold span of its type overlaps it. Rows of ordinary requests, without marks, tell how often something is found
where probably nothing is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallfirst.router.privacy import Span
from smallfirst.router.training.files import decoded, read_rows

# The data's types, as ours. Those that are missing here are not looked for by form: nothing but meaning tells them.
TYPES: Mapping[str, str] = {
    "CREDIT_CARD": "card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "US_SSN": "ssn",
    "US_DRIVER_LICENSE": "driver_licence",
    "PERSON": "name",
    "GPE": "address",
    "STREET_ADDRESS": "address",
    "ZIP_CODE": "address",
}
# A date is personal where it is somebody's birth; which of the data's dates are is told by the words before it.
BIRTH_WORDS = ("birth", "born", "dob")

Find = Callable[[str], Sequence[Span]]


@dataclass(frozen=True, slots=True)
class Gold:
    """A marked place of a text."""

    label: str
    kind: str | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PiiRow:
    """A text with what is marked in it.

    Attributes:
        subset: The data's.
        marked: Whether all that is personal is marked; else only what has a form is known to be absent.
    """

    subset: str
    text: str
    golds: tuple[Gold, ...]


def pii_rows(path: Path) -> list[PiiRow]:
    """Read rows with `request` and `expected`.

    Raises:
        LearningError: The file cannot be read, or is another one.
    """
    rows = []
    for row in read_rows(path):
        text = decoded(row, "request", str(path))["messages"][-1]["content"]
        golds = tuple(_gold(text, span) for span in decoded(row, "expected", str(path)))
        rows.append(PiiRow(str(row["subset"]), text, golds))
    return rows


def ordinary_texts(path: Path) -> list[str]:
    """Read the users' words of rows with `request`, or the texts of rows with `text`."""
    texts = []
    for row in read_rows(path):
        if "request" not in row:
            texts.append(str(row["text"]))
            continue
        messages = decoded(row, "request", str(path))["messages"]
        texts.append("\n".join(m["content"] for m in messages if isinstance(m.get("content"), str)))
    return texts


def _gold(text: str, span: Mapping[str, Any]) -> Gold:
    label, start = str(span["type"]), int(span["start"])
    kind = TYPES.get(label)
    if label == "DATE_TIME" and any(word in text[max(0, start - 40) : start].lower() for word in BIRTH_WORDS):
        label, kind = "DATE_TIME (of birth)", "birth_date"
    return Gold(label, kind, start, int(span["end"]))


@dataclass(slots=True)
class _Type:
    gold: int = 0
    overlapped: int = 0
    exact: int = 0
    found: int = 0
    right: int = 0
    labels: Counter[str] = field(default_factory=Counter)


def pii_report(rows: Sequence[PiiRow], find: Find, *, kinds: Iterable[str]) -> dict[str, Any]:
    """Measure what is found.

    Args:
        rows: Texts with marks.
        find: What finds.
        kinds: What it looks for.

    Returns:
        `{n, characters, us_per_kb, by_type: {kind: {gold, recall, recall_exact, found, precision}}, not_looked_for:
        {label: spans}, by_subset: {subset: {n, flagged}}}`; shares in 0..1, None of nothing. `flagged` is the share of
        rows in which anything was found.
    """
    looked_for = set(kinds)
    types = {kind: _Type() for kind in looked_for}
    missed: Counter[str] = Counter()
    subsets: dict[str, list[bool]] = {}
    begun = time.process_time()
    found = [list(find(row.text)) for row in rows]
    seconds = time.process_time() - begun
    for row, spans in zip(rows, found, strict=True):
        subsets.setdefault(row.subset, []).append(bool(spans))
        for gold in row.golds:
            if gold.kind not in looked_for:
                missed[gold.label] += 1
                continue
            of, alike = types[gold.kind], [span for span in spans if span.kind == gold.kind]
            of.gold += 1
            of.overlapped += any(_overlap(gold, span) for span in alike)
            of.exact += any((gold.start, gold.end) == (span.start, span.end) for span in alike)
        for span in spans:
            types[span.kind].found += 1
            types[span.kind].right += any(
                _overlap(gold, span) and gold.kind == span.kind for gold in row.golds
            )
    characters = sum(len(row.text) for row in rows)
    return {
        "n": len(rows),
        "characters": characters,
        "us_per_kb": seconds * 1e9 / characters if characters else None,
        "by_type": {
            kind: _numbers(types[kind]) for kind in sorted(types) if types[kind].gold or types[kind].found
        },
        "not_looked_for": dict(missed.most_common()),
        "by_subset": {
            name: {"n": len(flags), "flagged": _share(sum(flags), len(flags))}
            for name, flags in subsets.items()
        },
    }


def ordinary_report(texts: Sequence[str], find: Find) -> dict[str, Any]:
    """Return in how many of ordinary texts something is found: `{n, flagged, by_type: {kind: rows}, us_per_kb}`."""
    begun = time.process_time()
    found = [{span.kind for span in find(text)} for text in texts]
    seconds = time.process_time() - begun
    characters = sum(map(len, texts))
    return {
        "n": len(texts),
        "flagged": _share(sum(map(bool, found)), len(found)),
        "by_type": dict(Counter(kind for kinds in found for kind in sorted(kinds)).most_common()),
        "us_per_kb": seconds * 1e9 / characters if characters else None,
    }


def _overlap(gold: Gold, span: Span) -> bool:
    return gold.start < span.end and span.start < gold.end


def _numbers(of: _Type) -> dict[str, Any]:
    return {
        "gold": of.gold,
        "recall": _share(of.overlapped, of.gold),
        "recall_exact": _share(of.exact, of.gold),
        "found": of.found,
        "precision": _share(of.right, of.found),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
