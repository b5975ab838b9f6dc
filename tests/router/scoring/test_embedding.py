"""The static embedding, against wordllama's own code."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_vectors_equal_those_that_wordllama_computes(embedding: TokenEmbedding) -> None:
    # In a process of its own: importing wordllama sets up logging for the whole process.
    program = (
        "import sys, json, numpy as np\nfrom wordllama import WordLlama\n"
        "model = WordLlama.load(disable_download=True, cache_dir=sys.argv[1])\n"
        "texts = json.loads(sys.argv[2])\n"
        "np.save(sys.argv[1] + '/own.npy', np.concatenate([model.embed([t], norm=True) for t in texts]))"
    )
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _give_wordllama_its_files(Path(folder))
        command = [sys.executable, "-c", program, folder, json.dumps(TEXTS)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HOME": folder})
        theirs = np.load(f"{folder}/own.npy")
    assert np.allclose(embedding.embed(TEXTS), theirs, atol=1e-4)


def _give_wordllama_its_files(folder: Path) -> None:
    """Its loader looks into its cache folder for the tokenizer that its own package carries elsewhere."""
    from importlib.util import find_spec

    spec = find_spec("wordllama")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    for part in ("weights", "tokenizers"):
        source = Path(spec.submodule_search_locations[0]) / part
        for name in {part, part.rstrip("s"), "tokenizer", "weights"}:
            (folder / name).exists() or (folder / name).symlink_to(source)


def test_an_empty_text_has_no_tokens_and_a_vector_of_zeros(embedding: TokenEmbedding) -> None:
    assert len(embedding.ids("")) == 0
    assert not embedding.embed([""]).any()


def test_lone_surrogates_do_not_fail(embedding: TokenEmbedding) -> None:
    assert len(embedding.ids("bad \ud83d end")) > 0


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SmallfirstError, match=r"l2_supercat_256\.safetensors is missing"):
        TokenEmbedding.load(tmp_path)
