"""Reading texts into comparable words."""

from __future__ import annotations

import pytest

from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.semantic.words import KEPT_WORDS, MAX_WORDS, Lexicon, WordLists


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon(TokenEmbedding.load(), WordLists.load())


def words(lexicon: Lexicon, text: str) -> list[str]:
    read = lexicon.read(text)
    return [word.text for word in read.words] if read else []


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1,000 and 3.50 and 05 and 007", ["1000", "and", "3.50", "and", "05", "and", "007"]),
        ("twenty-five thousand two hundred fifty", ["25250"]),
        ("2 million and five dozen", ["2000000", "and", "5", "dozen"]),
        ("twenty, five and three of them", ["20", "5", "and", "3", "of", "them"]),
        ("who directed Seven or seven", ["who", "directed", "seven", "or", "seven"]),
        ("10² or 2½ or H₂O or Ⅷ", ["10²", "or", "2½", "or", "h₂o", "or", "ⅷ"]),
        ("a .ts file", ["a", "ts", "file"]),
        ("How do you say yes, please?", ["how", "do", "you", "say", "yes", "please"]),
        ("Hey Jude, hey", ["hey", "jude", "hey"]),
        ("say: thanks", ["say", "thanks"]),
        ("a hundred or one million", ["100", "or", "1000000"]),
        ("$5 is 50% of it", ["dollar", "5", "is", "50", "percent", "of", "it"]),
        ("the 3rd and the second", ["the", "third", "and", "the", "second"]),
        ("It isn't Ann's, can't be", ["it", "is", "not", "ann", "can", "not", "be"]),
        ("Hi, could you tell me: who won? Thanks a lot!", ["who", "won"]),
        ("tell me", ["tell", "me"]),
        ("thanks", ["thanks"]),
        ("f(x) != load_data('a.csv')", ["f", "x", ")", "!=", "load_data", "a.csv"]),
        ("at -5 degrees, not well-known", ["at", "-5", "degrees", "not", "well", "known"]),
        ("다용도실", ["다", "용", "도", "실"]),
    ],
)
def test_numbers_contractions_and_courtesies_have_one_form(
    lexicon: Lexicon, text: str, read: list[str]
) -> None:
    assert [word for word in words(lexicon, text) if word != ")"] == [word for word in read if word != ")"]


def test_inflections_have_one_stem_and_other_words_do_not(lexicon: Lexicon) -> None:
    def stem(word: str) -> str:
        read = lexicon.read(word)
        assert read is not None
        return read.words[0].stem

    assert stem("used") == stem("using") == stem("uses") == stem("use")
    assert stem("specified") == stem("specifies") == stem("specify")
    assert stem("running") == stem("ran") == stem("runs")
    assert stem("import") != stem("export")


def test_what_is_kept_of_words_is_bounded(lexicon: Lexicon) -> None:
    for start in range(0, 2 * KEPT_WORDS, 100):
        lexicon.read(" ".join(f"w{at}z" for at in range(start, start + 100)))
    assert len(lexicon._known) <= KEPT_WORDS + MAX_WORDS


@pytest.mark.parametrize(
    ("text", "gaps", "last", "mark"),
    [
        ("Is  it C#?", ("", "", ""), "#", "?"),
        ("hi, is it (a) or b", ("", "", " (", ") ", ""), "", ""),
        ("What is 5!", ("", "", ""), "!", ""),
        ("Who won? Thanks!", ("", ""), "", "?"),
        ("a:\n  b", ("", ":\n  "), "", ""),
        ("“so” it’s", ('"', '" '), "", ""),
    ],
)
def test_what_stands_between_words_is_kept(
    lexicon: Lexicon, text: str, gaps: tuple[str, ...], last: str, mark: str
) -> None:
    read = lexicon.read(text)
    assert read is not None
    assert (read.gaps, read.last, read.mark) == (gaps, last, mark)
