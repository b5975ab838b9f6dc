"""Examples for the judgement whether an answer keeps: texts of the evaluation data, with a class and where from.

Classes of CLINC intents are those of `classification_cacheability`; what it does not name is in two files beside this
one: `volatility_labels.yaml` (intents, functions and rows that were labelled by reading) and
`volatility_examples.yaml` (sentences written by hand).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..semantic.volatility import CLASSES, FOREIGN, HALF, foreign_share
from .files import DataError, decoded, read_rows

LABELS = Path(__file__).with_name("volatility_labels.yaml")
EXAMPLES = Path(__file__).with_name("volatility_examples.yaml")
CACHEABILITY = "classification_cacheability"
# At most so many texts of one CLINC intent, of another intent, of a file.
CLINC, INTENT, FILE = 120, 40, 1500
SEED = 0
LEFT_OUT = "left_out"

_SLOT = re.compile(r"\{(\w+)\}")
_PRESENT = re.compile(r"\b(now|today|current|currently|still|latest|recent|last|next|new|my|coming)\b")
_CHOICES = re.compile(r"\n\(?A[).]\s")


@dataclass(frozen=True, slots=True)
class Example:
    """One text.

    Attributes:
        text: What a user wrote.
        label: One of `CLASSES`.
        family: What must not be on both sides of a fold where unseen kinds are measured: an intent, a function, a
            family of sentences. None where only near-duplicates must stay together.
        source: Of which data, for figures.
    """

    text: str
    label: str
    family: str | None
    source: str


def read_examples(data: Path) -> list[Example]:
    """Return all examples of a data folder and those written by hand, every text once.

    Raises:
        DataError: A file is missing or broken.
    """
    table = yaml.safe_load(LABELS.read_text(encoding="utf-8"))
    found: dict[str, Example] = {}
    for read in (_cacheability, _intents, _functions, _agents, _questions, _chat, _stems, _pairs):
        for example in read(data, table):
            found.setdefault(" ".join(example.text.lower().split()), example)
    for example in by_hand():
        found.setdefault(" ".join(example.text.lower().split()), example)
    return list(found.values())


def _cacheability(data: Path, table: Mapping[str, Any]) -> Iterator[Example]:
    for row in cacheability_rows(data / f"{CACHEABILITY}_dev.parquet"):
        yield Example(row.text, row.label, f"clinc150/{row.intent}", CACHEABILITY)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A row of a file of texts whose class is known; `intent` is empty where the file does not tell it."""

    text: str
    label: str
    intent: str


def cacheability_rows(path: Path) -> Iterator[Labelled]:
    """Yield the rows of a labelled file in its order.

    Args:
        path: Parquet or JSON lines with `request` (whose last user message is the text, unless `meta` has a `text`)
            and `expected` (one of `CLASSES`).

    Raises:
        DataError: The file cannot be read or a row lacks one of them; names the row.
    """
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path}: row {number}"
        label = row.get("expected")
        if isinstance(label, str) and label.startswith('"'):
            label = decoded(row, "expected", where)
        meta = decoded(row, "meta", where)
        meta = meta if isinstance(meta, dict) else {}
        try:
            text = meta.get("text") or last_user_text(decoded(row, "request", where))
        except (KeyError, TypeError, StopIteration) as exc:
            raise DataError(
                f"{where}: expected 'request' with a user message, or 'meta' with 'text'."
            ) from exc
        if label not in CLASSES:
            raise DataError(f"{where}: 'expected': '{label}' is none of {', '.join(CLASSES)}.")
        yield Labelled(text, label, str(meta.get("intent", "")))


def _intents(data: Path, table: Mapping[str, Any]) -> Iterator[Example]:
    classes = {
        f"{source}/{intent}": label
        for source, by_class in table["intents"].items()
        for label, intents in by_class.items()
        for intent in intents.split()
    }
    classes |= {example.family: example.label for example in _cacheability(data, table) if example.family}
    out_of_scope = _by_name(table["out_of_scope"])
    texts: dict[str, list[str]] = {}
    for row in read_rows(data / "intent_train_pool_dev.parquet", ("text", "label", "source")):
        family = f"{row['source']}/{row['label']}"
        texts.setdefault(family, []).append(row["text"])
    for text in texts.pop("clinc150/oos", []):
        label = out_of_scope.get(hashlib.sha256(text.encode()).hexdigest()[:10], "static")
        if label != LEFT_OUT:
            yield Example(text, label, None, "clinc150_oos")
    for family, of_intent in texts.items():
        if family in classes:
            source = family.split("/")[0]
            for text in _some(of_intent, CLINC if source == "clinc150" else INTENT):
                yield Example(text, classes[family], family, source)


def _functions(data: Path, table: Mapping[str, Any]) -> Iterator[Example]:
    classes = _by_name(table["functions"])
    for row in read_rows(data / "function_call_bfcl_dev.parquet", ("subset", "request", "expected")):
        called = [name for call in _calls(row["expected"]) for name in call]
        if row["subset"].startswith("live_") and called and called[0] in classes:
            yield Example(_text(row), classes[called[0]], f"bfcl/{called[0]}", "bfcl")


def _agents(data: Path, table: Mapping[str, Any]) -> Iterator[Example]:
    for row in read_rows(data / "agent_bfcl_dev.parquet", ("subset", "request")):
        if row["subset"] == "multi_turn_base":
            yield Example(_text(row), "action", None, "agents")
    for row in read_rows(data / "agent_tau2_dev.parquet", ("subset", "request")):
        yield Example(_text(row), "action", f"tau2/{row['subset']}", "agents")


def _questions(data: Path, table: Mapping[str, Any]) -> Iterator[Example]:
    """The question alone, and the whole prompt where there is more: with its passage, even "current" keeps."""
    rows = _by_name(table["rows"])
    for name in ("qa_knowledge", "qa_reading"):
        for row in read_rows(data / f"{name}_dev.parquet", ("id", "subset", "request", "meta")):
            label = rows.get(row["id"], "static")
            whole, asked = _text(row), _question(row)
            if label != LEFT_OUT:
                yield Example(_CHOICES.split(asked)[0].strip(), label, None, row["subset"])
            if whole.strip() != asked.strip() and len(whole) > 1.5 * len(asked):
                yield Example(whole, "static", None, f"{row['subset']}_prompt")


def _chat(data: Path, table: Mapping[str, Any]) -> Iterator[Example]:
    rows = _by_name(table["rows"])
    for name in ("chat_open", "chat_ifeval", "qa_reasoning"):
        for row in read_rows(data / f"{name}_dev.parquet", ("id", "subset", "request")):
            if rows.get(row["id"]) != LEFT_OUT:
                source, text = row["subset"] if name == "qa_reasoning" else name, _text(row)
                source += "_foreign" if foreign_share(text[:HALF]) > FOREIGN else ""
                yield Example(text, "static", None, source)


def _stems(data: Path, table: Mapping[str, Any]) -> Iterator[Example]:
    texts: dict[str, list[str]] = {"gsm8k": [], "mmlu": []}
    for row in read_rows(data / "router_outcomes_dev.parquet", ("subset", "request")):
        if row["subset"] in texts:
            texts[row["subset"]].append(_text(row))
    for subset, of_subset in texts.items():
        for at, text in enumerate(_some(of_subset, FILE)):
            # Half of them with their choices: both are asked.
            yield Example(text if at % 2 else _CHOICES.split(text)[0].strip(), "static", None, subset)


def _pairs(data: Path, table: Mapping[str, Any]) -> Iterator[Example]:
    """Questions with small changes. Of what is not plainly static none is taken, nor with a word of the present."""
    named = _by_name(table["rows"])
    doubtful = tuple(
        _question(row)
        for row in read_rows(data / "qa_knowledge_dev.parquet", ("id", "request", "meta"))
        if row["id"] in named
    )
    for row in read_rows(data / "cache_pairs_dev.parquet", ("kind", "source", "prompt_a", "prompt_b")):
        if row["kind"] in ("disfluent_same", "same_passage_other_question", "surface_variant"):
            for text in (row["prompt_a"], row["prompt_b"]):
                if text and not _PRESENT.search(text.lower()) and not any(q in text for q in doubtful):
                    yield Example(text, "static", None, f"pairs_{row['kind']}")


def by_hand() -> Iterator[Example]:
    """Yield the sentences written by hand, their slots filled."""
    families = yaml.safe_load(EXAMPLES.read_text(encoding="utf-8"))
    slots = families.pop("slots")
    for family, by_class in families.items():
        for label, texts in by_class.items():
            for text in texts:
                slot = _SLOT.search(text)
                for word in slots[slot[1]] if slot else [""]:
                    yield Example(_SLOT.sub(word, text), label, f"by_hand/{family}", "by_hand")


def _by_name(names: Mapping[str, str]) -> dict[str, str]:
    return {name: label for label, listed in names.items() for name in listed.split()}


def _some(texts: list[str], most: int) -> list[str]:
    order = np.random.default_rng(SEED).permutation(len(texts))[:most]
    return [texts[at] for at in sorted(order.tolist())]


def _calls(expected: str | None) -> list[Mapping[str, Any]]:
    calls = _json(expected) if expected else []
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _question(row: Mapping[str, Any]) -> str:
    return str(_json(row["meta"]).get("question") or _text(row)).strip().rstrip("?")


def _text(row: Mapping[str, Any]) -> str:
    return last_user_text(_json(row["request"]))


def last_user_text(request: Mapping[str, Any]) -> str:
    """Return the text of a request's last user message.

    Raises:
        KeyError, TypeError, StopIteration: There is none.
    """
    content = next(m["content"] for m in reversed(request["messages"]) if m["role"] == "user")
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
