"""JSON schemas: checked, closed for generating, and replies checked against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

# Nested deeper than this, a schema is refused: checking one recurses.
DEEPEST = 64
# Each schema in a schema takes a millisecond to check, and each regular expression up to as much again to compile.
MOST_PARTS, MOST_PATTERNS, LONGEST_PATTERN = 1000, 64, 1000

# Beside these, a list of properties is not the whole story, and closing it would forbid what they allow.
_COMBINING = frozenset({"allOf", "anyOf", "oneOf", "$ref", "if", "patternProperties", "dependentSchemas"})


class NotASchema(ValueError):
    """Not a JSON schema; the message says where and why, and quotes no more than a key of it."""


def check_schema(schema: Any) -> None:
    """Check that a schema is one, by its own dialect (draft 2020-12 where it names none).

    Raises:
        NotASchema: It is not.
    """
    from jsonschema.validators import Draft202012Validator, validator_for

    from .bounded_check import MOST_STEPS_OF_SCHEMA, Steps, counted

    if not isinstance(schema, dict) or not isinstance(schema.get("$schema", ""), str):
        raise NotASchema("expected an object, '$schema' in it a string")
    if _depth(schema) > DEEPEST:
        raise NotASchema(f"nested deeper than {DEEPEST} levels")
    dialect: Any = validator_for(schema, default=Draft202012Validator)
    steps = Steps(MOST_STEPS_OF_SCHEMA, dialect.FORMAT_CHECKER)
    validator = counted(dialect)(dialect.META_SCHEMA, format_checker=steps)
    waiting, known = [schema], set[int]()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, bool) and id(one) not in known:
            _check_keywords(one, validator)
            known |= {id(part) for part in _parts(one)}
            if len(known) > MOST_PARTS:
                raise NotASchema(f"more than {MOST_PARTS} schemas are in it")
            # These may stand where nobody else looks for a schema.
            waiting += _referred(one, schema)


def _check_keywords(schema: Any, validator: Any) -> None:
    """Check a schema by its dialect's own schema."""
    from .bounded_check import TooManySteps

    _check_size(schema)
    try:
        wrong = next(validator.iter_errors(schema), None)
    except TooManySteps as exc:
        raise NotASchema("to check it takes too long") from exc
    except (RecursionError, OverflowError) as exc:
        raise NotASchema("a regular expression in it cannot be compiled") from exc
    if wrong is not None:
        where = ".".join(str(step) for step in wrong.absolute_path)
        raise NotASchema(f"'{where or 'schema'}' is not valid: {wrong.validator}")
    if any(part.get("enum") == [] for part in _parts(schema)):
        raise NotASchema("an empty 'enum', which no value follows")


def _check_size(schema: Any) -> None:
    if parts_in(schema) > MOST_PARTS:
        raise NotASchema(f"more than {MOST_PARTS} schemas are in it")
    patterns = [pattern for part in _parts(schema) for pattern in _patterns(part)]
    if len(patterns) > MOST_PATTERNS or any(len(pattern) > LONGEST_PATTERN for pattern in patterns):
        most = f"{MOST_PATTERNS} regular expressions of {LONGEST_PATTERN} characters"
        raise NotASchema(f"more than {most} are in it")


def parts_in(schema: Any) -> int:
    """Return how many schemas there are in a schema, itself included; of more than `MOST_PARTS`, one more."""
    return sum(1 for _ in islice(_parts(schema), MOST_PARTS + 1))


def _patterns(part: dict[str, Any]) -> list[str]:
    pattern, by_pattern = part.get("pattern"), part.get("patternProperties")
    found = list(by_pattern) if isinstance(by_pattern, dict) else []
    return [*found, pattern] if isinstance(pattern, str) else found


def _referred(schema: Any, root: Any) -> Iterator[Any]:
    """Yield what references lead to; checks that it is inside the root, and does not lead back to itself."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    registry: Any = Registry()
    resolver = registry.resolver_with_root(DRAFT202012.create_resource(root))
    given = (part.get(key) for part in _parts(schema) for key in ("$ref", "$dynamicRef"))
    references = (reference for reference in given if isinstance(reference, str))
    # Of these it is known that they lead somewhere.
    ended = set[str]()
    for first in references:
        reference, seen = first, {first}
        while True:
            try:
                found = resolver.lookup(reference).contents
            except (Unresolvable, ValueError, TypeError) as exc:
                raise NotASchema(
                    "a '$ref' that leads nowhere inside the schema; others are not fetched"
                ) from exc
            yield found
            following = found.get("$ref") if isinstance(found, dict) else None
            if not isinstance(following, str) or following in ended:
                break
            if following in seen:
                raise NotASchema("a '$ref' that leads back to itself")
            seen.add(following)
            reference = following
        ended |= seen


# What holds schemas: by name, in a list, or itself. All other keywords hold data.
_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SINGLE = frozenset(
    {
        "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
        "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it; `true` and `false` are left out."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key, value in schema.items():
        for part in _inside(key, value):
            yield from _parts(part)


def _inside(key: str, value: Any) -> list[Any]:
    if key in _BY_NAME and isinstance(value, dict):
        return list(value.values())
    if key in _LISTS and isinstance(value, list):
        return value
    return [value] if key in _SINGLE else []


def has_pattern(schema: Any) -> bool:
    """Whether a schema has regular expressions: JSON's escapes slip through the grammar's reading of them."""
    return any("pattern" in part or "patternProperties" in part for part in _parts(schema))


def follows(value: str, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON text follows a schema, as far as that can be told in a reasonable time.

    References are looked up inside it alone, never fetched.
    """
    from jsonschema import ValidationError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    from .bounded_check import Steps, TooManySteps, counted

    validator = counted(validator_for(schema, default=Draft202012Validator))
    try:
        registry: Any = Registry()
        decoded = msgspec.json.decode(value.encode())
        validator(schema, registry=registry, format_checker=Steps()).validate(decoded)
    except TooManySteps:
        return True
    except (msgspec.DecodeError, ValidationError, Unresolvable, RecursionError, OverflowError):
        return False
    return True


def closed(schema: Any) -> Any:
    """Return a schema whose objects have no properties but the listed ones, where it does not say otherwise.

    By the letter of JSON schema every object may have more; a model that is let would invent some.
    """
    if not isinstance(schema, dict):
        return schema
    result = {key: _closed_inside(key, value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema and not _COMBINING & schema.keys():
        result["additionalProperties"] = False
    return result


def _closed_inside(key: str, value: Any) -> Any:
    if key == "allOf":  # parts of a whole, which only together list all properties
        return value
    if key in _BY_NAME and isinstance(value, dict):
        return {name: closed(part) for name, part in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [closed(part) for part in value]
    return closed(value) if key in _SINGLE else value


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level and deepest <= DEEPEST:
        deepest += 1
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
    return deepest
