"""Names and places come from Presidio, or anything of its form; who asks for them without it is told."""

from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from smallfirst.policies import Policy
from smallfirst.router.errors import SettingsError
from smallfirst.router.gateway import Gateway
from smallfirst.router.privacy import Span
from smallfirst.router.privacy.names import Names, presidio
from smallfirst.router.privacy.screening import LONG, Screener
from smallfirst.router.settings import CloudModelSettings, PrivacySettings, Settings
from smallfirst.router.wire import ChatRequest

SPACY_MODEL = "en_core_web_lg"


@dataclass
class Found:
    entity_type: str
    start: int
    end: int


class KnowsJane:
    """An analyzer that knows one name and one place."""

    def analyze(self, text: str, language: str, entities: list[str]) -> list[Found]:
        places = [("PERSON", "Jane Doe"), ("PERSON", "Jane"), ("LOCATION", "Paris"), ("NRP", "French")]
        return [
            Found(kind, text.index(word), text.index(word) + len(word))
            for kind, word in places
            if word in text and language == "en"
        ]


NAMES = Names(KnowsJane(), language="en")


def test_names_and_places_are_found_each_once() -> None:
    assert NAMES("Jane Doe, French, of Paris") == [Span("name", 0, 8), Span("address", 21, 26)]
    assert NAMES("12 + 30") == []


def test_a_form_has_precedence_over_a_name() -> None:
    screener = Screener([Policy(pii="block", pii_types=("name", "email"))], NAMES)
    find = screener.finder(Policy(pii="block", pii_types=("name", "email")))
    assert find("Jane@example.com of Paris") == [Span("email", 0, 16)]


def test_names_count_where_the_policy_says_so() -> None:
    asking = Policy(name="p", pii="redact-and-restore", pii_types=("name",))
    request = ChatRequest.parse({"messages": [{"role": "user", "content": "I am Jane Doe of Paris."}]})
    screened = Screener([asking], NAMES).screened(request, asking)
    assert screened.screening is not None
    assert screened.screening.kinds == ("name",)
    sent, _ = screened.screening.outgoing(screened)
    assert sent.body["messages"][0]["content"] == "I am <NAME_1> of Paris."


def test_nobody_waits_for_names_or_long_texts_of_others() -> None:
    short = ChatRequest.parse({"messages": [{"role": "user", "content": "Jane"}]})
    long = ChatRequest.parse({"messages": [{"role": "user", "content": "Jane" * LONG}]})
    by_form, by_name = Policy(pii="block"), Policy(pii="block", pii_types=("name",))
    screener = Screener([by_form, by_name], NAMES)
    assert [screener.takes_long(short, policy) for policy in (by_form, by_name, Policy())] == [
        False,
        True,
        False,
    ]
    assert [screener.takes_long(long, policy) for policy in (by_form, by_name, Policy())] == [
        True,
        True,
        False,
    ]


@pytest.mark.skipif(find_spec("presidio_analyzer") is not None, reason="Presidio is installed")
def test_without_presidio_the_settings_are_refused() -> None:
    settings = Settings(
        models=(CloudModelSettings(name="m", kind="openai"),),
        policies={"p": Policy(pii="block", pii_types=("name",))},
    )
    with pytest.raises(SettingsError, match=r"smallfirst\[pii\]"):
        Gateway(settings)


@pytest.mark.skipif(find_spec("presidio_analyzer") is None, reason="Presidio is not installed")
def test_a_model_that_is_not_installed_is_not_fetched() -> None:
    with pytest.raises(SettingsError, match=r"privacy\.spacy_model: 'xx_none' is not installed"):
        presidio("xx_none", "en")


@pytest.mark.skipif(
    find_spec("presidio_analyzer") is None or find_spec(SPACY_MODEL) is None,
    reason=f"Presidio or {SPACY_MODEL} is not installed",
)
def test_presidio_finds_names_and_places() -> None:
    text = "My name is Jane Doe and I live in Paris."
    settings = PrivacySettings()
    found = presidio(settings.spacy_model, settings.language)(text)
    assert [(span.kind, text[span.start : span.end]) for span in found] == [
        ("name", "Jane Doe"),
        ("address", "Paris"),
    ]
