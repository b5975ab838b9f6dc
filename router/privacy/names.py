"""Names and places, which only their meaning gives away: by Presidio and a spaCy model, where they are installed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..errors import SettingsError
from .kinds import Kind, Span, apart
from .structured import Find

# Presidio's names for what spaCy's models tell apart.
_KINDS: Mapping[str, Kind] = {"PERSON": "name", "LOCATION": "address"}


class Result(Protocol):
    """What an analyzer finds: Presidio's `RecognizerResult`."""

    entity_type: str
    start: int
    end: int


class Analyzer(Protocol):
    """What finds: Presidio's `AnalyzerEngine`."""

    def analyze(self, text: str, language: str, entities: list[str]) -> Sequence[Result]:
        """Return what is found of these kinds."""
        ...


class Names:
    """Finds names and places in texts of one language. Takes about a millisecond for ten words: call it in a thread.

    Args:
        analyzer: Presidio's, or anything of its form.
        language: As the analyzer names it, e.g. `en`.
    """

    def __init__(self, analyzer: Analyzer, *, language: str) -> None:
        self._analyzer = analyzer
        self._language = language
        self._lock = threading.Lock()

    def __call__(self, text: str) -> list[Span]:
        """Return what is found, in order, apart from each other."""
        # A text without a word needs no model.
        if not any(char.isalpha() for char in text):
            return []
        with self._lock:
            found = self._analyzer.analyze(text, self._language, list(_KINDS))
        spans = [
            Span(_KINDS[one.entity_type], one.start, one.end) for one in found if one.entity_type in _KINDS
        ]
        return apart(sorted(spans, key=lambda span: (span.start, span.start - span.end)))


def presidio(model: str, language: str) -> Find:
    """Return what finds names by Presidio.

    Args:
        model: A spaCy model that is installed as a package, e.g. `en_core_web_lg`.
        language: Its language, e.g. `en`.

    Raises:
        SettingsError: Presidio, or the model, is not installed.
    """
    try:
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import NlpEngineProvider
        from presidio_analyzer.predefined_recognizers import SpacyRecognizer
        from spacy.util import is_package
    except ImportError as exc:
        raise SettingsError(
            "'pii_types' has 'name' or 'address', which need Presidio: pip install 'smallfirst[pii]'."
        ) from exc
    # Asked first: Presidio would try to fetch a model that is missing.
    if not is_package(model):
        raise SettingsError(
            f"privacy.spacy_model: '{model}' is not installed; see docs/privacy.md, or name one that is."
        )
    models = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": model}]}
    engine = NlpEngineProvider(nlp_configuration=models).create_engine()
    recognizers: list[Any] = [SpacyRecognizer(supported_language=language)]
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=[language])
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])
    return Names(analyzer, language=language)
