"""Numbers: of cards, bank accounts, phones and US social security.

Every pattern begins with a class of characters and has bounded repetitions: `re` then skips over ordinary words, and no
text makes it slow. What must not stand before a number is looked at where its first character was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from .kinds import Place, Text

# How far behind a run a pattern may look: an extension, and what must not follow.
_BEHIND = 12


def _within(pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[Place]:
    """Yield the matches that begin in a run."""
    for match in pattern.finditer(text, start, min(len(text), end + _BEHIND)):
        if match.start() >= end:
            return
        yield match.span()


# --- cards ----------------------------------------------------------------------------------------------------------

_DIGITS = re.compile(r"\d(?<![\w.-]\d)(?:[ -]?\d){11,18}(?![\w-])(?!\.\d)")
# Beginnings of issuers' numbers, with the lengths that they have (ISO/IEC 7812; the schemes' own lists).
_ISSUERS = re.compile(
    r"""4(?:\d{12}|\d{15}|\d{18})                                                      # Visa
      | (?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}             # Mastercard
      | 3[47]\d{13}                                                                    # American Express
      | 3(?:0[0-59]|[689]\d)\d{11,16}                                                  # Diners Club
      | (?:6011|64[4-9]\d|65\d{2}|62\d{2}|81\d{2}|60\d{2}|82\d{2})\d{12,15}            # Discover, UnionPay, RuPay
      | 35(?:2[89]|[3-8]\d)\d{12,15} | (?:2131|1800)\d{11}                             # JCB
      | 220[0-4]\d{12,15}                                                              # Mir
      | (?:5018|5020|5038|5893|6304|6759|676[1-3]|0604|6390)\d{8,15}                   # Maestro
    """,
    re.VERBOSE,
)


def cards(read: Text) -> Iterator[Place]:
    """Yield card numbers with the right check digit (Luhn's, ISO/IEC 7812-1): of a known issuer, or called a card's."""
    text = read.plain
    for run in read.runs:
        if run[1] - run[0] < 12:
            continue
        for start, end in _within(_DIGITS, text, *run):
            digits = re.sub(r"\D", "", text[start:end])
            known = _ISSUERS.fullmatch(digits) or "card" in read.lower[max(0, start - 30) : start]
            if known and len(set(digits)) > 1 and _luhn(digits):
                yield start, end


def _luhn(digits: str) -> bool:
    numbers = [int(digit) for digit in digits]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in numbers[-2::-2]]
    return (sum(numbers[-1::-2]) + sum(doubled)) % 10 == 0


# --- bank accounts --------------------------------------------------------------------------------------------------

# Lengths by country, of the SWIFT registry of ISO 13616.
_IBAN_LENGTHS: Mapping[str, int] = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip
# From its check digits on.
_IBAN = re.compile(r"\d(?<=(?<![A-Za-z0-9])[A-Za-z]{2}\d)\d(?:[ -]?[A-Za-z0-9]){11,30}")


def ibans(read: Text) -> Iterator[Place]:
    """Yield IBANs of their country's length whose check digits are right (mod 97, ISO 13616)."""
    text = read.plain
    for match in _IBAN.finditer(text):
        start = match.start() - 2
        length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
        if length is None:
            continue
        # The pattern may run into the words that follow.
        end, left = start, length
        while end < match.end() and left:
            left -= text[end].isalnum()
            end += 1
        if left or text[end : end + 1].isalnum():
            continue
        if _mod_97(re.sub(r"[ -]", "", text[start:end])) == 1:
            yield start, end


def _mod_97(iban: str) -> int:
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97


# --- social security ------------------------------------------------------------------------------------------------

# Areas 000, 666 and from 900 on are not given out, nor groups 00 and serials 0000.
_SSN = re.compile(r"\d(?<![\w.-]\d)(?<!9)\d{2}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-])(?!\.\d)")
_BARE_SSN = re.compile(r"\d(?<![\w.-]\d)(?<!9)\d{2}(?!00)\d{2}(?!0000)\d{4}(?![\w-])(?!\.\d)")
_SSN_WORDS = ("ssn", "social security")


def social_security(read: Text) -> Iterator[Place]:
    """Yield US social security numbers; those written without separators only where it is said what they are."""
    text, named = read.plain, any(word in read.lower for word in _SSN_WORDS)
    for run in read.runs:
        if run[1] - run[0] < 9:
            continue
        before = read.lower[max(0, run[0] - 40) : run[0]] if named else ""
        said = any(word in before for word in _SSN_WORDS)
        patterns = (_SSN,) if "-" in text[slice(*run)] or " " in text[slice(*run)] else ()
        for pattern in (*patterns, _BARE_SSN) if said else patterns:
            for start, end in _within(pattern, text, *run):
                if text[start : start + 3] not in ("000", "666"):
                    yield start, end


# --- phones ---------------------------------------------------------------------------------------------------------

_PHONE = re.compile(
    r"""[+(\d](?<![\w.+/-][+(\d])(?:
        (?<=\+)[1-9]\d{0,2}(?:[ ./-]?(?:\(0?\d{1,4}\)|\d{1,6})){1,6}            # +49 (0)30 1234567
        | (?<=0)0[1-9]\d{0,2}(?:[ ./-]?(?:\(0?\d{1,4}\)|\d{1,6})){1,6}          # 0049 30 1234567
        | (?<=0)[1-9]\d{0,3}[ ./-]\d{2,8}(?:[ ./-]\d{1,6}){0,4}                      # 030 1234567
        | (?<=\()0\d{1,4}\)[ ./-]?\d{2,8}(?:[ ./-]\d{1,6}){0,4}                 # (089) 12 34 56
        | (?<=\()[2-9]\d{2}\)[ .-]?\d{3}[ .-]\d{4}                              # (415) 555-0132
        | (?<=1)[ .-]\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4}                       # 1-415-555-0132
        | (?<=[2-9])\d{2}[ .-]\d{3}[ .-]\d{4}                                   # 415-555-0132
    )(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?(?![\w-])(?!\.\d)""",
    re.VERBOSE,
)
_DATE = re.compile(r"\d{1,2}([./-])\d{1,2}\1\d{2,4}|\d{4}([./-])\d{1,2}\2\d{1,2}")
_DECIMAL = re.compile(r"\d+\.\d+|(?:19|20)\d\d-[01]\d-[0-3]\d(?: [0-2]\d)?")
# Where a word before it says that it is a phone number, any form will do.
_PHONE_WORDS = (
    "phone", "mobile", "cell", "tel", "fax", "whatsapp", "hotline", "handy", "mobil", "gsm", "desk", "call", "text",
    "ring", "dial", "reach", "answering",
)  # fmt: skip
_CALLED = re.compile(
    r"""\b(?:(?:tele)?phone|mobile?|cell|tel|fax|whatsapp|hotline|handy|telefon|gsm|desk
        |(?:call|text|ring|dial|reach|answering)\b.{0,20}?\b(?:at|on)
        )\b(?:[^\w+(]{0,4}(?:number|no|nr|is|was|to)\b){0,2}[^\w+(]{0,8}\Z""",
    re.VERBOSE,
)
_LOOSE = re.compile(
    r"[+(\d](?<![\w.+/-][+(\d])(?:[ ./()-]{0,2}\d){6,14}(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?(?![\w-])"
)
_SEPARATORS = re.compile(r"[ ./()-]")


def phones(read: Text) -> Iterator[Place]:
    """Yield phone numbers of 7 to 15 digits (E.164), an extension besides."""
    text = read.plain
    for start, end in read.runs:
        found = False
        run = text[start:end]
        # A form of its own has separators, or a country's code before it.
        formed = run[0] in "+(" or run.startswith("00") or _SEPARATORS.search(run)
        if formed and not _DECIMAL.fullmatch(run):
            for place in _within(_PHONE, text, start, end):
                if _is_phone(text[slice(*place)]):
                    found = True
                    yield place
        if not found and _is_called(read.lower[max(0, start - 40) : start]):
            loose = _LOOSE.match(text, start)
            if loose and _is_phone(loose[0]):
                yield loose.span()


def _is_called(before: str) -> bool:
    return any(word in before for word in _PHONE_WORDS) and _CALLED.search(before) is not None


def _is_phone(text: str) -> bool:
    number = re.split(r"[xe]", text, maxsplit=1)[0]
    digits = [char for char in number if char.isdigit()]
    return 7 <= len(digits) <= 15 and len(set(digits)) > 1 and not _DATE.fullmatch(text.strip())
