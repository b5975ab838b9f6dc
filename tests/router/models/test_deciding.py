"""Words or a call, by the signs of a model's tokens; with the real model's vocabulary."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smallfirst.router.models.local.deciding import CallDecision, Calling, Openings, Verdict, calling_of
from smallfirst.router.models.local.engine import NativeModel, SamplingParams, Token
from smallfirst.router.models.local.engine.sampling import Sampler

AT_ITS_WORD = Calling(intercept=0.0, share=1.0, name=0.0, likeness=0.0, another=(-0.7, -0.7), invents=False)
BY_NAME = Calling(intercept=2.0, share=0.0, name=1.0, likeness=0.0, another=(-13.0, -5.0), invents=False)

OPENING = '<tool_call>\n{"name": "'


@pytest.fixture(scope="module")
def openings(native_model: NativeModel) -> Openings:
    return Openings(native_model)


def first_token(share: float) -> Token:
    return Token(0, watched=math.log(share))


def verdicts(decision: CallDecision, model: NativeModel, text: str, logprob: float = 0.0) -> list[Verdict]:
    """What is thought at each token of a text."""
    tokens = model.tokenize(text, parse_special=False)
    return [decision.feed(Token(token, logprob=logprob)) for token in tokens]


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(1e-9, "words"), (0.019, "words"), (0.021, "undecided"), (0.5, "undecided"), (1.0, "undecided")],
)
def test_where_hardly_anything_opens_a_call_words_are_meant(
    native_model: NativeModel, share: float, verdict: Verdict
) -> None:
    assert CallDecision(native_model, AT_ITS_WORD, {}).first(first_token(share)) == verdict


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.03, "words"), (0.49, "words"), (0.51, "call"), (1.0, "call")]
)
@pytest.mark.parametrize("name", ["f", "get_weather", "Größe_🎉", "a.b-c d"])
def test_it_is_decided_at_the_end_of_the_functions_name(
    native_model: NativeModel, name: str, share: float, verdict: Verdict
) -> None:
    decision = CallDecision(native_model, AT_ITS_WORD, {})
    decision.first(first_token(share))
    *before, last = verdicts(decision, native_model, OPENING + name + '"')
    assert (set(before), last) == ({"undecided"}, verdict)


@pytest.mark.parametrize(
    ("logprob", "verdict"), [(-0.1, "call"), (-1.9, "call"), (-2.1, "words"), (-30.0, "words")]
)
def test_a_name_that_the_model_finds_unlikely_is_not_meant(
    native_model: NativeModel, logprob: float, verdict: Verdict
) -> None:
    decision = CallDecision(native_model, BY_NAME, {})
    decision.first(first_token(0.9))
    assert verdicts(decision, native_model, OPENING + 'get_weather"', logprob)[-1] == verdict


def test_only_the_names_tokens_count_its_quotes_included(native_model: NativeModel) -> None:
    decision = CallDecision(native_model, BY_NAME, {})
    decision.first(first_token(0.9))
    assert set(verdicts(decision, native_model, '<tool_call>\n{"name":', -50.0)) == {"undecided"}
    parts = [' "', "now", '"']
    verdicts(decision, native_model, parts[0], -1.0)
    verdicts(decision, native_model, parts[1], -0.5)
    assert verdicts(decision, native_model, parts[2], -2.0) == ["call"]
    now = len(native_model.tokenize("now"))
    mean = (-1.0 - 0.5 * now - 2.0) / (now + 2)
    assert decision.probability == pytest.approx(1 / (1 + math.exp(-(2.0 + mean))))


@pytest.mark.parametrize("share", [1e-30, 0.5, 1.0])
def test_however_sure_the_model_is_there_is_a_probability(native_model: NativeModel, share: float) -> None:
    decision = CallDecision(native_model, Calling(0.0, 1.0, 4.47, 0.0, (0.0, 0.0), invents=False), {})
    decision.first(first_token(share))
    verdicts(decision, native_model, OPENING + 'f"', -40.0)
    assert 0.0 <= decision.probability <= 1.0


@pytest.mark.parametrize(
    ("text", "opens"),
    [
        ("{", True),
        ('{"', True),
        (" {", True),
        ("[", True),
        ("```", True),
        ("The", False),
        ("<", False),
        ("`", False),
        ("}", False),
        ("\n", False),
    ],
)
def test_calls_are_opened_by_what_models_write_them_in(
    native_model: NativeModel, openings: Openings, text: str, opens: bool
) -> None:
    [token] = native_model.tokenize(text)
    assert (token in openings.first) is opens


def test_another_call_is_opened_by_the_form_that_calls_have_here(
    native_model: NativeModel, openings: Openings
) -> None:
    assert {native_model.piece(token).strip() for token in openings.further.tolist()} == {b"{", b'{"'}
    assert set(openings.further.tolist()) <= set(openings.first.tolist())


def test_the_share_of_openings_is_that_of_all_of_them(native_model: NativeModel, openings: Openings) -> None:
    logits = np.zeros(native_model.n_vocab, np.float32)
    logits[openings.first] = math.log(native_model.n_vocab)
    sampler = Sampler(SamplingParams(), native_model.n_vocab)
    watched = sampler.describe(logits, 0, watched=openings.first).watched
    opening, others = len(openings.first), native_model.n_vocab - len(openings.first)
    share = opening * native_model.n_vocab / (opening * native_model.n_vocab + others)
    assert watched == pytest.approx(math.log(share), abs=1e-4)


@pytest.mark.parametrize(
    ("metadata", "measured"),
    [
        ({"general.basename": "Qwen2.5-Coder", "general.size_label": "0.5B"}, True),
        ({"general.basename": "qwen2.5-coder", "general.size_label": "0.5b"}, True),
        ({"general.basename": "Qwen2.5-Coder", "general.size_label": "1.5B"}, False),
        ({"general.name": "Qwen2.5-Coder-0.5B"}, False),
        ({}, False),
    ],
)
def test_signs_are_read_as_measured_for_the_model(metadata: dict[str, str], measured: bool) -> None:
    assert (calling_of(metadata) != calling_of({})) is measured


def test_a_model_that_was_not_measured_is_taken_at_its_word(openings: Openings) -> None:
    assert calling_of({}) == openings.calling == AT_ITS_WORD
