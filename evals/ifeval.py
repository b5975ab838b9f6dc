"""Strict checks of IFEval's verifiable instructions (Zhou et al. 2023, arXiv 2311.07911).

A response passes a row if it follows every instruction of it. The rules are the benchmark's; two of its tools are
replaced by plain ones: sentences end at `.`, `!` or `?` before a space, and a language is known by its script.
Languages without a script or letters of their own cannot be checked here, so that their rows are unscored.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from .checkers import Answer, Check

Follows = Callable[[str], bool]
Arguments = Mapping[str, Any]

# Language -> the first word of its letters' Unicode names. Hindi and Marathi share theirs, as do others: a reply in the
# other language of a script is taken for right.
_SCRIPTS = {
    "ar": "ARABIC", "bg": "CYRILLIC", "bn": "BENGALI", "el": "GREEK", "fa": "ARABIC", "gu": "GUJARATI",
    "he": "HEBREW", "hi": "DEVANAGARI", "kn": "KANNADA", "ko": "HANGUL", "mr": "DEVANAGARI", "ne": "DEVANAGARI",
    "pa": "GURMUKHI", "ru": "CYRILLIC", "ta": "TAMIL", "te": "TELUGU", "th": "THAI", "uk": "CYRILLIC", "ur": "ARABIC",
}  # fmt: skip
# Letters that Vietnamese has and its neighbours in Latin script do not; about one in ten of a Vietnamese text is one.
_VIETNAMESE = frozenset("ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ")


def ifeval_check(spec: Mapping[str, Any]) -> Check | None:
    """Return the check of a row, or None where one of its instructions cannot be checked here.

    Args:
        spec: With `instruction_id_list` and `kwargs`, one for each instruction.
    """
    rules = []
    for name, arguments in zip(spec["instruction_id_list"], spec["kwargs"], strict=True):
        make = _INSTRUCTIONS.get(name)
        rule = make({k: v for k, v in arguments.items() if v is not None}) if make else None
        if rule is None:
            return None
        rules.append(rule)

    def check(answer: Answer) -> bool:
        text = answer.content
        return bool(text.strip()) and all(follows(text) for follows in rules)

    return check


def _related(relation: str, limit: int, count: Callable[[str], int]) -> Follows:
    if relation == "less than":
        return lambda text: count(text) < limit
    return lambda text: count(text) >= limit


def _found(pattern: str, text: str, flags: re.RegexFlag = re.IGNORECASE) -> int:
    return len(re.findall(pattern, text, flags))


# --- words and letters ----------------------------------------------------------------------------------------


def _existence(args: Arguments) -> Follows:
    return lambda text: all(_found(word, text) for word in args["keywords"])


def _forbidden(args: Arguments) -> Follows:
    return lambda text: not any(_found(rf"\b{word}\b", text) for word in args["forbidden_words"])


def _frequency(args: Arguments) -> Follows:
    return _related(args["relation"], args["frequency"], lambda text: _found(args["keyword"].strip(), text))


def _letters(args: Arguments) -> Follows:
    letter = args["letter"].lower()
    return _related(args["let_relation"], args["let_frequency"], lambda text: text.lower().count(letter))


def _capital_words(args: Arguments) -> Follows:
    def count(text: str) -> int:
        return sum(word.isupper() for word in re.findall(r"[^\s\W][\w'’.-]*", text))

    return _related(args["capital_relation"], args["capital_frequency"], count)


def _lower(args: Arguments) -> Follows:
    return lambda text: text.islower() and _may_be_english(text)


def _upper(args: Arguments) -> Follows:
    return lambda text: text.isupper() and _may_be_english(text)


def _may_be_english(text: str) -> bool:
    return _share(text, str.isascii) > 0.9


def _no_comma(args: Arguments) -> Follows:
    return lambda text: "," not in text


def _language(args: Arguments) -> Follows | None:
    name = args["language"]
    if name == "vi":
        return lambda text: _share(text, lambda char: char.lower() in _VIETNAMESE) > 0.05
    script = _SCRIPTS.get(name)
    if script is None:
        return None
    return lambda text: _share(text, lambda char: unicodedata.name(char, "").startswith(script)) > 0.5


def _share(text: str, fits: Callable[[str], bool]) -> float:
    letters = [char for char in unicodedata.normalize("NFC", text) if char.isalpha()]
    return sum(map(fits, letters)) / len(letters) if letters else 0.0


# --- length ---------------------------------------------------------------------------------------------------


def _words(args: Arguments) -> Follows:
    return _related(args["relation"], args["num_words"], lambda text: _found(r"\w+", text))


def _sentences(args: Arguments) -> Follows:
    def count(text: str) -> int:
        parts = re.split(r"(?<=[.!?])[\"'”’)\]*_]*\s+", text)
        return sum(bool(re.search(r"\w", part)) for part in parts)

    return _related(args["relation"], args["num_sentences"], count)


def _paragraphs(args: Arguments) -> Follows:
    """Paragraphs with `***` between them; an empty one is allowed at either end only."""

    def follows(text: str) -> bool:
        parts = _trimmed(re.split(r"\s?\*\*\*\s?", text))
        return all(parts) and len(parts) == args["num_paragraphs"]

    return follows


def _nth_paragraph(args: Arguments) -> Follows:
    """Paragraphs with an empty line between them, one of which starts with a word."""
    at = args["nth_paragraph"] - 1

    def follows(text: str) -> bool:
        parts = text.split("\n\n")
        if sum(bool(part.strip()) for part in parts) != args["num_paragraphs"] or not parts[at].strip():
            return False
        first = re.match(r"['\"]*([^\s.,?!'\"]*)", parts[at].strip())
        return first is not None and first[1].lower() == args["first_word"].lower()

    return follows


def _trimmed(parts: list[str]) -> list[str]:
    """Strip all, and drop an empty first or last one."""
    found = [part.strip() for part in parts]
    return [part for at, part in enumerate(found) if part or 0 < at < len(found) - 1]


# --- form -----------------------------------------------------------------------------------------------------


def _placeholders(args: Arguments) -> Follows:
    return lambda text: _found(r"\[.*?\]", text) >= args["num_placeholders"]


def _postscript(args: Arguments) -> Follows:
    marker = args["postscript_marker"]
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, re.escape(marker))
    return lambda text: bool(_found(pattern, text))


def _bullets(args: Arguments) -> Follows:
    """Lines that start with `*` (but not `**`) or `-`."""
    return lambda text: _found(r"^\s*(?:\*[^*]|-)", text, re.MULTILINE) == args["num_bullets"]


def _highlights(args: Arguments) -> Follows:
    """`*one*` and `**two**`, with something inside."""

    def count(text: str) -> int:
        single = re.findall(r"\*([^\n*]*)\*", text)
        double = re.findall(r"\*\*([^\n*]*)\*\*", text)
        return sum(bool(inside.strip()) for inside in single + double)

    return lambda text: count(text) >= args["num_highlights"]


def _sections(args: Arguments) -> Follows:
    """`SECTION 1`, `SECTION 2` and so on."""
    pattern = rf"\s?{re.escape(args['section_spliter'])}\s?\d+\s?"
    return lambda text: len(re.findall(pattern, text)) >= args["num_sections"]


def _json(args: Arguments) -> Follows:
    def follows(text: str) -> bool:
        bare = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE)
        try:
            json.loads(bare)
        except ValueError:
            return False
        return True

    return follows


def _title(args: Arguments) -> Follows:
    return lambda text: any(inside.strip("<> ") for inside in re.findall(r"<<([^\n]+)>>", text))


def _constrained(args: Arguments) -> Follows:
    return lambda text: any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def _two(args: Arguments) -> Follows:
    """Two different responses with `******` between them."""

    def follows(text: str) -> bool:
        parts = _trimmed(text.split("******"))
        return all(parts) and len(parts) == 2 and parts[0] != parts[1]

    return follows


def _repeat(args: Arguments) -> Follows:
    prompt = args["prompt_to_repeat"].strip().lower()
    return lambda text: text.strip().lower().startswith(prompt)


def _end(args: Arguments) -> Follows:
    phrase = args["end_phrase"].strip().lower()
    return lambda text: text.strip().strip('"').lower().endswith(phrase)


def _quotation(args: Arguments) -> Follows:
    def follows(text: str) -> bool:
        bare = text.strip()
        return len(bare) > 1 and bare[0] == bare[-1] == '"'

    return follows


_INSTRUCTIONS: dict[str, Callable[[Arguments], Follows | None]] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _upper,
    "change_case:english_lowercase": _lower,
    "combination:repeat_prompt": _repeat,
    "combination:two_responses": _two,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden,
    "keywords:frequency": _frequency,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": _no_comma,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
}
