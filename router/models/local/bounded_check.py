"""Checks JSON against a schema for a bounded time: the schema is the caller's, and a few hundred bytes of references to
references, or one regular expression, can keep a validator busy for years.

Imported where `jsonschema` is needed, and not before.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

from jsonschema import FormatChecker
from jsonschema.validators import extend

# Keywords that are looked at, in all: a few microseconds each. A schema itself takes up to a hundred for each in it.
MOST_STEPS, MOST_STEPS_OF_SCHEMA = 20_000, 200_000
# Equal values are looked for by comparing each with each, where they have no order.
_EACH_WITH_EACH = "uniqueItems"
# Of all regular expressions, in tries of a character: tens of nanoseconds each.
MOST_TRIES = 10_000_000
# Looks for regular expressions wherever they may stand, and tries them by itself: it is not looked at.
_TRIES_BY_ITSELF = "unevaluatedProperties"
# Repetitions of at most so many are none that grow.
_FEW = 16


class TooManySteps(Exception):
    """The check was given up."""


class Steps(FormatChecker):
    """What is left of one check's steps. It goes where a checker of formats goes.

    Args:
        left: How many there are.
        formats: That are checked; default: none.

    Attributes:
        tries: Of regular expressions, that are left.
    """

    checkers = {}  # noqa: RUF012 - as in the class above

    def __init__(self, left: int = MOST_STEPS, formats: FormatChecker | None = None) -> None:
        super().__init__(())
        if formats is not None:
            self.checkers = formats.checkers
        self.left = left
        self.tries = float(MOST_TRIES)

    def take(self, count: int) -> None:
        """Take steps.

        Raises:
            TooManySteps: There are not so many left.
        """
        self.left -= count
        if self.left < 0:
            raise TooManySteps


@lru_cache(maxsize=16)
def counted(validator: Any) -> Any:
    """Return a validator's class whose keywords take steps of the `Steps` in its `format_checker`."""
    keywords = {name: partial(_counted, name, check) for name, check in validator.VALIDATORS.items()}
    made: Any = extend(validator, keywords)  # type: ignore[no-untyped-call]
    evolve = made.evolve

    def evolve_in_this_dialect(self: Any, **changes: Any) -> Any:
        # A schema inside another one may name a dialect, whose own class would count nothing. It was checked by the
        # outer one's.
        schema = changes.setdefault("schema", self.schema)
        if isinstance(schema, dict) and "$schema" in schema:
            changes["schema"] = {key: value for key, value in schema.items() if key != "$schema"}
        return evolve(self, **changes)

    made.evolve = evolve_in_this_dialect
    return made


def _counted(
    name: str, check: Callable[..., Any], validator: Any, value: Any, instance: Any, schema: Any
) -> Iterator[Any]:
    steps: Steps = validator.format_checker
    if name == _EACH_WITH_EACH and isinstance(instance, list):
        steps.take(len(instance) // 10 if _ordered(instance) else len(instance) ** 2 // 10)
    steps.take(1 + len(value) // 10 if isinstance(value, (list, dict)) else 1)
    if name == "pattern" and isinstance(instance, str) and isinstance(value, str):
        found = [(value, instance)]
    elif name in ("patternProperties", "additionalProperties") and isinstance(instance, dict):
        # What is additional is told by the patterns beside it.
        found = [(pattern, key) for pattern in schema.get("patternProperties", ()) for key in instance]
    else:
        found = []
    worst = sum(tries(pattern, len(text)) for pattern, text in found)
    if worst > steps.tries or name == _TRIES_BY_ITSELF:
        # Not looked at. The grammar by which the answer was made has it, but for JSON's escapes.
        return
    steps.tries -= worst
    yield from check(validator, value, instance, schema) or ()


def _ordered(values: list[Any]) -> bool:
    """Whether values can be sorted, so that equal ones stand side by side."""
    kinds = {type(value) for value in values}
    return kinds <= {str} or kinds <= {int, float}


def tries(pattern: str, length: int) -> float:
    """Return about how many tries a regular expression takes at worst for a text of a length; `inf` for very many.

    Each repetition is tried at every length, from every place; where one is repeated itself (`(a+)+`), in every way to
    cut the text.
    """
    nested, count = _kind(pattern)
    if nested:
        return 2.0**length if length < 64 else math.inf
    try:
        return float(length) ** (count + 1)
    except OverflowError:
        return math.inf


@lru_cache(maxsize=256)
def _kind(pattern: str) -> tuple[bool, int]:
    """Return whether a regular expression repeats repetitions, and how many it has."""
    # There is no other way to see what is repeated.
    parser = importlib.import_module("re._parser")
    try:
        parsed = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return True, 0
    deepest, count = _repetitions(parsed)
    return deepest > 1, count


def _repetitions(parsed: Any) -> tuple[int, int]:
    """Return how deep repetitions stand in each other, and how many there are."""
    deepest = count = 0
    for what, of in parsed:
        name = str(what)
        if name == "GROUPREF":
            deepest = 2
        repeats = name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") and of[1] > _FEW
        inner = [_repetitions(part) for part in _subpatterns(of)]
        deepest = max(deepest, int(repeats) + max((depth for depth, _ in inner), default=0))
        count += int(repeats) + sum(number for _, number in inner)
    return deepest, count


def _subpatterns(of: Any) -> Iterator[Any]:
    """Yield the patterns in what a part of a regular expression is made of."""
    if hasattr(of, "getwidth"):
        yield of
    elif isinstance(of, (tuple, list)):
        for inner in of:
            yield from _subpatterns(inner)
