"""Data that its form gives away: addresses of mail and machines, numbers with check digits, keys and tokens.

Names, street addresses and whatever else only its meaning gives away are not found here; see `names`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .credentials import secrets
from .documents import birth_dates, licences, passports
from .kinds import Finder, Kind, Span, Text, apart
from .network import emails, ips, wallets
from .numbers import cards, ibans, phones, social_security

# What finds the places of a text's personal data, in order and apart from each other.
Find = Callable[[str], Sequence[Span]]


def redact(text: str, find: Find | None = None) -> str:
    """Return the text with each find replaced by its kind: `[email]`, `[phone]`, `[card]`, `[secret]`, …

    Args:
        text: Any.
        find: What finds; default: `find_spans`.
    """
    parts: list[str] = []
    done = 0
    for span in (find or find_spans)(text):
        parts += [text[done : span.start], f"[{span.kind}]"]
        done = span.end
    return "".join([*parts, text[done:]])


def find_spans(text: str) -> list[Span]:
    """Return what is found, in order, apart from each other. Takes time in proportion to the text's length."""
    read = Text(_without_escapes(text))
    return apart([Span(kind, start, end) for kind, finder in _FINDERS for start, end in finder(read)])


# Texts are often JSON: in `\nJane@example.com` the line break's letter is no part of the address.
_ESCAPE = re.compile(r"""\\(?:u[0-9A-Fa-f]{4}|[nrtbf"/\\])""")


def _without_escapes(text: str) -> str:
    """Return a text of the same length with JSON's escapes as blanks."""
    return _ESCAPE.sub(lambda match: " " * len(match[0]), text) if "\\" in text else text


# The first that finds something has it.
_FINDERS: tuple[tuple[Kind, Finder], ...] = (
    ("secret", secrets),
    ("email", emails),
    ("crypto", wallets),
    ("iban", ibans),
    ("passport", passports),
    ("driver_licence", licences),
    ("birth_date", birth_dates),
    ("card", cards),
    ("ssn", social_security),
    ("ip", ips),
    ("phone", phones),
)
