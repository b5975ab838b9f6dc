"""Papers: passports, driving licences, dates of birth.

Numbers without check digits count where words say what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .kinds import Place, Text

# The second line of a passport's machine-readable zone (ICAO 9303, TD3): number, country, birth, sex, expiry.
_MRZ = re.compile(
    r"([A-Z0-9<]{9})([0-9])[A-Z<]{3}([0-9]{6})([0-9])[MFX<]([0-9]{6})([0-9])[A-Z0-9<]{14}[0-9<][0-9](?![A-Z0-9<])"
)
_MRZ_FIRST = re.compile(r"P[A-Z<][A-Z<]{3}[A-Z]{1,39}[A-Z<]{0,39}(?![A-Z0-9<])")
_BETWEEN = r"[\s:#.]{0,3}(?:(?:no|nr|number|num|id|is|was|has|the)\b[\s:#.]{0,3}){0,3}"
_PASSPORT = re.compile(rf"(?i)passport{_BETWEEN}((?=[A-Z]{{0,3}}\d)[A-Z0-9]{{6,9}})(?!\w)")
_LICENCE = re.compile(rf"(?i)licen[cs]e{_BETWEEN}((?=[A-Z]{{0,9}}\d)[A-Z0-9-]{{5,20}})(?!\w)")
_TO_DRIVE = re.compile(r"driv(?:er|ing)(?:['’]?s)?[ -]\Z")
# Great Britain's own form: name, decade, month, day, year, initials.
_BRITISH = re.compile(r"[A-Z](?<!\w.)[A-Z9]{4}\d[0156]\d[0-3]\d\d[A-Z9]{2}\d[A-Z]{2}(?!\w)")

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_BORN = re.compile(
    rf"""(?i)(?:birth|(?<!\w)born\b|(?<!\w)d\.?o\.?b\b)[^\n]{{0,40}}?(?<![\w./-])(
        \d{{1,2}}[./-]\d{{1,2}}[./-](?:\d{{4}}|\d{{2}}) | \d{{4}}-\d{{1,2}}-\d{{1,2}}
        | \d{{1,2}}(?:st|nd|rd|th)?[ ](?:of[ ])?{_MONTH},?[ ]\d{{4}} | {_MONTH}[ ]\d{{1,2}}(?:st|nd|rd|th)?,?[ ]\d{{4}}
    )(?![\w-])""",
    re.VERBOSE,
)


def passports(read: Text) -> Iterator[Place]:
    """Yield passport numbers where the word stands before them, and machine-readable zones with right check digits."""
    yield from (match.span(1) for match in read.matches_words(_PASSPORT, ("passport",)))
    if "<<" in read.plain:
        yield from (match.span() for match in _MRZ_FIRST.finditer(read.plain) if "<<" in match[0])
        for match in _MRZ.finditer(read.plain):
            number, birth, expiry = (match[1], match[2]), (match[3], match[4]), (match[5], match[6])
            if all(_check_digit(field) == digit for field, digit in (number, birth, expiry)):
                yield match.span()


def _check_digit(field: str) -> str:
    """Return ICAO 9303's check digit: weights 7, 3, 1; letters count from 10, `<` nothing."""
    values = (0 if char == "<" else int(char, 36) for char in field)
    return str(sum(value * (7, 3, 1)[at % 3] for at, value in enumerate(values)) % 10)


def licences(read: Text) -> Iterator[Place]:
    """Yield driving licence numbers where words say so, and those of Great Britain's form."""
    for match in read.matches_words(_LICENCE, ("licen",)):
        if _TO_DRIVE.search(read.lower, max(0, match.start() - 12), match.start()):
            yield match.span(1)
    yield from (match.span() for match in _BRITISH.finditer(read.plain))


def birth_dates(read: Text) -> Iterator[Place]:
    """Yield dates near a word that says that somebody was born then."""
    yield from (match.span(1) for match in read.matches_words(_BORN, ("birth", "born", "dob", "d.o.b")))
