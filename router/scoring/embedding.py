"""Static token embeddings: the 256-d weights and the tokenizer that the `wordllama` wheel carries.

The package itself is not imported: that would configure logging and load an HTTP client. Only its two data files are
read. A text's vector is the mean of its tokens' vectors, as wordllama computes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import Split

from ..errors import SmallfirstError
from .arithmetic import unit_mean

DIMENSIONS = 256
WEIGHTS = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"

# No token of this vocabulary has a word mark after another character, so that cutting there changes no result; it lets
# the tokenizer work word by word, from its cache, which is a third faster and linear in the length of the text.
_MARK = "▁"
_WORD = f"{_MARK}+[^{_MARK}]*"

# The same in a text as it comes, where the mark is a blank. A text with a longer word, or a mark of its own, is left
# to the tokenizer, so that what is remembered of words is bounded: about 3 MB.
_BLANKS_AND_WORD = re.compile(" +[^ ]*")
_LONGEST_WORD, _REMEMBERED_WORDS = 32, 8192

IdArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TokenEmbedding:
    """A tokenizer and one vector a token. Safe to use from several threads.

    Attributes:
        tokenizer: Cuts text into ids; no special tokens are added.
        vectors: Shape (vocabulary, 256). Kept in single precision: twice the memory of the file's half precision,
            a tenth of the time to average.
    """

    tokenizer: Tokenizer
    vectors: FloatArray
    # Looks the ids of one word up, with the blanks before it; those that came lately are remembered.
    _of_word: Callable[[str], tuple[int, ...]] = field(init=False, repr=False, compare=False)
    # What the tokenizer takes out of a text before it cuts it into words.
    _taken_out: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        model = self.tokenizer.model

        @lru_cache(maxsize=_REMEMBERED_WORDS)
        def of_word(word: str) -> tuple[int, ...]:
            return tuple(token.id for token in model.tokenize(word.replace(" ", _MARK)))

        added = self.tokenizer.get_added_tokens_decoder().values()
        object.__setattr__(self, "_of_word", of_word)
        object.__setattr__(self, "_taken_out", (_MARK, *(token.content for token in added)))

    @classmethod
    def load(cls, folder: Path | None = None) -> TokenEmbedding:
        """Read weights and tokenizer.

        Args:
            folder: Where the two files are; default: the installed wordllama package.

        Raises:
            SmallfirstError: The files are not there.
        """
        root = folder or _package_folder()
        weights, config = root / WEIGHTS, root / TOKENIZER
        for path in (weights, config):
            if not path.is_file():
                raise SmallfirstError(f"{path} is missing; install wordllama==0.4.0.post1 again.")
        tokenizer = Tokenizer.from_file(str(config))
        tokenizer.pre_tokenizer = Split(Regex(_WORD), behavior="isolated")
        return cls(tokenizer, load_file(weights)["embedding.weight"].astype(np.float32))

    def ids(self, text: str) -> IdArray:
        """Return the token ids of a text; empty for an empty one."""
        if not text:
            return np.zeros(0, np.int32)
        # Lone surrogates are legal in JSON strings but not in UTF-8, which the tokenizer works on.
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8")
        words = _BLANKS_AND_WORD.findall(f" {text}")
        if len(max(words, key=len)) <= _LONGEST_WORD and not any(mark in text for mark in self._taken_out):
            # Most words of a text came before; to look them up takes a fifth of the tokenizer's time.
            return np.fromiter(chain.from_iterable(map(self._of_word, words)), np.int32)
        # Not `encode_batch_fast`: a tenth of a decision's time faster, but it starts threads.
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        return np.asarray(encoded.ids, dtype=np.int32)

    def vector(self, ids: IdArray) -> FloatArray:
        """Return the mean of the tokens' vectors, scaled to length 1; zeros for no tokens."""
        return unit_mean(self.vectors, ids)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return one vector of length 1 a text (zeros for an empty one), shape (texts, 256)."""
        rows = [self.vector(self.ids(text)) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, DIMENSIONS), np.float32)


def _package_folder() -> Path:
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise SmallfirstError("wordllama is not installed; its weights are what requests are embedded with.")
    return Path(next(iter(spec.submodule_search_locations)))
