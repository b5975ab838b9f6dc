"""The static embedding, against wordllama's own code."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from smallfirst.router.errors import SmallfirstError
from smallfirst.router.scoring.embedding import TokenEmbedding

TEXTS = [
    "What is the capital of France?",
    "  two  spaces,\n\ttabs and\n\nlines ",
    "naïve café, 東京, Привет, 🙂",
    "def f(x):\n    return {'a': [1, 2.5]}",
    "a" * 300,
    " ",
]


@pytest.fixture(scope="module")
def embedding() -> TokenEmbedding:
    return TokenEmbedding.load()


# In a process of its own: importing wordllama sets up logging for the whole process.
PROGRAM = """
import json, sys, numpy
from wordllama import WordLlama
model = WordLlama.load(disable_download=True, cache_dir=sys.argv[1])
vectors = [model.embed([text], norm=True) for text in json.loads(sys.argv[2])]
numpy.save(sys.argv[1] + "/vectors.npy", numpy.concatenate(vectors))
"""


def test_vectors_equal_those_that_wordllama_computes(embedding: TokenEmbedding, tmp_path: Path) -> None:
    # Its loader looks for the tokenizer in a cache folder, not where its own package carries it.
    spec = find_spec("wordllama")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (tmp_path / "tokenizers").symlink_to(Path(spec.submodule_search_locations[0]) / "tokenizers")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(TEXTS)]
    subprocess.run(command, check=True, capture_output=True)
    assert np.allclose(embedding.embed(TEXTS), np.load(tmp_path / "vectors.npy"), atol=1e-4)


def test_an_empty_text_has_no_tokens_and_a_vector_of_zeros(embedding: TokenEmbedding) -> None:
    assert len(embedding.ids("")) == 0
    assert not embedding.embed([""]).any()


def test_lone_surrogates_do_not_fail(embedding: TokenEmbedding) -> None:
    assert len(embedding.ids("bad \ud83d end")) > 0


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SmallfirstError, match=r"l2_supercat_256\.safetensors is missing"):
        TokenEmbedding.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS,
        "",
        "   three blanks before, two behind  ",
        "a mark ▁ of its own",
        "a special </s> token in <s> the <unk> text",
        "one word of forty characters: " + "abcdefghij" * 4,
        " " * 40 + "far in",
        "the same words, the same words, the same words",
    ],
)
def test_words_that_are_remembered_have_the_tokenizers_ids(embedding: TokenEmbedding, text: str) -> None:
    expected = embedding.tokenizer.encode(text, add_special_tokens=False).ids
    assert embedding.ids(text).tolist() == embedding.ids(text).tolist() == expected
