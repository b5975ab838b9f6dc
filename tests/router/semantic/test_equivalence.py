"""The decision whether two texts have the same answer, by the artefact that ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallfirst.router.errors import SmallfirstError
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.semantic.differences import COLUMNS
from smallfirst.router.semantic.equivalence import (
    Equivalence,
    Judge,
    Question,
    at_most,
    packaged_artefact,
    pair_key,
    safe_threshold,
)

MAX_ERROR = 0.01


@pytest.fixture(scope="module")
def embedding() -> TokenEmbedding:
    return TokenEmbedding.load()


@pytest.fixture(scope="module")
def equivalence(embedding: TokenEmbedding) -> Equivalence:
    return Equivalence.load(embedding)


@pytest.fixture(scope="module")
def least(equivalence: Equivalence) -> float:
    threshold = equivalence.threshold(MAX_ERROR)
    assert threshold is not None
    return threshold


def read(equivalence: Equivalence, text: str) -> Question:
    question = equivalence.read(text)
    assert question is not None
    return question


def probability(equivalence: Equivalence, a: str, b: str) -> float:
    return equivalence.probability(read(equivalence, a), read(equivalence, b))


SAME = [
    ("What is the capital of France?", "WHAT IS THE CAPITAL OF FRANCE"),
    ("What is the capital of France?", "what's  the capital of france"),
    (
        "What is the capital of France?",
        "Hi! Could you please tell me: what is the capital of France? Thanks!",
    ),
    ("List 1,000 primes", "list 1000 primes"),
    ("List twenty-five primes", "List 25 primes"),
    ("Do not use butter in it", "Don't use butter in it"),
    ("What is the capital of Spain?", "What is the capital of um Spain?"),
    ("What is the capital of Spain?", "What is the capital of France, no wait, Spain?"),
    ("who wrote ulysses", "Who wrote Ulysses"),
    ("When did the Star Wars ride open?", "WHEN DID THE STAR WARS RIDE OPEN?"),
    ("what should i do in rome?", "What should I do in Rome?"),
    ("What religion did the French spread?", "What trade no I mean religion did the French spread?"),
    ("How many princes lived with Gegeen?", "What did or rather how many princes lived with Gegeen?"),
    ("What did Eaton donate?", "What did Smith donate no sorry Eaton?"),
]
OTHER = [
    # Numbers, units, dates.
    ("List five fruits", "List 6 fruits"),
    ("Write a poem of 300 words", "Write a poem of 301 words"),
    ("3 apples and 4 pears cost how much?", "4 apples and 3 pears cost how much?"),
    ("What is the boiling point of water in Celsius?", "What is the boiling point of water in Fahrenheit?"),
    ("What will the weather be on Monday?", "What will the weather be on Tuesday?"),
    ("What changed in version 2.1.0?", "What changed in version 2.1.1?"),
    # Entities and attributes.
    ("What is the capital of France?", "What is the capital of Germany?"),
    ("Who wrote Hamlet?", "Who wrote Macbeth?"),
    ("How old is the president?", "How tall is the president?"),
    ("What is the capital of Austria?", "What is the capital of Australia?"),
    ("What is a proton?", "What is a photon?"),
    ("What is a cation?", "What is an action?"),
    ("Who was Marin?", "Who was Martin?"),
    ("What does the US export?", "What does us export?"),
    # Negation, quantity, opposites.
    ("Is it safe to mix bleach and vinegar?", "Is it not safe to mix bleach and vinegar?"),
    ("Which countries have no army?", "Which countries have an army?"),
    ("Name all members", "Name some members"),
    ("Write at least 3 sentences", "Write at most 3 sentences"),
    ("How do I enable caching?", "How do I disable caching?"),
    ("Who was the first president?", "Who was the last president?"),
    ("What happened before the war?", "What happened after the war?"),
    ("Show me dogs and cats", "Show me dogs or cats"),
    ("Is the number even?", "Is the number uneven?"),
    # Question words.
    ("When did the war start?", "Why did the war start?"),
    # Code and signs.
    ("What does load_dataset return?", "What does load_metric return?"),
    ("What is 5 - 3?", "What is 5 + 3?"),
    ("What is a * b?", "What is a b?"),
    # How something is written is what is asked.
    ("Correct the spelling: recieve", "Correct the spelling: receive"),
    ("Fix the grammar: he go home", "Fix the grammar: he goes home"),
]
COLLIDING = [
    # The same words in another order: mean-pooled embeddings of both are equal.
    ("flights from Paris to London", "flights from London to Paris"),
    ("flights from Paris to London", "flights to Paris from London"),
    (
        "I am looking for a roundtrip flight from Oslo to Rome for the 23rd of February",
        "I am looking for a roundtrip flight to Oslo from Rome for the 23rd of February",
    ),
    ("Did John hit Mary?", "Did Mary hit John?"),
    ("Convert five miles to kilometres", "Convert five kilometres to miles"),
    ("red dress and blue shoes", "blue dress and red shoes"),
    # What is added pulls the vector near.
    (
        "What is the dose of ibuprofen for adults?",
        "What is the dose of ibuprofen for adults for children dose adults?",
    ),
    ("Who is the king?", "Who is the king of the king of Spain?"),
    # Long shared text with one other word.
    (
        "Summarise this: the cat sat on the mat by the fire and ate a fish in the warm house while the dog slept",
        "Summarise this: the cat sat on the mat by the fire and ate a bird in the warm house while the dog slept",
    ),
]
NOT_TAKEN_BACK = [
    # What stands before the edit is not what is meant.
    ("Who is the king of France?", "Who is the king of France no wait Spain?"),
    ("What drugs are safe in Spain?", "What drugs are safe, I mean legal, in Spain?"),
    # These words take nothing back.
    ("Write a poem with dialogue", "Write a poem with rhymes, no dialogue"),
    ("Find me a hotel with a gym", "Find me a hotel with a pool, no gym"),
    ("Is London bigger?", "Is Paris or London bigger?"),
    ("Where did it happen?", "When or where did it happen?"),
    ("What does the word mean?", "What does the word sorry mean?"),
    ("Are there dogs in the park?", "Are there no dogs in the park?"),
]

WRITTEN_OTHERWISE = [
    # Marks and signs.
    ("What is C#?", "What is C?"),
    ("What is 10-(2-3)?", "What is (10-2)-3?"),
    ("What is 5! equal to?", "What is 5 equal to?"),
    ("What is 5!", "What is 5"),
    ("What is 2**3?", "What is 2-3?"),
    ("What is f(-5) if f(x) = x + 1?", "What is f(5) if f(x) = x + 1?"),
    ("What is –5 Celsius in Fahrenheit?", "What is 5 Celsius in Fahrenheit?"),
    ("What is f'(2) if f(x) = x^3?", "What is f(2) if f(x) = x^3?"),
    ("How many cm are 12'?", 'How many cm are 12"?'),
    ("What is the interval [0, 1)?", "What is the interval (0, 1]?"),
    ("What is the length of [1, [2, 3]] in Python?", "What is the length of [1, 2, 3] in Python?"),
    ('What is the type of "1" in JavaScript?', "What is the type of 1 in JavaScript?"),
    ("What does the regex ab.* match?", "What does the regex ab match?"),
    ("What does i++ do in C?", "What does ++i do in C?"),
    ("What does ls | wc do?", "What does ls; wc do?"),
    ("What does SELECT COUNT(*) return?", "What does SELECT COUNT() return?"),
    ("What does :) mean?", "What does :( mean?"),
    ("What does 👍 mean?", "What does 👎 mean?"),
    ("What does pay\u200bpal do?", "What does paypal do?"),
    ("Is a panda one that eats shoots and leaves?", "Is a panda one that eats, shoots and leaves?"),
    ("You can swim.", "You can swim?"),
    ("What prints?\nif x:\n    a()\n    b()", "What prints?\nif x:\n    a()\nb()"),
    # Numbers as written.
    ("What's new in Python 3.10?", "What's new in Python 3.1?"),
    ("What does error 08 mean?", "What does error 8 mean?"),
    ("What is 10²?", "What is 102?"),
    ("What is the sum of twenty, five and three?", "What is the sum of 25 and 3?"),
    # Endings.
    ("Who directed Alien?", "Who directed Aliens?"),
    ("Who was Ann Lee?", "Who was Anne Lee?"),
    ("Population of St. John's", "Population of St. John"),
    ("What does sort do in Python?", "What does sorted do in Python?"),
    ("Why is he boring?", "Why is he bored?"),
    ("Who is the president of France?", "Who was the president of France?"),
    # Case.
    ("What does git branch -D do?", "What does git branch -d do?"),
    ("Convert 5 Mb to KB", "Convert 5 MB to KB"),
    ("What is Polish food?", "What is polish food?"),
    ("what does getname return", "What does getName return"),
    ("what is the us", "What is the US"),
    # Articles that are names, and numbers that are.
    ("Who are The Who?", "Who are Who?"),
    ("What is hepatitis A?", "What is hepatitis?"),
    ("Who directed Seven?", "Who directed 7?"),
    # What is no courtesy.
    ("How do you say thank you?", "How do you say please?"),
    ("Who sang Thank You", "Who sang Please"),
    ("Hello world in C", "world in C"),
    ("Hey, Jude lyrics", "Jude lyrics"),
    ("Can you swim?", "Swim?"),
    ("Is the tone of this ok: Thanks", "Is the tone of this ok: Cheers"),
    # What is no slip of the tongue.
    ("What is error correction code?", "What is code?"),
    ("What is a wait list?", "What is a list?"),
    ("What does an ER doctor do?", "What does a doctor do?"),
    ("Which spiders are not that dangerous?", "Which spiders are dangerous?"),
    ("Which pills are safe for adults no children?", "Which pills are safe for children?"),
    ("Which foods are high in protein, no carbs?", "Which foods are high in carbs?"),
    ("Extract the filler words from: the cat, um, ran", "Extract the filler words from: the cat ran"),
    ("Who sang oh no a ghost?", "Who sang a ghost?"),
    ('Translate "don\'t"', 'Translate "do not"'),
    ("How do I open a .ts file?", "How do I open a typescript file?"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_question_in_other_clothes_is_accepted(
    equivalence: Equivalence, least: float, a: str, b: str
) -> None:
    assert probability(equivalence, a, b) >= least


@pytest.mark.parametrize(("a", "b"), OTHER)
def test_a_question_with_another_answer_is_refused(
    equivalence: Equivalence, least: float, a: str, b: str
) -> None:
    assert probability(equivalence, a, b) < least


@pytest.mark.parametrize(("a", "b"), COLLIDING)
def test_texts_built_to_collide_in_embedding_space_are_refused(
    equivalence: Equivalence, least: float, a: str, b: str
) -> None:
    assert probability(equivalence, a, b) < least


@pytest.mark.parametrize(("a", "b"), NOT_TAKEN_BACK)
def test_only_what_a_speaker_takes_back_is_left_out(
    equivalence: Equivalence, least: float, a: str, b: str
) -> None:
    assert probability(equivalence, a, b) < least


@pytest.mark.parametrize(("a", "b"), WRITTEN_OTHERWISE)
def test_what_is_written_otherwise_is_refused(equivalence: Equivalence, least: float, a: str, b: str) -> None:
    assert probability(equivalence, a, b) < least


def test_the_vectors_of_reordered_words_are_equal_and_yet_they_are_told_apart(
    equivalence: Equivalence, least: float
) -> None:
    a, b = (read(equivalence, text) for text in COLLIDING[0])
    assert float(a.vector @ b.vector) == pytest.approx(1, abs=1e-5)
    assert equivalence.probability(a, b) < least


def test_courtesies_have_no_part_in_the_vector(equivalence: Equivalence) -> None:
    plain, polite = (
        read(equivalence, text) for text in ("Who wrote Hamlet?", "hi, who wrote Hamlet? thanks")
    )
    assert np.allclose(plain.vector, polite.vector)
    assert float(np.linalg.norm(plain.vector)) == pytest.approx(1, abs=1e-5)


WORDS = (
    "what", "who", "is", "the", "of", "a", "Paris", "London", "king", "price", "7", "1,5", "not", "all", "no",
    "sorry", "um", "I", "mean", "x_y", "+", "water", "12", "first",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS)
def test_a_probability_is_one_and_the_same_both_ways(equivalence: Equivalence, a: str, b: str) -> None:
    there, back = probability(equivalence, a, b), probability(equivalence, b, a)
    assert there == back
    assert 0 <= there <= 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_a_text_has_the_same_answer_as_itself(equivalence: Equivalence, least: float, text: str) -> None:
    assert probability(equivalence, text, text) >= least


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text("ab ?", max_size=20), st.integers(0, 99999), st.integers(0, 99999), st.text("cd ?", max_size=20)
)
def test_another_number_is_never_the_same(
    equivalence: Equivalence, before: str, one: int, two: int, after: str
) -> None:
    a, b = f"{before} {one} {after}", f"{before} {two} {after}"
    assert (probability(equivalence, a, b) == 0) == (one != two)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_can_be_read_and_compared(equivalence: Equivalence, a: str, b: str) -> None:
    one, two = equivalence.read(a), equivalence.read(b)
    if one is not None and two is not None:
        assert 0 <= equivalence.probability(one, two) <= 1
        assert np.isfinite(one.vector).all()


@pytest.mark.parametrize("text", ["", "  ", "?!", "word " * 151, "x" * 2_001, "\ufdfa " * 1_001])
def test_what_cannot_be_compared_is_not_read(equivalence: Equivalence, text: str) -> None:
    assert equivalence.read(text) is None


def test_a_text_of_a_hundred_and_fifty_words_is_read(equivalence: Equivalence, least: float) -> None:
    long = " ".join(f"word{at}" for at in range(150))
    assert probability(equivalence, long, long) >= least
    assert probability(equivalence, long, long.replace("word70", "word700")) < least


def test_a_stricter_bound_asks_for_a_higher_threshold(equivalence: Equivalence, least: float) -> None:
    liberal = equivalence.threshold(0.05)
    assert liberal is not None
    assert liberal <= least <= 1


def test_no_threshold_keeps_a_bound_that_the_calibration_pairs_cannot_show(equivalence: Equivalence) -> None:
    assert equivalence.threshold(1e-6) is None


@pytest.mark.parametrize(("max_error", "confidence"), [(0, 0.95), (1, 0.95), (0.01, 0), (0.01, 1)])
def test_a_bound_outside_of_zero_and_one_is_refused(
    equivalence: Equivalence, max_error: float, confidence: float
) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        equivalence.threshold(max_error, confidence=confidence)


def test_the_shipped_threshold_is_that_of_its_card(equivalence: Equivalence, least: float) -> None:
    figures = equivalence.card["out_of_fold"]["max_error"][str(MAX_ERROR)]
    assert figures["threshold"] == pytest.approx(least, abs=1e-5)
    assert figures["precision"] >= 0.99
    assert figures["recall"] >= 0.40


def test_a_calibration_pair_is_known_by_what_unseen_trees_said_of_it(equivalence: Equivalence) -> None:
    assert equivalence.out_of_fold("nothing", "of the sort") is None
    assert len(equivalence.judge.calibration_key) == equivalence.card["calibration"]["n"]
    assert pair_key("a", "b") != pair_key("b", "a")


def test_wrong_pairs_above_a_threshold_move_it_up() -> None:
    chances = np.linspace(0.5, 1, 1000, dtype=np.float32)
    right = np.ones(1000, np.uint8)
    wrong_below = right.copy()
    wrong_below[:100] = 0
    all_right = safe_threshold(chances, right, 0.02, confidence=0.95)
    some_wrong = safe_threshold(chances, wrong_below, 0.02, confidence=0.95)
    assert all_right is not None
    assert some_wrong is not None
    assert all_right < 0.51
    assert 0.54 < some_wrong < 0.6
    assert safe_threshold(chances, 1 - right, 0.02, confidence=0.95) is None
    assert safe_threshold(chances[:20], right[:20], 0.02, confidence=0.95) is None


def test_a_threshold_stands_in_the_middle_of_the_gap_that_it_lies_in() -> None:
    chances = np.concatenate((np.full(500, 0.6), np.full(500, 0.99))).astype(np.float32)
    same = np.repeat([0, 1], 500).astype(np.uint8)
    threshold = safe_threshold(chances, same, 0.02, confidence=0.95)
    assert threshold is not None
    assert 0.8 < threshold < 0.97


def test_a_changed_word_counts_as_much_in_a_long_shared_text(equivalence: Equivalence, least: float) -> None:
    shared = "the committee met in the old town hall and wrote down what had been said before lunch " * 8
    for a, b in (("Who wrote Hamlet?", "Who wrote Macbeth?"), ("Is it safe?", "Is it not safe?")):
        assert probability(equivalence, a + shared, b + shared) < least
        assert probability(equivalence, shared + a, shared + b) < least


def test_thresholds_keep_their_bound_in_all_but_few_draws() -> None:
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(200):
        chances = rng.uniform(0.5, 1, 800).astype(np.float32)
        # The chance of an error falls from a tenth to none: the true share above t is (1 - t) / 10.
        same = (rng.uniform(size=800) >= (1 - chances) / 5).astype(np.uint8)
        threshold = safe_threshold(chances, same, 0.03, confidence=0.9)
        broken += threshold is not None and (1 - threshold) / 10 > 0.03
    assert broken <= 30


def test_the_chance_of_few_errors_is_that_of_the_binomial_distribution() -> None:
    assert at_most(0, 299, 0.01) == pytest.approx(0.99**299)
    assert at_most(1, 3, 0.5) == pytest.approx(0.5)
    assert at_most(3, 3, 0.5) == 1


def test_an_artefact_of_other_features_is_refused(tmp_path: Path, embedding: TokenEmbedding) -> None:
    judge = Equivalence.load(embedding).judge
    path = tmp_path / "other.npz"
    judge.save(path, trained_for="other columns")
    with pytest.raises(SmallfirstError, match="another version's features"):
        Equivalence.load(embedding, path)


def test_a_broken_or_missing_artefact_says_how_to_train_one(
    tmp_path: Path, embedding: TokenEmbedding
) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(packaged_artefact().read_bytes()[:100])
    with pytest.raises(SmallfirstError, match="smallfirst train cache"):
        Equivalence.load(embedding, path)
    with pytest.raises(SmallfirstError, match="smallfirst train cache"):
        Equivalence.load(embedding, tmp_path / "none.npz")


def test_an_artefact_survives_being_written_and_read(tmp_path: Path, equivalence: Equivalence) -> None:
    path = tmp_path / "copy.npz"
    equivalence.judge.save(path, trained_for="x")
    copy = Judge.load(path, trained_for="x")
    columns = np.random.default_rng(0).normal(size=(50, len(COLUMNS))).astype(np.float32)
    assert (copy.log_odds(columns) == equivalence.judge.log_odds(columns)).all()


def test_a_larger_difference_never_raises_the_probability(equivalence: Equivalence) -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 3, (300, len(COLUMNS))).astype(np.float32)
    before = equivalence.judge.log_odds(base)
    for at, (_, direction) in enumerate(COLUMNS):
        if direction:
            more = base.copy()
            more[:, at] -= direction
            assert (equivalence.judge.log_odds(more) <= before + 1e-5).all()
