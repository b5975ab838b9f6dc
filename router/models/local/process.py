"""A model's process as the gateway sees it: started, spoken to, and known to be gone when it is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
from typing import IO, Any, Protocol

from ...errors import InvalidRequest, ModelError, ModelFileError, ModelUnavailable, RequestError
from ...money.usage import Meter
from .protocol import (
    Cancel,
    Closing,
    Delta,
    Done,
    Failed,
    FromWorker,
    Load,
    Operation,
    Outbox,
    Ready,
    Spent,
    Stats,
    Submit,
    Taken,
    ToWorker,
    Unusable,
    decode_from_worker,
    read_frame,
)

log = logging.getLogger("smallfirst")

_WORKER = "smallfirst.router.models.local.worker"
# How llama.cpp's threads (GNU OpenMP's) wait for each other at the hundreds of barriers of a step. By default they spin
# for long: where another process wants the same cores, a reply of 7 tokens then took 32 s instead of 0.3 s. Without
# any spinning a token of SmolLM2-135M takes 20 ms instead of 7. A short spin is as fast as a long one, and harmless.
_THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
# Seconds that a process may take to end once its input is closed.
_PATIENCE = 5.0


class Channel:
    """One job in the process. Iterate over its deltas, the `Done` comes last; `cancel()` it if you stop reading."""

    def __init__(self, process: ModelProcess, job: int, meter: Meter | None = None) -> None:
        self._process = process
        self._job = job
        self._meter = meter
        self._spent = Spent(job, 0.0, 0, 0, 0)
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[Taken | Delta | Done | RequestError] = asyncio.Queue()
        self._first: Delta | Done | None = None
        self._ended = False

    def put(self, message: Taken | Delta | Done | RequestError) -> None:
        """Hand over what came; called in the process's reading thread."""
        # The loop may be gone: then nobody listens any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._messages.put_nowait, message)

    def spent(self, message: Spent) -> None:
        """Pass on to the job's meter what it took since the last time; called in the process's reading thread."""
        last, self._spent = self._spent, message
        if self._meter is not None:
            self._meter.add(
                message.cpu_seconds - last.cpu_seconds,
                prompt=message.input_tokens - last.input_tokens,
                cached=message.cached_tokens - last.cached_tokens,
                output=message.output_tokens - last.output_tokens,
            )

    def cancel(self) -> None:
        """Give the job up; safe to call at any time. Who still reads gets `ModelUnavailable`."""
        if self._process.forget(self._job):
            self.put(ModelUnavailable("The answer was given up."))

    async def taken(self) -> None:
        """Wait until the process has taken the job, which streams. Call it before anything is read.

        Raises:
            RequestError: It has not.
        """
        try:
            first = await self._messages.get()
        except BaseException:
            self.cancel()
            raise
        if isinstance(first, RequestError):
            self._ended = True
            raise first
        if not isinstance(first, Taken):
            self._first = first

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> Delta | Done:
        if self._ended:
            raise StopAsyncIteration
        message, self._first = self._first or await self._messages.get(), None
        while isinstance(message, Taken):
            message = await self._messages.get()
        self._ended = not isinstance(message, Delta)
        if isinstance(message, RequestError):
            raise message
        return message

    async def result(self) -> dict[str, Any]:
        """Wait for the end, and return the result.

        Raises:
            RequestError: The job failed.
        """
        try:
            async for message in self:
                if isinstance(message, Done):
                    return message.result
        finally:
            self.cancel()
        raise AssertionError("a job ends with its result or an error")


class Running(Protocol):
    """A process that a model runs in, and how it is spoken to."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    @property
    def source(self) -> IO[bytes]:
        """What it says."""
        ...

    @property
    def sink(self) -> IO[bytes]:
        """What it hears."""
        ...

    @property
    def farewell(self) -> ToWorker | None:
        """What it is told last, where others share it."""
        ...

    def end(self) -> None:
        """End it, or let go of it where others share it. Blocks until that is done."""
        ...

    def ending(self) -> str:
        """Return how it ended, in words; waits until it has."""
        ...


class _Own:
    """A process of one's own."""

    farewell = None

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # llama.cpp prints there what it likes, parts of requests too.
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.sink: IO[bytes] = self._process.stdin
        self.source: IO[bytes] = self._process.stdout

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.sink.close()
        end(self._process)

    def ending(self) -> str:
        return words(self._process.wait())


def environment() -> dict[str, str]:
    """Return the environment of a model's process."""
    return {**_THREADS, **os.environ}


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process to end that was told so; kill it where it takes too long."""
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def words(code: int) -> str:
    """Return how a process ended: its exit status, or the signal's name."""
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


class ModelProcess:
    """One process with one loaded model.

    Args:
        load: Which model, and how it is run.
        name: The model's, for messages.
        running: A process that has been told what to load; default: one of its own.

    Raises:
        ModelFileError: The model cannot be loaded, or its process ended over it.
    """

    def __init__(self, load: Load, *, name: str, running: Running | None = None) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._channels: dict[int, Channel] = {}
        self._closing = False
        self.stats = Stats()
        self._running: Running = running or _Own()
        self._source = self._running.source
        self._out: Outbox[ToWorker] = Outbox(self._running.sink, broken=lambda: None)
        if running is None:
            self._out.put(load)
        self.alive = False
        try:
            self.threads = self._wait_until_ready()
        except BaseException:
            self.close()
            self._source.close()
            raise
        self.alive = True
        threading.Thread(target=self._read, name=f"smallfirst-{name}", daemon=True).start()

    def _wait_until_ready(self) -> int:
        frame = read_frame(self._source)
        message = decode_from_worker(frame) if frame is not None else None
        if isinstance(message, Unusable):
            raise ModelFileError(message.message)
        if not isinstance(message, Ready):
            raise ModelFileError(
                f"its process ended while it was loaded ({self._running.ending()}): the file is damaged, or there is "
                "too little memory"
            )
        return message.threads

    @property
    def outstanding(self) -> int:
        """Jobs that are not done."""
        return len(self._channels)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._running.pid

    def submit(
        self,
        operation: Operation,
        body: dict[str, Any],
        *,
        stream: bool = False,
        group: str = "",
        adapter: str | None = None,
        meter: Meter | None = None,
        waits: bool = False,
    ) -> Channel:
        """Start a job; a chat tells the meter what it takes. One that `waits` is taken however many wait before it.

        Raises:
            ModelUnavailable: The process is gone.
            InvalidRequest: The body has a number or a text that cannot be passed on.
        """
        job = next(self._ids)
        channel = Channel(self, job, meter)
        with self._lock:
            if not self.alive:
                raise self._gone()
            self._channels[job] = channel
        try:
            self._out.put(Submit(job, operation, body, stream, group, adapter, waits))
        except (ValueError, OverflowError) as exc:
            with self._lock:
                self._channels.pop(job, None)
            raise InvalidRequest(
                "The body has an integer beyond 64 bits or half of a surrogate pair; a local model cannot take it.",
                code="invalid_value",
            ) from exc
        return channel

    def forget(self, job: int) -> bool:
        """Give a job up; returns whether it was under way."""
        with self._lock:
            known = self._channels.pop(job, None)
        if known is not None:
            self._out.put(Cancel(job))
        return known is not None

    def close(self) -> None:
        """End the process, or leave it to others who share it; what is under way fails. Blocks until that is done."""
        self._closing = True
        if self._running.farewell is not None:
            self._out.put(self._running.farewell)
        self._out.close()
        self._running.end()

    # --- the reading thread -----------------------------------------------------------------------------------

    def _read(self) -> None:
        while (frame := read_frame(self._source)) is not None:
            self._pass_on(decode_from_worker(frame))
        if not self._closing:
            self._running.ending()
        with self._lock:
            self.alive = False
            left, self._channels = self._channels, {}
        error = self._gone()
        if not self._closing:
            log.error(
                "model %s: its process ended (%s); %d jobs failed",
                self._name,
                self._running.ending(),
                len(left),
            )
        for channel in left.values():
            channel.put(error)
        self._source.close()

    def _pass_on(self, message: FromWorker) -> None:
        if isinstance(message, (Taken, Delta)):
            channel = self._channels.get(message.id)
        elif isinstance(message, (Done, Failed)):
            with self._lock:
                channel = self._channels.pop(message.id, None)
        elif isinstance(message, Spent):
            spending = self._channels.get(message.id)
            if spending is not None:
                spending.spent(message)
            return
        elif isinstance(message, Stats):
            self.stats = message
            return
        elif isinstance(message, Closing):
            self._closing = True
            return
        else:
            return
        if channel is not None:
            channel.put(_as_error(message) if isinstance(message, Failed) else message)

    def _gone(self) -> ModelUnavailable:
        if self._closing:
            return ModelUnavailable(f"Model '{self._name}' was shut down.")
        return ModelUnavailable(
            f"The process of model '{self._name}' ended unexpectedly ({self._running.ending()}); the next request "
            "starts it again.",
            retry_after=1.0,
            code="local_model_crashed",
        )


def _as_error(failed: Failed) -> RequestError:
    if failed.status == 400:
        return InvalidRequest(failed.message, param=failed.param, code=failed.code)
    if failed.status == 503:
        return ModelUnavailable(failed.message, retry_after=failed.retry_after, code=failed.code)
    return ModelError(failed.message, param=failed.param, code=failed.code)
