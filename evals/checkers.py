"""Was an answer right? One small closure for each way of checking; what cannot be checked here is unscored, not wrong.

The ways and their names are those of the evaluation data's `checker` column. `bfcl_ast` follows the rules of BFCL's
own checker for Python signatures (names, required and accepted arguments, types, loosely compared strings).
"""

from __future__ import annotations

import collections
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Check = Callable[["Answer"], bool]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said: its text, and the calls that it made as (name, arguments)."""

    content: str
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Answer:
        """Read the `message` of a chat completion. A call whose arguments are no JSON object has none."""
        calls = []
        for call in message.get("tool_calls") or ():
            function = call["function"]
            try:
                arguments = json.loads(function["arguments"] or "{}")
            except ValueError:
                arguments = {}
            calls.append((function["name"], arguments if isinstance(arguments, dict) else {}))
        return cls(message.get("content") or "", tuple(calls))


def checker(spec: Mapping[str, Any], expected: Any, labels: Sequence[str] = ()) -> Check | None:
    """Return the check of a row, or None where its answer cannot be checked here.

    Args:
        spec: The row's `checker`: its `type` and what that type needs.
        expected: The right answer, in the form that the type asks for.
        labels: The labels to choose from, where there are any.
    """
    kind = spec.get("type")
    if kind == "bfcl_ast" and spec.get("language") != "python":
        return None
    make = _MAKERS.get(str(kind))
    return make(spec, expected, labels) if make else None


def _contains(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    """One of the accepted phrases as whole words, and none of the forbidden ones; at most `max_words` words."""
    accepted = [_phrase(text) for text in expected]
    forbidden = [_phrase(text) for text in spec.get("forbidden", ())]
    longest = spec.get("max_words")

    def check(answer: Answer) -> bool:
        text = answer.content.casefold()
        if longest is not None and len(text.split()) > longest:
            return False
        return any(p.search(text) for p in accepted) and not any(p.search(text) for p in forbidden)

    return check


def _phrase(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text.casefold())}(?!\w)")


def _not_empty(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    """Any answer in words of at least one and at most `max_words` words: greetings and thanks."""
    longest = spec.get("max_words", 120)
    return lambda answer: 1 <= len(re.findall(r"\w+", answer.content)) <= longest


def _lines(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    """Every limit of `spec` at once: `lines`, `words` as [least, most], `must` and `must_not` phrases, `starts`."""
    low, high = spec.get("words", (1, 10_000))
    must = [_phrase(text) for text in spec.get("must", ())]
    must_not = [_phrase(text) for text in spec.get("must_not", ())]
    start = str(spec.get("starts", "")).casefold()

    def check(answer: Answer) -> bool:
        text = answer.content.strip().casefold()
        lines = [line for line in text.splitlines() if line.strip()]
        return (
            ("lines" not in spec or len(lines) == spec["lines"])
            and low <= len(text.split()) <= high
            and all(p.search(text) for p in must)
            and not any(p.search(text) for p in must_not)
            and text.startswith(start)
        )

    return check


def _label_exact(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    def check(answer: Answer) -> bool:
        found = answer.content
        parsed = _json(found)
        if isinstance(parsed, dict) and spec.get("key") in parsed:
            found = str(parsed[spec["key"]])
        return _bare(found) == _bare(expected)

    return check


def _numeric(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    """The number after the last `answer`, else the last number."""
    right = float(str(expected).replace(",", ""))

    def check(answer: Answer) -> bool:
        text = answer.content
        found = re.findall(r"answer\s*:?\s*\**\s*\$?(-?[\d,]*\.?\d+)", text, re.IGNORECASE)
        found = found or re.findall(r"-?\d[\d,]*\.?\d*", text)
        try:
            return bool(found) and abs(float(found[-1].replace(",", "")) - right) < 1e-4
        except ValueError:
            return False

    return check


def _squad(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    right = {_normal(text) for text in expected}

    def check(answer: Answer) -> bool:
        first = answer.content.strip().split("\n")[0]
        return _normal(answer.content) in right or _normal(first) in right

    return check


def _rouge_l(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    right = _normal(expected).split()

    def check(answer: Answer) -> bool:
        said = _normal(answer.content).split()
        common = _longest_common(said, right)
        return common > 0 and 2 * common / (len(said) + len(right)) >= spec["pass_f1"]

    return check


def _json_slots(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    right = _slots(expected)

    def check(answer: Answer) -> bool:
        found = _json(answer.content)
        return isinstance(found, dict) and _slots(found) == right

    return check


def _intent_slots(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    right = _slots(expected["arguments"])

    def check(answer: Answer) -> bool:
        if len(answer.calls) != 1:
            return False
        name, arguments = answer.calls[0]
        return name == expected["name"] and _slots(arguments) == right

    return check


def _bfcl_ast(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    required = {
        _call_name(doc["name"]): set(doc.get("parameters", {}).get("required", ()))
        for doc in spec["func_doc"]
    }
    wanted = [(_call_name(name), accepted) for gold in expected for name, accepted in gold.items()]

    def matches(call: tuple[str, Mapping[str, Any]], gold: tuple[str, Mapping[str, Any]]) -> bool:
        (name, arguments), (gold_name, accepted) = call, gold
        return (
            _call_name(name) == gold_name
            and required.get(gold_name, set()) <= arguments.keys()
            and arguments.keys() <= accepted.keys()
            and all(_accepted(value, accepted[key]) for key, value in arguments.items())
            and all("" in options for key, options in accepted.items() if key not in arguments)
        )

    def check(answer: Answer) -> bool:
        if len(answer.calls) != len(wanted):
            return False
        open_calls = list(answer.calls)
        for gold in wanted:
            at = next((i for i, call in enumerate(open_calls) if matches(call, gold)), None)
            if at is None:
                return False
            del open_calls[at]
        return True

    return check


def _no_call(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    return lambda answer: not answer.calls


def _any_call(spec: Mapping[str, Any], expected: Any, labels: Sequence[str]) -> Check:
    return lambda answer: bool(answer.calls)


_MAKERS: dict[str, Callable[[Mapping[str, Any], Any, Sequence[str]], Check]] = {
    "contains": _contains,
    "not_empty": _not_empty,
    "lines": _lines,
    "label_exact": _label_exact,
    "numeric": _numeric,
    "squad": _squad,
    "rouge_l": _rouge_l,
    "json_slots": _json_slots,
    "intent_slots": _intent_slots,
    "bfcl_ast": _bfcl_ast,
    "bfcl_no_call": _no_call,
    "bfcl_any_call": _any_call,
}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _bare(text: Any) -> str:
    return re.sub(r"\s+", " ", str(text).casefold().strip().strip(string.punctuation + " "))


def _normal(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _slots(values: Mapping[str, Any]) -> collections.Counter[tuple[str, str]]:
    """Slots with their values, how often each; empty values count as left out."""
    return collections.Counter(
        (key, _bare(value))
        for key, many in values.items()
        if many not in (None, "")
        for value in (many if isinstance(many, list) else [many])
    )


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b):
            diagonal, row[j + 1] = row[j + 1], diagonal + 1 if x == y else max(row[j + 1], row[j])
    return row[-1]


def _call_name(name: str) -> str:
    return name.replace(".", "_")


def _accepted(value: Any, options: Any) -> bool:
    options = options if isinstance(options, list) else [options]
    return any(_same(value, option) for option in options if option != "" or value == "")


def _same(value: Any, gold: Any) -> bool:
    """Equal as BFCL counts it: an int may stand for a float, strings are compared loosely, dicts by accepted values."""
    if isinstance(gold, bool) or isinstance(value, bool):
        return value is gold
    if isinstance(gold, str):
        return isinstance(value, str) and _loose(value) == _loose(gold)
    if isinstance(gold, float):
        return isinstance(value, (int, float)) and value == gold
    if isinstance(gold, dict):
        return (
            isinstance(value, dict)
            and value.keys() <= gold.keys()
            and all(_accepted(value[key], gold[key]) for key in value)
            and all(_accepted("", options) for key, options in gold.items() if key not in value)
        )
    if isinstance(gold, (list, tuple)):
        return (
            isinstance(value, list)
            and len(value) == len(gold)
            and all(_same(a, b) for a, b in zip(value, gold, strict=True))
        )
    return type(value) is type(gold) and value == gold


def _loose(text: str) -> str:
    return re.sub(r"[ \,\.\/\-\_\*\^]", "", text).lower().replace("'", '"')
