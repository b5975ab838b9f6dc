"""llama.cpp behind one thread: jobs in, tokens out. The seam that a faster engine can replace."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import ModelError, ModelFileError, ModelUnavailable

# llama.cpp's own sampling defaults beside temperature and top_p; OpenAI's API has no names for them.
_TOP_K, _MIN_P = 40, 0.05


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How the model is loaded."""

    context_tokens: int
    threads: int | None = None
    gpu_layers: int = 0
    max_queue: int = 64


@dataclass(frozen=True, slots=True)
class Job:
    """One generation.

    Attributes:
        prompt: Token ids; with `max_tokens` within the context.
        temperature: 0 takes the likeliest token each time.
        grammar: GBNF that the text must follow, or None.
        special: Whether tokens that are no text (such as `<tool_call>`) show as their names.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    grammar: str | None = None
    special: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token added: text (empty in the middle of a character), or the end.

    Attributes:
        finish: `stop` where the model ended, `length` at `max_tokens`; None while it goes on.
        cached_tokens: Prompt tokens that were still in memory; on the last piece.
    """

    text: str
    tokens: int = 1
    finish: Literal["stop", "length"] | None = None
    cached_tokens: int = 0


class Run:
    """A job in the engine: an async iterator over pieces. Cancel it if you stop reading."""

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        self.job = job
        self.cancelled = threading.Event()
        self._loop = loop
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._ended = False

    def put(self, item: Piece | Exception) -> None:
        """Hand over what the engine made; called in its thread."""
        # The loop may be gone: then nobody listens any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, item)

    def __aiter__(self) -> Run:
        return self

    async def __anext__(self) -> Piece:
        if self._ended:
            raise StopAsyncIteration
        item = await self._pieces.get()
        if isinstance(item, Exception):
            self._ended = True
            raise item
        self._ended = item.finish is not None
        return item

    def cancel(self) -> None:
        """Free the engine at the next token; safe to call at any time. Who still reads comes to an end."""
        self.cancelled.set()
        self.put(Piece("", 0, "stop"))


class Engine:
    """One model in memory, and the one thread that may touch it.

    Args:
        path: The GGUF file.
    """

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self._path = path
        self._options = options
        self._jobs: queue.Queue[Run | None] = queue.Queue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._closed = False
        self._llama: Any = None
        self.loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="smallfirst-engine", daemon=True)

    def start(self) -> None:
        """Begin to load; `loaded` is done when the model can be used, or has the `ModelFileError`."""
        self._thread.start()

    def submit(self, job: Job) -> Run:
        """Put a job into the queue.

        Raises:
            ModelUnavailable: The queue is full, or the engine is closed.
        """
        run = Run(job, asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                raise ModelUnavailable("The local model was shut down.")
            if self._waiting >= self._options.max_queue:
                raise ModelUnavailable(
                    f"The local model is busy: {self._waiting} requests wait ('max_queue').",
                    retry_after=1.0,
                    code="queue_full",
                )
            self._waiting += 1
        self._jobs.put(run)
        return run

    def close(self) -> None:
        """Stop after the next token, free the model, and fail what waits. Blocks until that is done."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    # --- text and tokens; safe from any thread ----------------------------------------------------------------

    def tokenize(self, text: str, *, bos: str) -> tuple[int, ...]:
        """Return a prompt's token ids; a first token that the text already has is not doubled."""
        encoded = text.encode(errors="replace")
        add_bos = not (bos and text.startswith(bos))
        return tuple(self._llama.tokenize(encoded, add_bos=add_bos, special=True))

    def accepts(self, grammar: str) -> bool:
        """Whether llama.cpp can read a grammar. To generate with one that it cannot read ends the process."""
        import llama_cpp

        sampler = llama_cpp.llama_sampler_init_grammar(self._llama._model.vocab, grammar.encode(), b"root")
        if not sampler:
            return False
        llama_cpp.llama_sampler_free(sampler)
        return True

    def special_text(self, which: Literal["bos", "eos"]) -> str:
        """Return the text of the first or last token; empty where the model has none."""
        token = self._llama.token_bos() if which == "bos" else self._llama.token_eos()
        return str(self._llama._model.token_get_text(token)) if token >= 0 else ""

    @property
    def metadata(self) -> dict[str, str]:
        """The GGUF's."""
        return dict(self._llama.metadata)

    # --- the engine's thread ----------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._llama = _load(self._path, self._options)
        except Exception as exc:  # whatever it is, who waits for the model must hear of it
            self.loaded.set_exception(exc)
            return
        self.loaded.set_result(None)
        while (run := self._jobs.get()) is not None:
            with self._lock:
                self._waiting -= 1
                closed = self._closed
            if closed:
                run.put(ModelUnavailable("The local model was shut down."))
            elif not run.cancelled.is_set():
                self._run(run)
        self._fail_waiting()
        self._llama.close()

    def _fail_waiting(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                run = self._jobs.get_nowait()
                if run is not None:
                    run.put(ModelUnavailable("The local model was shut down."))

    def _run(self, run: Run) -> None:
        try:
            for piece in self._generate(run):
                run.put(piece)
        except ModelError as exc:
            run.put(exc)
        except Exception as exc:  # a job's failure is that job's alone; the engine goes on
            failure = ModelError(f"The local model failed ({type(exc).__name__}).", code="local_model_failed")
            failure.__cause__ = exc
            run.put(failure)

    def _generate(self, run: Run) -> Iterator[Piece]:
        import llama_cpp

        job, llama = run.job, self._llama
        if job.seed is not None:
            # A prompt that is partly in memory is computed in other batches, which moves its last digits: the same seed
            # would then give another answer. Who asks for a seed wants the same one.
            llama.reset()
        cached = self._cached(job.prompt) if llama.n_tokens else 0
        llama.set_seed(llama_cpp.LLAMA_DEFAULT_SEED if job.seed is None else job.seed & 0xFFFFFFFF)
        grammar = llama_cpp.LlamaGrammar.from_string(job.grammar, verbose=False) if job.grammar else None
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        tokens = llama.generate(
            list(job.prompt),
            top_k=_TOP_K,
            top_p=job.top_p,
            min_p=_MIN_P,
            temp=job.temperature,
            repeat_penalty=1.0,
            frequency_penalty=job.frequency_penalty,
            presence_penalty=job.presence_penalty,
            grammar=grammar,
        )
        before = list(job.prompt[-1:])
        for made, token in enumerate(tokens, start=1):
            if self._closed:
                raise ModelUnavailable("The local model was shut down.")
            if run.cancelled.is_set():
                yield Piece("", 0, "stop", cached)
                return
            if llama_cpp.llama_vocab_is_eog(llama._model.vocab, token):
                yield Piece(decoder.decode(b"", final=True), 0, "stop", cached)
                return
            text = decoder.decode(llama.detokenize([token], prev_tokens=before, special=job.special))
            before = [token]
            if made >= job.max_tokens:
                yield Piece(text + decoder.decode(b"", final=True), 1, "length", cached)
                return
            yield Piece(text)

    def _cached(self, prompt: tuple[int, ...]) -> int:
        """How many tokens of a prompt are still in memory from the job before."""
        same = 0
        for known, token in zip(self._llama._input_ids.tolist(), prompt, strict=False):
            if known != token:
                break
            same += 1
        return min(same, len(prompt) - 1)


def _load(path: Path, options: EngineOptions) -> Any:
    # Read by OpenMP when llama.cpp is loaded. By default its threads spin at every barrier; where another process wants
    # the same cores, a reply of 7 tokens then took 32 s instead of 0.3 s (two threads, two busy cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import llama_cpp
    except ModuleNotFoundError as exc:
        raise ModelFileError("local models need llama.cpp: pip install 'smallfirst[local]'") from exc
    threads = options.threads or physical_cores()
    try:
        return llama_cpp.Llama(
            str(path),
            n_ctx=options.context_tokens,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=options.gpu_layers,
            verbose=False,
        )
    except (ValueError, RuntimeError, AssertionError) as exc:
        raise ModelFileError(
            f"{path} cannot be loaded: it is damaged, or of a kind that this llama.cpp does not know. "
            "Delete it and run 'smallfirst models pull', or name another file."
        ) from exc


def physical_cores() -> int:
    """Return the physical cores that this process may use: two threads on one core only get in each other's way."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return allowed
    cores: set[tuple[str, str]] = set()
    package = ""
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "physical id":
            package = value
        elif name == "core id":
            cores.add((package, value))
    return max(1, min(len(cores) or allowed, allowed))
