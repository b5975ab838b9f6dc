"""Constraints on what is generated, by llguidance: which tokens may come next, and which must."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from .native import NativeModel

BoolArray = npt.NDArray[np.bool_]

# Compiled grammars that are kept: an agent sends the same ones over and over.
_KEPT = 128


class GrammarError(ValueError):
    """A grammar that cannot be compiled; the message says why and may quote the schema that it was made of."""


class Grammars:
    """Compiled grammars over one model's vocabulary. Safe to use from several threads.

    Args:
        model: Its vocabulary is read here, which takes about a second for 150,000 tokens.
    """

    def __init__(self, model: NativeModel) -> None:
        self._tokenizer = _tokenizer(model)
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def has_special(self, name: str) -> bool:
        """Whether a token of its own stands for a mark such as `<tool_call>`, which text cannot spell."""
        tokens = self._tokenizer.tokenize_str(name, parse_special=True)
        return len(tokens) == 1 and bool(self._tokenizer.is_special_token(tokens[0]))

    def compile(self, grammar: str) -> Matcher:
        """Return a matcher at the grammar's beginning.

        Args:
            grammar: In llguidance's variant of Lark.

        Raises:
            GrammarError: It is none, or too large.
        """
        from llguidance import LLMatcher

        known = self._compiled.get(grammar)
        if known is None:
            known = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
            if known.is_error():
                raise GrammarError(known.get_error())
            self._compiled[grammar] = known
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return Matcher(known.deep_copy(), self._tokenizer.vocab_size)


class Matcher:
    """One reply's way through a grammar."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        return bool(self._matcher.validate_tokens([token]) == 1)

    def mask(self) -> BoolArray:
        """Return which tokens may come next, shape (vocabulary,)."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self._vocabulary].view(np.bool_)

    def accept(self, token: int) -> None:
        """Go on by a token that was chosen.

        Raises:
            GrammarError: The grammar became too complex to follow.
        """
        if not self._matcher.consume_token(token):
            raise GrammarError(self._matcher.get_error())

    def forced(self) -> list[int]:
        """Return the tokens that must come next whatever the model says; often none."""
        return list(self._matcher.compute_ff_tokens())

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def satisfied(self) -> bool:
        """Whether the reply may end here."""
        return bool(self._matcher.is_accepting())


def _tokenizer(model: NativeModel) -> Any:
    import llama_cpp
    from llguidance import LLTokenizer

    # What stands for a special token begins with this byte, which no text has.
    special = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    own = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
    pieces: list[bytes] = []
    for token in range(model.n_vocab):
        piece = model.piece(token)
        attributes = llama_cpp.llama_vocab_get_attr(model.vocab, token)
        named = attributes & own and piece.startswith(b"<") and piece.endswith(b">")
        pieces.append(b"\xff" + piece if attributes & special or named else piece)
    tokenize = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
    return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
        tokens=pieces,
        vocab_ptr=model.vocab,
        tokenize_fptr=tokenize,
        eos_token=sorted(model.end_tokens),
    )
