"""The scorer with the artefact that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallfirst.policies.types import Score, Tier
from smallfirst.router.errors import SmallfirstError
from smallfirst.router.scoring import Scorer
from smallfirst.router.scoring.abilities import Ability
from smallfirst.router.scoring.classifier import Classifier
from smallfirst.router.scoring.embedding import FloatArray
from smallfirst.router.scoring.scorer import packaged_artefact
from smallfirst.router.wire import ChatRequest


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load()


def models(scorer: Scorer) -> dict[str, Ability]:
    return {"local": scorer.ability_for("smollm2-135m"), "cloud": scorer.abilities["strong"]}


def score(scorer: Scorer, text: str, **body: object) -> Score:
    request = ChatRequest.parse({"messages": [{"role": "user", "content": text}], **body})
    return scorer.score(scorer.features(request), models(scorer))


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
    able = {"local": scorer.ability_for("smollm2-135m"), "mixtral": scorer.abilities["weak"]}
    by_head = scorer.score(scorer.features(request), able).success
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
    assert not scorer.score(scorer.features(request), models(scorer)).known


def test_an_agents_step_after_a_tool_result_is_not_taken_for_known(scorer: Scorer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "a.txt"},
    ]
    scored = scorer.score(scorer.features(ChatRequest.parse({"messages": messages})), models(scorer))
    assert (scored.task, scored.known) == ("agent", False)


def test_a_request_with_tools_is_a_function_call(scorer: Scorer) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}  # fmt: skip
    assert score(scorer, "What is the weather in Paris?", tools=[tool]).task == "function_call"


@pytest.mark.parametrize(
    ("name", "tier", "measured"),
    [
        ("smollm2-135m", "local", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct.Q4_1.gguf", "local", "smollm2-135m"),
        ("qwen2.5-coder-0.5b", "local", "qwen2.5-coder-0.5b"),
        # Published models are known by name, but from other sources: they are taken only where they are asked for.
        ("qwen/qwen2.5-7b-instruct-q4_k_m.gguf", "local", "smollm2-135m"),
        ("gpt-4o-mini", "cloud", "strong"),
        ("mistralai/mixtral-8x7b", "cloud", "weak"),
        # Nobody measured these.
        ("llama-9-1b", "local", "smollm2-135m"),
        ("gpt-4.1", "cloud", "strong"),
        ("llama-3.2-1b-instruct", "cloud", "weak"),
        # Heads are kinds of models: a model that a user gave such a name is not meant.
        ("large", "local", "smollm2-135m"),
        ("weak", "local", "smollm2-135m"),
        ("my/Weak-Instruct.gguf", "cloud", "strong"),
        ("small", "cloud", "strong"),
    ],
)
def test_a_model_is_believed_to_be_what_was_measured(
    scorer: Scorer, name: str, tier: Tier, measured: str
) -> None:
    assert scorer.ability_for(name, tier).model == measured


def test_an_unknown_local_model_counts_as_the_weakest_measured_one(scorer: Scorer) -> None:
    accuracy = {name: scorer.card["out_of_fold"]["heads"][name]["accuracy"] for name in scorer.local_heads}
    assert scorer.ability_for("my-own-model").model == min(accuracy, key=accuracy.__getitem__)


def test_published_models_are_found_by_name_in_whatever_packing(scorer: Scorer) -> None:
    names = ("qwen/qwen2.5-7b-instruct-q4_k_m.gguf", "gpt-4o-mini", "anthropic/claude-3-5-haiku-20241022")
    found = [scorer.ability_named(name) for name in names]
    known = ["Qwen2.5-7B-Instruct", "gpt-4o-mini-2024-07-18", "claude-3-5-haiku-20241022"]
    assert [ability and ability.model for ability in found] == known


def test_a_head_may_be_named_outright(scorer: Scorer) -> None:
    found = scorer.ability_named("large")
    assert found is not None
    assert found.model == "large"
    assert scorer.ability_named("nobody-7b") is None


def test_heads_speak_for_themselves(scorer: Scorer) -> None:
    request = ChatRequest.parse({"messages": [{"role": "user", "content": "Name a colour."}]})
    features = scorer.features(request)
    success = scorer.classifier.predict(features).success
    able = {name: scorer.abilities[name] for name in success}
    assert scorer.score(features, able).success == pytest.approx(success, abs=1e-5)


@pytest.mark.parametrize(
    "names",
    [("Llama-2-7b-hf", "Meta-Llama-3-8B", "Meta-Llama-3-70B"), ("gemma-2-2b-it", "gpt-4o-2024-08-06")],
    ids=["of one source", "of another"],
)
def test_published_models_are_placed_in_the_order_of_their_strength(
    scorer: Scorer, names: tuple[str, ...]
) -> None:
    exam = "Which of these is a primary alcohol? A. propan-2-ol B. butan-1-ol C. propanone D. ethanal. Answer A to D."
    features = scorer.features(ChatRequest.parse({"messages": [{"role": "user", "content": exam}]}))
    found = scorer.score(features, {name: scorer.abilities[name] for name in names}).success
    assert sorted(names, key=found.__getitem__) == list(names)


def test_many_models_were_placed_with_a_hundred_prompts_and_more(scorer: Scorer) -> None:
    placed = [ability for name, ability in scorer.abilities.items() if name in scorer.classifier.models]
    assert len(placed) == scorer.card["models"] >= 80
    assert min(ability.rows for ability in placed) >= 100


def test_a_new_model_starts_from_the_mean_of_those_placed(scorer: Scorer) -> None:
    figures = [
        [scorer.abilities[name].bias, *scorer.abilities[name].weights] for name in scorer.classifier.models
    ]
    assert scorer.prior.mean == pytest.approx(np.mean(figures, axis=0), abs=1e-4)


def test_difficulties_of_many_are_those_of_each(scorer: Scorer) -> None:
    skills = np.stack(
        [predicted(scorer, text) for text in ("What is 2 + 2?", "Prove Fermat's last theorem.")]
    )
    many = scorer.difficulty(skills)
    assert many.tolist() == pytest.approx([float(scorer.difficulty(one)) for one in skills])
    assert many[0] < many[1]


def predicted(scorer: Scorer, text: str) -> FloatArray:
    request = ChatRequest.parse({"messages": [{"role": "user", "content": text}]})
    return scorer.classifier.predict(scorer.features(request)).skills


def test_the_card_says_what_it_was_trained_on(scorer: Scorer) -> None:
    assert {"files", "licences", "trained", "features", "heads", "out_of_fold"} <= scorer.card.keys()
    assert scorer.card["local_heads"][0] == "smollm2-135m"


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.text(max_size=300), min_size=1, max_size=6))
def test_any_text_gets_probabilities_and_the_same_ones_again(scorer: Scorer, texts: list[str]) -> None:
    roles = ("user", "assistant", "system")
    messages = [{"role": roles[at % 3], "content": text} for at, text in enumerate(texts)]
    request = ChatRequest.parse({"messages": messages})
    first, again = (scorer.score(scorer.features(request), models(scorer)) for _ in range(2))
    assert first == again
    assert all(0 <= p <= 1 for p in (*first.success.values(), first.difficulty))


@pytest.mark.parametrize(
    "other",
    [
        {"features_hash": np.array(["another"])},
        {"prior_mean": np.zeros(7, np.float32)},
        {"models": None},
    ],
    ids=["features", "skills", "columns"],
)
def test_an_artefact_for_other_features_is_refused(
    tmp_path: Path, other: dict[str, npt.NDArray[Any] | None]
) -> None:
    with np.load(packaged_artefact(), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files} | other
    arrays = {name: array for name, array in arrays.items() if array is not None}
    np.savez(tmp_path / "router.npz", allow_pickle=False, **arrays)
    with pytest.raises(SmallfirstError, match="another version's features"):
        Classifier.load(tmp_path / "router.npz")


@pytest.mark.parametrize("cut", [0, 100, 10_000, -30])
def test_a_broken_artefact_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "router.npz"
    path.write_bytes(packaged_artefact().read_bytes()[:cut])
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
    again = Classifier.load(tmp_path / "router.npz")
    first, second = again.predict(features), scorer.classifier.predict(features)
    assert first.skills.tolist() == second.skills.tolist()
    assert (first.success, first.tasks, first.similarity) == (second.success, second.tasks, second.similarity)
    assert again.models.tolist() == scorer.classifier.models.tolist()
    assert np.array_equal(again.abilities, scorer.classifier.abilities)
