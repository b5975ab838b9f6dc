"""The local model: OpenAI's chat completions over the engine."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from ...errors import InvalidRequest, ModelFileError, ModelUnavailable
from ...settings import LocalModelSettings
from ...wire import ChatRequest, Reply, ReplyStream, Usage
from ..sources import resolve
from .constrain import CallReader, ParsedCall, UnsupportedSchema, constraint_of, unsupported
from .engine import Engine, EngineOptions, Job, Run
from .prompt import PromptRenderer
from .stops import StopFilter


class LocalModel:
    """A GGUF file that llama.cpp runs in this process.

    A request without `temperature` gets 0: a small model's likeliest answer is its best one.

    Args:
        settings: Which file, and how it is run.
        models_dir: Where fetched files are kept.
    """

    def __init__(self, settings: LocalModelSettings, *, models_dir: Path) -> None:
        self._settings = settings
        self._models_dir = models_dir
        # Guards the two below, which several event loops may look at.
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._renderer: PromptRenderer | None = None
        self._bos = ""

    @property
    def name(self) -> str:
        """The model's name as configured."""
        return self._settings.name

    async def start(self) -> None:
        """Fetch the file if need be, and load it.

        Raises:
            ModelFileError: It cannot be fetched or loaded.
        """
        await asyncio.to_thread(self._ensure)

    async def aclose(self) -> None:
        """Free the model's memory."""
        # In a thread: a load under way, even a long fetch, holds the lock.
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    async def count_tokens(self, request: ChatRequest) -> int:
        """Return the prompt's true length in tokens."""
        return len((await self._prompt(request))[1])

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer in one piece; see `Model`."""
        parts: list[dict[str, Any]] = []
        generation = await self._begin(request)
        try:
            async for delta in generation:
                parts.append(delta)
        finally:
            generation.cancel()
        text = "".join(part.get("content", "") for part in parts)
        calls = [call for part in parts for call in part.get("tool_calls", ())]
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        if calls:
            message["tool_calls"] = [{key: call[key] for key in ("id", "type", "function")} for call in calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": generation.finish_reason}
        body = self._base("chat.completion") | {"choices": [choice], "usage": generation.usage.to_wire()}
        return Reply(body, generation.usage)

    async def stream(self, request: ChatRequest) -> ReplyStream:
        """Start an answer; see `Model`."""
        return ReplyStream(_Chunks(await self._begin(request), self._base("chat.completion.chunk")))

    async def _begin(self, request: ChatRequest) -> Generation:
        engine, prompt = await self._prompt(request)
        fields = request.fields
        room = self._settings.context_tokens - len(prompt)
        if room < 1:
            raise InvalidRequest(
                f"The conversation has {len(prompt)} tokens; model '{self.name}' has room for "
                f"{self._settings.context_tokens}, its answer included.",
                param="messages",
                code="context_length_exceeded",
            )
        constraint = constraint_of(fields)
        if constraint.grammar is not None and not engine.accepts(constraint.grammar):
            raise unsupported(constraint.param, UnsupportedSchema("llama.cpp cannot read its grammar"))
        job = Job(
            prompt=prompt,
            max_tokens=min(request.max_output_tokens or self._settings.max_output_tokens, room),
            temperature=fields.temperature or 0.0,
            top_p=1.0 if fields.top_p is None else fields.top_p,
            seed=fields.seed,
            frequency_penalty=fields.frequency_penalty or 0.0,
            presence_penalty=fields.presence_penalty or 0.0,
            grammar=constraint.grammar,
            special=constraint.calls,
        )
        stops = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
        return Generation(engine.submit(job), stops, calls=constraint.calls)

    async def _prompt(self, request: ChatRequest) -> tuple[Engine, tuple[int, ...]]:
        engine = self._engine
        if engine is None:
            try:
                await self.start()
            except ModelFileError as exc:
                raise ModelUnavailable(f"Model '{self.name}' is not available: {exc}") from exc
            engine = self._engine
        if engine is None or self._renderer is None:
            raise ModelUnavailable(f"Model '{self.name}' was shut down.")
        return engine, engine.tokenize(self._renderer.render(request), bos=self._bos)

    def _ensure(self) -> None:
        """Load the model if it is not; blocks. A failed load is tried again the next time."""
        with self._lock:
            if self._engine is not None:
                return
            settings = self._settings
            path = resolve(settings.source, sha256=settings.sha256, models_dir=self._models_dir)
            options = EngineOptions(
                settings.context_tokens, settings.threads, settings.gpu_layers, settings.max_queue
            )
            engine = Engine(path, options)
            engine.start()
            engine.loaded.result()
            try:
                self._bos = engine.special_text("bos")
                self._renderer = PromptRenderer(
                    engine.metadata,
                    bos=self._bos,
                    eos=engine.special_text("eos"),
                    system_prompt=settings.system_prompt,
                )
            except ModelFileError:
                engine.close()
                raise
            self._engine = engine

    def _base(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.name,
            "system_fingerprint": None,
        }


class Generation:
    """One answer as OpenAI's deltas, with usage and finish reason once it has ended."""

    def __init__(self, run: Run, stops: list[str], *, calls: bool) -> None:
        self._run = run
        self._stops = StopFilter(stops)
        self._reader = CallReader() if calls else None
        self._made: list[ParsedCall] = []
        self._repeats = False
        self._output_tokens = 0
        self._cached_tokens = 0
        self.finish_reason = "stop"

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(len(self._run.job.prompt), self._output_tokens, self._cached_tokens)

    def cancel(self) -> None:
        """Free the engine at the next token."""
        self._run.cancel()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        async for piece in self._run:
            self._output_tokens += piece.tokens
            self._cached_tokens = piece.cached_tokens or self._cached_tokens
            text = self._stops.feed(piece.text, final=piece.finish is not None)
            for delta in self._deltas(text, final=piece.finish is not None or self._stops.stopped):
                yield delta
            if self._stops.stopped or self._repeats:
                self._run.cancel()
                break
            if piece.finish == "length":
                self.finish_reason = "length"
        if self._made and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"

    def _deltas(self, text: str, *, final: bool) -> list[dict[str, Any]]:
        if self._reader is None:
            return [{"content": text}] if text else []
        calls: list[dict[str, Any]] = []
        for call in self._reader.feed(text):
            # Small models that may call once more tend to make the same call for ever: the first repeat ends it.
            self._repeats = self._repeats or call in self._made
            if not self._repeats:
                calls.append({"tool_calls": [self._call(call)]})
        if calls or self._reader.calling:
            return calls
        if self._reader.calling is None and not final:
            return []
        # It is text after all; what was held back to find that out comes with it.
        held, self._reader = self._reader.pending, None
        return [{"content": held}] if held else []

    def _call(self, call: ParsedCall) -> dict[str, Any]:
        index = len(self._made)
        self._made.append(call)
        return {
            "index": index,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }


class _Chunks:
    """A generation as chunks. A class and not a generator: closing it unread must free the engine too."""

    def __init__(self, generation: Generation, base: dict[str, Any]) -> None:
        self._generation = generation
        self._base = base
        self._made = self._make()
        self._closed = False

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._made)
        if self._closed:
            raise StopAsyncIteration
        return msgspec.json.encode(self._base | chunk)

    async def aclose(self) -> None:
        self._closed = True
        self._generation.cancel()

    async def _make(self) -> AsyncIterator[dict[str, Any]]:
        yield _chunk({"role": "assistant", "content": ""})
        async for delta in self._generation:
            yield _chunk(delta)
        yield _chunk({}, self._generation.finish_reason)
        yield {"choices": [], "usage": self._generation.usage.to_wire()}


def _chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]}
