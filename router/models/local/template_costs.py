"""What a single operation of a chat template may make, and what it costs beyond what it makes; see `template`."""

from __future__ import annotations

import json
import re
from typing import Any

import jinja2
from jinja2.utils import Namespace

# What one operation may make: characters of a text, more than the largest body has; items of a list; bits of a number.
MOST_CHARACTERS, MOST_ITEMS, MOST_BITS = 16 * 1024 * 1024, 1_000_000, 4096
# So many characters are handled in the time that a turn of a loop takes.
CHARACTERS = 64
# What a text may have that others are put into.
_MOST_FORM = 128 * 1024

_UNBOUNDED = re.compile(r"\d{6}|\*|\{[^{}]*\{")  # widths of six digits, and widths that come from elsewhere
_NUMBER, _PLACE = re.compile(r"\d+"), re.compile(r"[%{]")
# Methods that may compare each character of a text with each of another.
_SEARCHING = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})


class TooCostly(jinja2.TemplateError):
    """A template that takes too long, or makes too much."""


def size(value: Any) -> float:
    """Return what it costs to make or write a value that is no list.

    Raises:
        TooCostly: It is too large.
    """
    if isinstance(value, (str, bytes)):
        if len(value) > MOST_CHARACTERS:
            raise TooCostly("a text that is too long")
        return 1 + len(value) / CHARACTERS
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise TooCostly("a number that is too large")
    if isinstance(value, Namespace):
        # Written out, with others in it that have others in them, it would have no bound; and nobody reads one.
        raise TooCostly("a namespace that is written out or compared")
    return 1.0


def longest_text(value: Any, weight: float) -> int:
    """Return about how many characters a value has when it is written out; `weight` is what that costs."""
    if isinstance(value, str):
        return len(value)
    # An empty list, a number or a name between others are short.
    return int(weight * CHARACTERS) if isinstance(value, (list, tuple, dict)) else MOST_BITS


def searched(name: str, text: str, given: list[Any]) -> float:
    """Return what a method of a text costs beside its result."""
    cost = len(text) / CHARACTERS
    longest = max((len(one) for one in given if isinstance(one, str)), default=0)
    # Searching from the front takes both lengths together, from the back and in sets of characters their product.
    return cost * (1 + longest / 8) if name in _SEARCHING and longest > CHARACTERS else cost


def check_repetition(left: Any, right: Any) -> None:
    """Check what `left * right` makes; so all of these raise `TooCostly`."""
    for many, times in ((left, right), (right, left)):
        if isinstance(many, (str, bytes, list, tuple)) and isinstance(times, int):
            most = MOST_CHARACTERS if isinstance(many, (str, bytes)) else MOST_ITEMS
            if len(many) * times > most:
                raise TooCostly("a repetition that is too long")


def check_format(text: Any, longest: int) -> None:
    """Check what a text makes that has widths in it, and places for others of so many characters."""
    if not isinstance(text, str):
        return
    if len(text) > _MOST_FORM:
        raise TooCostly("a form that is too long")
    if _UNBOUNDED.search(text):
        raise TooCostly("a width without a bound")
    widths = sum(int(number) for number in _NUMBER.findall(text))
    if widths + len(_PLACE.findall(text)) * longest > MOST_CHARACTERS:
        raise TooCostly("a form that makes too long a text")


def check_replace(texts: list[str]) -> None:
    """Check what replacing makes: of the first, the second by the third."""
    if len(texts) >= 3:
        text, old, new = texts[:3]
        found = text.count(old) if old else len(text) + 1
        if found * len(new) > MOST_CHARACTERS:
            raise TooCostly("a replacement that is too long")


def check_join(given: list[Any]) -> None:
    """Check what lies between the items that are joined, in whatever order both are given."""
    items = max((len(one) for one in given if isinstance(one, (str, list, tuple, dict, range))), default=0)
    between = max((len(one) for one in given[1:] if isinstance(one, str)), default=0)
    check_repetition(" " * between, items)


def check_indent(given: list[Any]) -> None:
    """Check what stands before the lines of a text."""
    text, *widths = given
    wide = max((len(one) if isinstance(one, str) else int(one) for one in widths), default=4)
    if isinstance(text, str) and (text.count("\n") + 1) * wide > MOST_CHARACTERS:
        raise TooCostly("an indent that is too wide")


def check_method(name: str, owner: str, given: list[Any]) -> None:
    """Check what a method of a text makes."""
    if any(isinstance(one, int) and one > MOST_ITEMS for one in given):
        raise TooCostly("a size that is too large")
    if name == "replace":
        check_replace([owner, *(one for one in given if isinstance(one, str))])
    elif name == "expandtabs":
        check_repetition(
            "\t" * owner.count("\t"), max((one for one in given if isinstance(one, int)), default=8)
        )
    elif name == "join" and given and isinstance(given[0], (list, tuple, str, dict, range)):
        check_repetition(owner, len(given[0]))


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON, as transformers writes it: no escapes that HTML would need."""
    if indent is None:
        return json.dumps(value, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)
    if not 0 <= indent <= CHARACTERS:
        raise TooCostly("an indent that is too large")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    pieces, length = [], 0
    for piece in encoder.iterencode(value):
        length += len(piece)
        if length > MOST_CHARACTERS:
            raise TooCostly("JSON that is too long")
        pieces.append(piece)
    return "".join(pieces)
