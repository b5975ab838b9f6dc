"""The scorer with the artefact that ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallfirst.policies.types import Score
from smallfirst.router.errors import SmallfirstError
from smallfirst.router.scoring import Scorer
from smallfirst.router.scoring.classifier import Classifier
from smallfirst.router.scoring.scorer import packaged_artefact
from smallfirst.router.wire import ChatRequest

MODELS = {"local": "smollm2-135m", "cloud": "strong"}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load()


def score(scorer: Scorer, text: str, **body: object) -> Score:
    request = ChatRequest.parse({"messages": [{"role": "user", "content": text}], **body})
    return scorer.score(scorer.features(request), MODELS)


def test_a_simple_question_is_likely_right_on_the_local_model(scorer: Scorer) -> None:
    simple = score(scorer, "What is the capital of France?")
    assert simple.known
    assert simple.success["local"] >= 0.7


@pytest.mark.parametrize(
    "hard",
    [
        "Tom buys 3 boxes of 24 pens for 18 dollars each. He sells half of the pens for 1.50 dollars each and the rest "
        "in packs of 6 for 7 dollars a pack. How much profit does he make in all?",
        "Write a 300 word essay about bees. Use exactly four paragraphs, no commas, include the word 'hive' at least "
        "five times, and end with a question.",
        "Implement a thread-safe LRU cache in Python with a time to live per entry, and unit tests for it.",
        "Prove that there are infinitely many primes congruent to 3 modulo 4.",
    ],
    ids=["word problem", "many constraints", "code", "proof"],
)
def test_a_hard_request_is_unlikely_right_on_the_local_model(scorer: Scorer, hard: str) -> None:
    assert score(scorer, hard).success["local"] < 0.5


def test_the_local_model_is_not_believed_to_be_a_stronger_one(scorer: Scorer) -> None:
    text = "A train leaves at 9:40 and arrives at 13:05 after two stops of 12 minutes. How long did it move?"
    request = ChatRequest.parse({"messages": [{"role": "user", "content": text}]})
    by_head = scorer.score(scorer.features(request), {"local": "smollm2-135m", "mixtral": "weak"}).success
    assert by_head["local"] < by_head["mixtral"]


def test_difficulty_grows_from_a_greeting_to_a_proof(scorer: Scorer) -> None:
    easy = score(scorer, "What is the opposite of hot?").difficulty
    hard = score(
        scorer, "Derive the spectrum of the quantum harmonic oscillator from its Lagrangian."
    ).difficulty
    assert easy < hard


@pytest.mark.parametrize(
    "content",
    [
        "",
        "请用中文解释一下量子纠缠的基本概念",
        [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
    ],
    ids=["empty", "other script", "picture alone"],
)
def test_without_a_known_signal_it_abstains(scorer: Scorer, content: object) -> None:
    request = ChatRequest.parse({"messages": [{"role": "user", "content": content}]})
    assert not scorer.score(scorer.features(request), MODELS).known


def test_an_agents_step_after_a_tool_result_is_not_taken_for_known(scorer: Scorer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "a.txt"},
    ]
    scored = scorer.score(scorer.features(ChatRequest.parse({"messages": messages})), MODELS)
    assert (scored.task, scored.known) == ("agent", False)


def test_a_request_with_tools_is_a_function_call(scorer: Scorer) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}  # fmt: skip
    assert score(scorer, "What is the weather in Paris?", tools=[tool]).task == "function_call"


@pytest.mark.parametrize(
    ("name", "tier", "head"),
    [
        ("smollm2-135m", "local", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct.Q4_1.gguf", "local", "smollm2-135m"),
        ("qwen2.5-coder-0.5b", "local", "qwen2.5-coder-0.5b"),
        ("llama-3.3-70b", "local", "smollm2-135m"),
        ("gpt-4.1", "cloud", "strong"),
        ("mistralai/mixtral-8x7b", "cloud", "weak"),
    ],
)
def test_a_model_is_believed_to_be_what_was_measured(scorer: Scorer, name: str, tier: str, head: str) -> None:
    assert scorer.ability_for(name, "local" if tier == "local" else "cloud") == head


def test_the_card_says_what_it_was_trained_on(scorer: Scorer) -> None:
    assert {"files", "licences", "trained", "features", "heads", "out_of_fold"} <= scorer.card.keys()
    assert scorer.card["local_heads"][0] == "smollm2-135m"


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.text(max_size=300), min_size=1, max_size=6))
def test_any_text_gets_probabilities_and_the_same_ones_again(scorer: Scorer, texts: list[str]) -> None:
    roles = ("user", "assistant", "system")
    messages = [{"role": roles[at % 3], "content": text} for at, text in enumerate(texts)]
    request = ChatRequest.parse({"messages": messages})
    first, again = (scorer.score(scorer.features(request), MODELS) for _ in range(2))
    assert first == again
    assert all(0 <= p <= 1 for p in (*first.success.values(), first.difficulty))


def test_an_artefact_for_other_features_is_refused(tmp_path: Path) -> None:
    with np.load(packaged_artefact(), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["features_hash"] = np.array(["another"])
    np.savez(tmp_path / "router.npz", allow_pickle=False, **arrays)
    with pytest.raises(SmallfirstError, match="another version's features"):
        Classifier.load(tmp_path / "router.npz")


def test_a_broken_artefact_is_named(tmp_path: Path) -> None:
    path = tmp_path / "router.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(SmallfirstError, match=r"router\.npz: not a readable classifier"):
        Classifier.load(path)


def test_an_artefact_without_its_card_is_named(tmp_path: Path) -> None:
    (tmp_path / "router.npz").write_bytes(packaged_artefact().read_bytes())
    with pytest.raises(SmallfirstError, match=r"card\.json"):
        Scorer.load(tmp_path / "router.npz")
    (tmp_path / "card.json").write_text(json.dumps({"local_heads": []}))
    assert Scorer.load(tmp_path / "router.npz").local_heads == ()


def test_saving_and_loading_keeps_the_probabilities(scorer: Scorer, tmp_path: Path) -> None:
    scorer.classifier.save(tmp_path / "router.npz")
    features = scorer.features(
        ChatRequest.parse({"messages": [{"role": "user", "content": "Name a colour."}]})
    )
    assert Classifier.load(tmp_path / "router.npz").predict(features) == scorer.classifier.predict(features)
