"""llama.cpp's C interface, as much of it as the engine uses. Whoever calls it must do so from one thread at a time."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ....errors import ModelFileError
from .cores import physical_cores

FloatArray = npt.NDArray[np.float32]

# Sequence ids of the one unified context: the most that llama.cpp allows is 256. Each costs a row of logits.
SEQUENCES = 128
# Tokens in one call of `llama_decode`.
BATCH = 512
_LONGEST_PIECE = 1024  # bytes


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """How a model is loaded.

    Attributes:
        cells: Room for tokens in memory, for all sequences together.
        threads: None takes the physical cores.
        gpu_layers: Layers on a GPU; -1 for all.
    """

    cells: int
    threads: int | None = None
    gpu_layers: int = 0


class DecodeFailed(RuntimeError):
    """`llama_decode` refused a batch; its status is the argument."""


class NativeModel:
    """One GGUF with one context in which all sequences share their cells (`kv_unified`).

    Sharing makes the copy of a prefix from one sequence to another mere bookkeeping.

    Raises:
        ModelFileError: llama.cpp is not installed, or cannot load the file.
    """

    def __init__(self, path: Path, options: ContextOptions) -> None:
        try:
            import llama_cpp
        except ModuleNotFoundError as exc:
            raise ModelFileError("local models need llama.cpp: pip install 'smallfirst[local]'") from exc
        self._lib: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        self.path = path
        self.cells = options.cells
        self.threads = options.threads or physical_cores()
        self._model = self._load(options)
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        self._context = self._open(options)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._pieces: dict[int, bytes] = {}
        self._adapters: dict[str, Any] = {}
        self._adapter: str | None = None
        self._embedder: Any = None
        self.batch = Batch(llama_cpp, BATCH)

    def _load(self, options: ContextOptions) -> Any:
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = options.gpu_layers
        model = self._lib.llama_model_load_from_file(os.fsencode(self.path), params)
        if not model:
            raise ModelFileError(
                f"{self.path} cannot be loaded: it is damaged, or of a kind that this llama.cpp does not know. "
                "Delete it and run 'smallfirst models pull', or name another file."
            )
        return model

    def _open(self, options: ContextOptions) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = options.cells
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = SEQUENCES
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified = True
        # Without it a model with a sliding window forgets the prefixes that are kept for reuse.
        params.swa_full = True
        params.no_perf = True
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            self._lib.llama_model_free(self._model)
            raise ModelFileError(
                f"there is not enough memory to run {self.path.name} with room for {options.cells} tokens; "
                "lower 'context_tokens' or 'cache_tokens'"
            )
        return context

    def close(self) -> None:
        """Free everything; the object cannot be used afterwards."""
        if self._embedder is not None:
            self._lib.llama_free(self._embedder)
        for adapter in self._adapters.values():
            self._lib.llama_adapter_lora_free(adapter)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    # --- what the model is ------------------------------------------------------------------------------------

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The GGUF's."""
        lib, found = self._lib, {}
        buffer = ctypes.create_string_buffer(1 << 20)
        for at in range(lib.llama_model_meta_count(self._model)):
            lib.llama_model_meta_key_by_index(self._model, at, buffer, len(buffer))
            key = buffer.value.decode(errors="replace")
            lib.llama_model_meta_val_str_by_index(self._model, at, buffer, len(buffer))
            found[key] = buffer.value.decode(errors="replace")
        return found

    @cached_property
    def reuses_prefixes(self) -> bool:
        """Whether memory can be copied by position: not where the state is recurrent."""
        lib = self._lib
        return not (lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model))

    @cached_property
    def special_names(self) -> tuple[str, ...]:
        """What the tokens are called that are no text, such as the end of a turn."""
        lib = self._lib
        wanted = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
        attributes = lib.llama_vocab_get_attr
        found = (token for token in range(self.n_vocab) if attributes(self.vocab, token) & wanted)
        return tuple(self.piece(token).decode(errors="replace") for token in found)

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a reply."""
        is_end = self._lib.llama_vocab_is_eog
        return frozenset(token for token in range(self.n_vocab) if is_end(self.vocab, token))

    @cached_property
    def bos(self) -> str:
        """Text of the first token; empty where the model has none."""
        return self._special(self._lib.llama_vocab_bos(self.vocab))

    @cached_property
    def eos(self) -> str:
        """Text of the last token; empty where the model has none."""
        return self._special(self._lib.llama_vocab_eos(self.vocab))

    def _special(self, token: int) -> str:
        return self.piece(token).decode(errors="replace") if token >= 0 else ""

    # --- text and tokens --------------------------------------------------------------------------------------

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> tuple[int, ...]:
        """Return a text's token ids.

        Args:
            text: Any text; lone surrogates are replaced.
            add_special: Whether the model's first token is put in front, where it wants one.
            parse_special: Whether the names of special tokens become these tokens.
        """
        encoded = text.encode(errors="replace")
        room = len(encoded) + 8
        tokens = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(
            self.vocab, encoded, len(encoded), tokens, room, add_special, parse_special
        )
        if count < 0:  # more tokens than bytes: then it says how many
            tokens = (ctypes.c_int32 * -count)()
            count = self._lib.llama_tokenize(
                self.vocab, encoded, len(encoded), tokens, -count, add_special, parse_special
            )
        return tuple(tokens[:count])

    def piece(self, token: int) -> bytes:
        """Return a token's bytes; a special token's are its name."""
        known = self._pieces.get(token)
        if known is None:
            # A buffer of its own: this is called from several threads.
            buffer = ctypes.create_string_buffer(_LONGEST_PIECE)
            size = self._lib.llama_token_to_piece(self.vocab, token, buffer, _LONGEST_PIECE, 0, True)
            known = self._pieces[token] = buffer.raw[: max(size, 0)]
        return known

    def is_control(self, token: int) -> bool:
        """Whether a token is no text, such as the end of a turn."""
        return bool(self._lib.llama_vocab_is_control(self.vocab, token))

    # --- the context ------------------------------------------------------------------------------------------

    def decode(self, adapter: str | None = None) -> None:
        """Compute `batch`.

        Args:
            adapter: The LoRA adapter for all of it.

        Raises:
            DecodeFailed: It was not computed, or only a part of it.
        """
        self._use(adapter)
        status = self._lib.llama_decode(self._context, self.batch.struct)
        if status != 0:
            raise DecodeFailed(status)

    def logits(self, rows: int) -> FloatArray:
        """Return what the batch's `rows` marked tokens predict, shape (rows, n_vocab); valid until the next call."""
        pointer = self._lib.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self.n_vocab))

    def copy(self, source: int, target: int, begin: int, end: int) -> None:
        """Let sequence `target` have what `source` holds at positions begin..end; no computing, no new cells."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, begin, end)

    def remove(self, sequence: int, begin: int = 0, end: int = -1) -> None:
        """Forget a sequence's positions begin..end (-1: to its end); cells that no other sequence has are free."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, begin, end)

    def clear(self) -> None:
        """Forget all sequences."""
        self._lib.llama_memory_clear(self._memory, False)

    # --- adapters ---------------------------------------------------------------------------------------------

    def add_adapter(self, name: str, path: Path) -> None:
        """Load a LoRA adapter.

        Raises:
            ModelFileError: It cannot be loaded, or is for another model.
        """
        adapter = self._lib.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not adapter:
            raise ModelFileError(
                f"{path} cannot be loaded as an adapter of {self.path.name}: damaged, or for another model"
            )
        self._adapters[name] = adapter

    def _use(self, name: str | None) -> None:
        if name == self._adapter:
            return
        count = 0 if name is None else 1
        adapters = (self._lib.llama_adapter_lora_p_ctypes * 1)(None if name is None else self._adapters[name])
        scales = (ctypes.c_float * 1)(1.0)
        self._lib.llama_set_adapters_lora(self._context, adapters, count, scales)
        self._adapter = name

    # --- embeddings -------------------------------------------------------------------------------------------

    def embed(self, texts: Sequence[tuple[int, ...]]) -> FloatArray:
        """Return one vector of length 1 for each text's tokens, shape (texts, dimensions).

        The pooling is the model's own; a model without one (a chat model) gets the mean over its tokens.

        Raises:
            DecodeFailed: llama.cpp refused it.
        """
        context = self._embedding_context()
        lib, memory = self._lib, self._lib.llama_get_memory(context)
        size = lib.llama_model_n_embd_out(self._model)
        vectors = np.zeros((len(texts), size), np.float32)
        for at, tokens in enumerate(texts):
            self.batch.clear()
            for position, token in enumerate(tokens):
                self.batch.add(token, position, 0, output=True)
            if memory:
                lib.llama_memory_clear(memory, False)
            run = lib.llama_decode if lib.llama_model_has_decoder(self._model) else lib.llama_encode
            status = run(context, self.batch.struct)
            if status != 0:
                raise DecodeFailed(status)
            pointer = lib.llama_get_embeddings_seq(context, 0)
            vectors[at] = np.ctypeslib.as_array(pointer, shape=(size,))
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, norms, out=vectors, where=norms > 0)
        return vectors

    def _embedding_context(self) -> Any:
        if self._embedder is not None:
            return self._embedder
        lib = self._lib
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = self.threads
        params.embeddings = True
        if not any(key.endswith(".pooling_type") for key in self.metadata):
            params.pooling_type = lib.LLAMA_POOLING_TYPE_MEAN
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise DecodeFailed("no context for embeddings")
        self._embedder = context
        return context


class Batch:
    """A `llama_batch` over numpy memory: filling it costs no access through ctypes a token.

    Args:
        lib: The `llama_cpp` module.
        size: The most tokens in it.
    """

    def __init__(self, lib: Any, size: int) -> None:
        self._token = np.zeros(size, np.int32)
        self._position = np.zeros(size, np.int32)
        self._sequence = np.zeros(size, np.int32)
        self._output = np.zeros(size, np.int8)
        ones = np.ones(size, np.int32)
        step = self._sequence.itemsize
        # One sequence a token: an array of pointers into the array of ids.
        pointers = (self._sequence.ctypes.data + np.arange(size) * step).astype(np.uintp)
        self._keep = (ones, pointers)
        struct = lib.llama_batch()
        int32 = ctypes.POINTER(ctypes.c_int32)
        struct.token = self._token.ctypes.data_as(int32)
        struct.pos = self._position.ctypes.data_as(int32)
        struct.n_seq_id = ones.ctypes.data_as(int32)
        struct.seq_id = pointers.ctypes.data_as(ctypes.POINTER(int32))
        struct.logits = self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self.struct = struct
        self.size = size

    def __len__(self) -> int:
        return int(self.struct.n_tokens)

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self.size - len(self)

    def clear(self) -> None:
        """Empty it."""
        self.struct.n_tokens = 0

    def add(self, token: int, position: int, sequence: int, *, output: bool) -> None:
        """Append one token; with `output`, its prediction is computed too."""
        at = len(self)
        self._token[at] = token
        self._position[at] = position
        self._sequence[at] = sequence
        self._output[at] = output
        self.struct.n_tokens = at + 1

    def extend(self, tokens: Sequence[int], position: int, sequence: int, *, output: bool) -> None:
        """Append tokens of one sequence from `position` on; with `output`, the last one's prediction is computed."""
        begin, end = len(self), len(self) + len(tokens)
        self._token[begin:end] = tokens
        self._position[begin:end] = np.arange(position, position + len(tokens))
        self._sequence[begin:end] = sequence
        self._output[begin:end] = 0
        self._output[end - 1] = output
        self.struct.n_tokens = end
