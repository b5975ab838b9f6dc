"""Training what the semantic cache decides by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from smallfirst.router.cli.train import train as train_command
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.semantic.equivalence import Equivalence, Reader, compare
from smallfirst.router.semantic.words import Lexicon, WordLists
from smallfirst.router.training.equivalence import train, write
from smallfirst.router.training.equivalence_rows import PAIR_FILES
from smallfirst.router.training.equivalence_variants import Variants, pools_of
from smallfirst.router.training.equivalence_written import Rewritten
from smallfirst.router.training.files import DataError, data_folder

TEXTS = [
    "Who was the first king of France in 1200?",
    "How many meters is the highest tower of Paris?",
    "Is the red car faster than the blue bicycle on Monday?",
    "What did the old man buy for his daughter in London?",
    "Use `load_data` to read all rows before the first column is removed.",
]


@pytest.fixture(scope="module")
def embedding() -> TokenEmbedding:
    return TokenEmbedding.load()


@pytest.fixture(scope="module")
def data() -> Path:
    folder = data_folder()
    if not all((folder / name).is_file() for name in PAIR_FILES):
        pytest.skip(f"the pair files are not in {folder}; set SMALLFIRST_DATA")
    return folder


def variants(embedding: TokenEmbedding) -> Variants:
    lexicon = Lexicon(embedding, WordLists.load())
    return Variants(pools_of(TEXTS, lexicon), lexicon.lists, 0)


def test_a_changed_text_differs_and_the_same_seed_changes_it_likewise(embedding: TokenEmbedding) -> None:
    first, second = variants(embedding), variants(embedding)
    for text in TEXTS:
        made = first.changed(text, 4)
        assert made == second.changed(text, 4)
        assert len(made) == 4
        assert all(other.lower() != text.lower() for other, _ in made)


def test_a_text_that_is_written_otherwise_is_never_read_as_the_same(embedding: TokenEmbedding) -> None:
    reader, one, same = Reader(Lexicon(embedding, WordLists.load())), Rewritten(0), Rewritten(0)
    for text in TEXTS * 20:
        made = one.changed(text)
        assert made == same.changed(text)
        assert made is not None
        a, b = reader.read(text), reader.read(made[0])
        assert a is not None
        assert b is not None
        compared = compare(a, b)
        assert compared.refused or compared.columns[:20].any(), made


def test_a_disfluent_text_still_says_what_was_meant_at_its_end(embedding: TokenEmbedding) -> None:
    made = variants(embedding)
    for text in TEXTS:
        told = made.disfluent(text)
        assert told is not None
        assert told.split()[-1] == text.split()[-1]
        assert len(told.split()) > len(text.split())


def test_training_on_a_slice_is_reproducible_and_can_be_used(
    data: Path, embedding: TokenEmbedding, tmp_path: Path
) -> None:
    first = train(data, embedding=embedding, most=150, trees=20)
    second = train(data, embedding=embedding, most=150, trees=20)
    assert (first.probability == second.probability).all()
    assert (first.judge.leaves == second.judge.leaves).all()
    write(first, tmp_path / "e.npz")
    loaded = Equivalence.load(embedding, tmp_path / "e.npz")
    a, b = loaded.read("Who wrote Hamlet?"), loaded.read("who wrote hamlet")
    assert a is not None
    assert b is not None
    assert loaded.probability(a, b) > 0.5
    assert json.loads((tmp_path / "e.json").read_text())["pairs"] == first.card["pairs"]


def test_calibration_pairs_are_those_of_the_files_and_near_misses_of_paraphrases(
    data: Path, embedding: TokenEmbedding
) -> None:
    trained = train(data, embedding=embedding, most=150, trees=5)
    calibration = trained.card["calibration"]
    assert calibration["same"] == int(np.sum(trained.judge.calibration_same))
    real = sum(pair.real and pair.learned for pair in trained.pairs)
    assert calibration["n"] == real + calibration["constructed_near_misses"]
    positives = [pair for pair in trained.pairs if pair.same and pair.real and pair.learned]
    assert calibration["same"] == len(positives)


def test_pairs_of_one_text_are_never_in_two_folds(data: Path, embedding: TokenEmbedding) -> None:
    from smallfirst.router.training.equivalence import folds_by_text

    pairs = train(data, embedding=embedding, most=100, trees=2).pairs
    fold = folds_by_text(pairs)
    where: dict[str, int] = {}
    for pair, number in zip(pairs, fold.tolist(), strict=True):
        for text in (pair.a, pair.b):
            assert where.setdefault(text, number) == number


def test_without_the_data_it_says_which_file_is_missing(tmp_path: Path) -> None:
    arguments = ["cache", "--data", str(tmp_path), "--out", str(tmp_path / "e.npz")]
    result = CliRunner().invoke(train_command, arguments)
    assert isinstance(result.exception, DataError)
    assert PAIR_FILES[0] in str(result.exception)
    assert not list(tmp_path.iterdir())
