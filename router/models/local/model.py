"""The local model: OpenAI's chat completions over a process of its own that runs llama.cpp."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ...confidence import Confidence
from ...errors import ModelFileError, ModelUnavailable, RequestError
from ...settings import ADAPTER_MARK, LocalModelSettings
from ...wire import ChatFields, ChatRequest, Reply, ReplyStream, Usage
from ..sources import resolve
from . import several
from .memory import MemoryBudget
from .process import Channel, ModelProcess
from .protocol import Delta, Done, Load, Operation, Stats
from .queue import queue_full
from .sharing import Engines

# What the process reads of a body; of the rest it knows nothing.
_SENT = frozenset(ChatFields.__struct_fields__) - {"model", "metadata", "cache", "stream", "stream_options"}


class LocalModel:
    """A GGUF file that llama.cpp runs in a process of its own, many requests in one batch.

    A request without `temperature` gets 0: a small model's likeliest answer is its best one.

    Args:
        settings: Which file, and how it is run.
        models_dir: Where fetched files are kept.
        budget: Shared with other local models: who was not used for longest is unloaded where memory is short.
        engines: Where its process comes from; default: one of its own. Somebody else's come with a budget of theirs.
    """

    def __init__(
        self,
        settings: LocalModelSettings,
        *,
        models_dir: Path,
        budget: MemoryBudget | None = None,
        engines: Engines | None = None,
    ) -> None:
        self._settings = settings
        self._engines = engines
        self._models_dir = models_dir
        self._budget = budget or MemoryBudget(None)
        # Guards the process, which several event loops may ask for.
        self._lock = threading.Lock()
        self._process: ModelProcess | None = None
        self._seconds = 1.0  # that a job takes, as a moving average

    @property
    def name(self) -> str:
        """The model's name as configured."""
        return self._settings.name

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        process = self._process
        return process is not None and process.alive

    @property
    def busy(self) -> bool:
        """Whether it answers something right now."""
        process = self._process
        return process is not None and process.outstanding > 0

    @property
    def threads(self) -> int:
        """Threads that compute; 0 while it is not loaded."""
        process = self._process
        return 0 if process is None else process.threads

    @property
    def pid(self) -> int | None:
        """The id of the process that runs it; None while it is not loaded."""
        process = self._process
        return None if process is None else process.pid

    @property
    def outstanding(self) -> int:
        """Jobs that it has and that are not done."""
        process = self._process
        return 0 if process is None else process.outstanding

    @property
    def stats(self) -> Stats | None:
        """What its engine said last, at most about a second ago; None while it is not loaded."""
        process = self._process
        return process.stats if process is not None and process.alive else None

    def share_engines(self, engines: Engines) -> None:
        """Take the process from somewhere else; call it before it is loaded."""
        self._engines = engines

    async def start(self) -> None:
        """Fetch the file if need be, and load it.

        Raises:
            ModelFileError: It cannot be fetched or loaded.
        """
        await asyncio.to_thread(self._ensure)

    async def aclose(self) -> None:
        """Free the model's memory."""
        # In a thread: a load under way, even a long fetch, holds the lock.
        await asyncio.to_thread(self.unload)

    def unload(self) -> None:
        """Free the model's memory; the next request loads it again. Blocks."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()

    async def count_tokens(self, request: ChatRequest) -> int:
        """Return the prompt's true length in tokens."""
        channel = await self._submit("count", _sent(request))
        return int((await channel.result())["tokens"])

    async def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector of length 1 for each text, and how many tokens they have together.

        Raises:
            InvalidRequest: A text is empty or too long; names it as `input[…]`.
            ModelUnavailable: The model cannot be loaded, or is busy.
        """
        channel = await self._submit("embed", {"input": list(texts)})
        result = await channel.result()
        return result["vectors"], result["tokens"]

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer in one piece; see `Model`."""
        if (request.fields.n or 1) > 1:
            return await several.complete(self._complete, partial(self._complete, waits=True), request)
        return await self._complete(request)

    async def _complete(self, request: ChatRequest, *, waits: bool = False) -> Reply:
        begun = time.perf_counter()
        channel = await self._submit("chat", _sent(request), request=request, waits=waits)
        result = await channel.result()
        self._took(time.perf_counter() - begun)
        usage = Usage(**result["usage"])
        choice = {
            "index": 0,
            "message": result["message"],
            "logprobs": result["logprobs"],
            "finish_reason": result["finish_reason"],
            **_stop_reason(result),
        }
        body = self._base("chat.completion", request) | {"choices": [choice], "usage": usage.to_wire()}
        if "probabilities" in result:
            body["classification"] = {"method": "model", "probabilities": result["probabilities"]}
        return Reply(body, usage, confidence=_confidence(result["confidence"]), cut=result.get("cut", False))

    async def stream(self, request: ChatRequest) -> ReplyStream:
        """Start an answer; see `Model`."""
        if (request.fields.n or 1) > 1:
            return await several.stream(self._complete, partial(self._stream, waits=True), request)
        return await self._stream(request)

    async def _stream(self, request: ChatRequest, *, waits: bool = False) -> ReplyStream:
        channel = await self._submit("chat", _sent(request), request=request, stream=True, waits=waits)
        await channel.taken()
        return LocalStream(channel, self._base("chat.completion.chunk", request))

    # --- the process ------------------------------------------------------------------------------------------

    async def _submit(
        self,
        operation: Operation,
        body: dict[str, Any],
        *,
        request: ChatRequest | None = None,
        stream: bool = False,
        waits: bool = False,
    ) -> Channel:
        """Start a job.

        Args:
            operation: What it is.
            body: What it is about.
            request: The caller's.
            stream: Whether its result is wanted in pieces.
            waits: However many wait before it: it is part of a request that was taken already.
        """
        process = self._process
        if process is None or not process.alive:
            try:
                await self.start()
            except ModelFileError as exc:
                raise ModelUnavailable(f"Model '{self.name}' is not available: {exc}") from exc
            process = self._process
        if process is None:
            raise ModelUnavailable(f"Model '{self.name}' was shut down.")
        self._budget.used(self)
        full = queue_full(
            self.name,
            process.outstanding,
            parallel=self._settings.parallel,
            max_queue=self._settings.max_queue,
            seconds=self._seconds,
        )
        if full is not None and not waits:
            raise full
        return process.submit(
            operation,
            body,
            stream=stream,
            group=request.tenant if request is not None else "",
            adapter=self._adapter(request),
            meter=request.meter if request is not None else None,
            waits=waits,
        )

    def _adapter(self, request: ChatRequest | None) -> str | None:
        if request is None:
            return None
        model, _, adapter = request.fields.model.partition(ADAPTER_MARK)
        return adapter if model == self.name and adapter in self._settings.adapters else None

    def _took(self, seconds: float) -> None:
        self._seconds += 0.1 * (seconds - self._seconds)

    def _ensure(self) -> None:
        """Load the model if it is not; blocks. A failed load is tried again the next time."""
        with self._budget.loading, self._lock:
            if self.loaded:
                return
            if self._process is not None:  # it crashed
                self._process.close()
                self._process = None
            load = self._load()
            size = Path(load.path).stat().st_size + load.cells * _BYTES_A_CELL
            if self._engines is not None:
                self._process = self._engines.open(load, size)
                return
            self._budget.make_room(self, size)
            self._process = ModelProcess(load, name=self.name)

    def _load(self) -> Load:
        settings = self._settings
        adapters = {
            name: str(resolve(adapter.source, sha256=adapter.sha256, models_dir=self._models_dir))
            for name, adapter in settings.adapters.items()
        }
        return Load(
            path=str(resolve(settings.source, sha256=settings.sha256, models_dir=self._models_dir)),
            context_tokens=settings.context_tokens,
            cells=max(settings.cache_tokens or 0, settings.context_tokens),
            parallel=settings.parallel,
            threads=settings.threads,
            gpu_layers=settings.gpu_layers,
            max_output_tokens=settings.max_output_tokens,
            system_prompt=settings.system_prompt,
            adapters=adapters,
            name=self.name,
            max_queue=settings.max_queue,
        )

    def _base(self, kind: str, request: ChatRequest) -> dict[str, Any]:
        adapter = self._adapter(request)
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.name if adapter is None else f"{self.name}{ADAPTER_MARK}{adapter}",
            "system_fingerprint": None,
        }


# What a token takes in memory: 12 to 32 KiB in models of 0.1 to 1.2 billion parameters (layers x KV heads x head size
# x 4 bytes); the upper end, so that a budget holds.
_BYTES_A_CELL = 32 * 1024


class LocalStream(ReplyStream):
    """A local answer as chunks. Not a generator: closing it unread must free the engine too.

    Args:
        channel: The job.
        base: What every chunk has.
    """

    tells_confidence = True

    def __init__(self, channel: Channel, base: dict[str, Any]) -> None:
        super().__init__(self)
        self._channel = channel
        self._base = base
        self._waiting: list[dict[str, Any]] = [_chunk({"delta": {"role": "assistant", "content": ""}})]
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._closed and not self._waiting:
            try:
                message = await anext(self._channel)
            except RequestError:
                if self._closed:
                    break
                raise
            self._take(message)
        if self._closed:
            raise StopAsyncIteration
        return msgspec.json.encode(self._base | self._waiting.pop(0))

    async def aclose(self) -> None:
        """Free the engine at the next step."""
        self._closed = True
        self._channel.cancel()

    def _take(self, message: Delta | Done) -> None:
        if isinstance(message, Delta):
            self.confidence = _confidence(message.confidence)
            self._waiting.append(_chunk(message.choice))
            return
        self.confidence = _confidence(message.result["confidence"])
        self.cut = message.result.get("cut", False)
        self._waiting.append(
            _chunk({"delta": {}, **_stop_reason(message.result)}, message.result["finish_reason"])
        )
        usage = Usage(**message.result["usage"]).to_wire()
        self._waiting.append({"choices": [], "usage": usage})


def _sent(request: ChatRequest) -> dict[str, Any]:
    return {key: value for key, value in request.body.items() if key in _SENT}


def _confidence(found: dict[str, Any] | None) -> Confidence | None:
    return None if found is None else Confidence(**found)


def _stop_reason(result: dict[str, Any]) -> dict[str, Any]:
    """Return which stop string was found, as vLLM tells it: chat completions have no field for that."""
    found = result.get("stop_reason")
    return {} if found is None else {"stop_reason": found}


def _chunk(choice: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "logprobs": None, "finish_reason": finish_reason} | choice]}
