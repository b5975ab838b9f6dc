"""The process that a local model runs in: reads jobs from standard input, writes what comes of them to standard output.

A crash of the native library, or a model that takes all memory, ends this process and not the gateway.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import IO

from ...errors import ModelFileError, RequestError
from .deciding import calling_of
from .engine import ContextOptions, Engine, Grammars, NativeModel
from .likeness import Likeness
from .operations import Operations, Put
from .protocol import (
    Cancel,
    Failed,
    FromWorker,
    Load,
    Outbox,
    Ready,
    Stats,
    Submit,
    Taken,
    ToWorker,
    Unusable,
    decode_to_worker,
    read_frame,
)

# How often the engine is asked what it does.
STATS_SECONDS = 1.0


def main() -> None:
    """Serve one model until standard input ends."""
    # Sent to a whole group of processes; the gateway decides when this one ends, by closing its input.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    source, sink = _pipes()
    out: Outbox[FromWorker] = Outbox(sink, broken=lambda: os._exit(0))
    first = read_frame(source)
    if first is None:
        return
    load = decode_to_worker(first)
    assert isinstance(load, Load), "the first message says what to load"
    try:
        operations, engine = load_model(load, out.put)
    except Exception as exc:  # whatever it is, who waits for the model must hear of it
        out.put(Unusable(str(exc) if isinstance(exc, ModelFileError) else f"{type(exc).__name__}: {exc}"))
        out.close()
        return
    out.put(Ready(operations.threads))
    Reporter(engine, out.put)
    while (frame := read_frame(source)) is not None:
        take(decode_to_worker(frame), operations, out.put)
    # The gateway is gone, or wants the memory back: nobody waits for an answer, and the system frees all at once.
    os._exit(0)


def _pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Keep standard output for frames: whatever else is printed, by native code too, goes to standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, sink


def load_model(load: Load, put: Put) -> tuple[Operations, Engine]:
    """Load a model; what is to be said about its jobs is handed to `put`, from several threads.

    Raises:
        ModelFileError: It cannot be loaded.
    """
    model = NativeModel(Path(load.path), ContextOptions(load.cells, load.threads, load.gpu_layers))
    for name, path in load.adapters.items():
        model.add_adapter(name, Path(path))
    # Reading the vocabulary takes up to a second, and only constrained answers need it.
    grammars: Future[Grammars] = Future()
    likeness = Likeness()
    threading.Thread(target=_prepare, args=(model, grammars, likeness), daemon=True).start()
    engine = Engine(model, parallel=load.parallel)
    operations = Operations(load, engine, grammars, likeness, put)
    engine.start()
    return operations, engine


class Reporter:
    """Tells the gateway what the engine does, as long as that changes.

    The engine says it between two steps, so that nobody waits for it; while it rests nothing is sent.
    """

    def __init__(self, engine: Engine, put: Callable[[Stats], None]) -> None:
        self._engine = engine
        self._put = put
        self._last = Stats()
        threading.Thread(target=self._run, name="smallfirst-stats", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._engine.call(self._report)
            pause.wait(STATS_SECONDS)

    def _report(self) -> None:
        engine, taken = self._engine, self._engine.occupancy
        stats = Stats(
            active=taken.active,
            waiting=taken.waiting,
            cells=engine.model.cells,
            cells_used=taken.own_cells + taken.kept_cells,
            cells_kept=taken.kept_cells,
            tokens_read=engine.read,
            tokens_made=engine.made,
        )
        if stats != self._last:
            self._last = stats
            self._put(stats)


def _prepare(model: NativeModel, grammars: Future[Grammars], likeness: Likeness) -> None:
    try:
        grammars.set_result(Grammars(model))
    except Exception as exc:  # heard of by who waits for it
        grammars.set_exception(exc)
    # An embedding of 32 MB, for models whose calls are decided on by it.
    if calling_of(model.metadata).likeness:
        likeness.read()


def take(message: ToWorker, operations: Operations, put: Put) -> None:
    """Do as a message says; a job that cannot be begun has failed."""
    if isinstance(message, Cancel):
        operations.cancel(message.id)
    elif isinstance(message, Submit):
        try:
            operations.begin(message)
        except RequestError as exc:
            put(Failed(message.id, exc.status, exc.message, exc.param, exc.code))
        except Exception as exc:  # a job's failure is that job's alone
            text = f"The local model failed ({type(exc).__name__})."
            put(Failed(message.id, 502, text, code="local_model_failed"))
        else:
            if message.stream:
                put(Taken(message.id))


if __name__ == "__main__":
    main()
