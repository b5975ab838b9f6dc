"""Local models of several serving processes: each is loaded once, and all have connections to it.

Everything here blocks and is called from threads; who serves asks over a channel of its own.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time

import msgspec

from ..errors import ModelFileError, ModelUnavailable
from ..models.local.memory import MemoryBudget
from ..models.local.process import end, environment, words
from ..models.local.protocol import Load, Ready, Unusable, decode_from_worker, frame_of, read_frame
from ..models.local.sharing import (
    ASK,
    NEW,
    Ask,
    Attach,
    Attached,
    Doing,
    Ended,
    Refused,
    decode_question,
)

log = logging.getLogger("smallfirst")

_HOSTED = "smallfirst.router.models.local.hosted"
# Seconds that a process may take to say what it does; one that takes longer hangs, and is replaced.
_ANSWER = 30.0
# Seconds that one may take to end whose connections are gone.
_LAST = 5.0
# A model without any client is kept for so long: one that died comes again.
KEPT = 30.0

_decode_doing = msgspec.msgpack.Decoder(Doing).decode


class Engine:
    """One model's process.

    Args:
        load: Which model, and how it is run.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.alone_since: float | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self._load.name

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    @property
    def loaded(self) -> bool:
        """Whether it is in memory."""
        return self._control is not None and self._process is not None and self._process.poll() is None

    @property
    def busy(self) -> bool:
        """Whether it answers something right now."""
        doing = self.doing()
        return self.loaded if doing is None else doing.outstanding > 0

    def start(self) -> None:
        """Load the model.

        Raises:
            ModelFileError: It cannot be loaded.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _HOSTED],
                env=environment(),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                # llama.cpp prints there what it likes, parts of requests too.
                stderr=subprocess.DEVNULL,
            )
        ours.sendall(frame_of(self._load))
        # Loading takes as long as it takes; nothing else comes before it is done.
        with ours.makefile("rb") as source:
            frame = read_frame(source)
        message = decode_from_worker(frame) if frame is not None else None
        if isinstance(message, Ready):
            ours.settimeout(_ANSWER)
            self._control = ours
            return
        ours.close()
        end(self._process)
        if isinstance(message, Unusable):
            raise ModelFileError(message.message)
        raise ModelFileError(
            f"its process ended while it was loaded ({words(self._process.wait())}): the file is damaged, or there is "
            "too little memory"
        )

    def connect(self) -> socket.socket | None:
        """Return a new connection to it; None where it is about to end, or is gone."""
        ours, theirs = socket.socketpair()
        with theirs:
            if self._say(NEW, [theirs.fileno()]) is not None:
                self.alone_since = None
                return ours
        ours.close()
        return None

    def doing(self) -> Doing | None:
        """Return what it does; None where it does not say so."""
        return self._say(ASK, [])

    def unload(self) -> None:
        """End it; who has a connection is told."""
        with self._lock:
            control, self._control = self._control, None
        if control is not None:
            control.close()
        if self._process is not None:
            end(self._process)

    def give_up(self) -> None:
        """Have it end while it is loaded."""
        if self._process is not None:
            self._process.kill()

    def ending(self) -> str:
        """Return how it ended; waits a moment for that."""
        assert self._process is not None
        try:
            return words(self._process.wait(_LAST))
        except subprocess.TimeoutExpired:
            return "it does not answer"

    def _say(self, word: bytes, handed: list[int]) -> Doing | None:
        with self._lock:
            if self._control is None:
                return None
            try:
                socket.send_fds(self._control, [word], handed)
                with self._control.makefile("rb") as source:
                    frame = read_frame(source)
            except OSError:
                frame = None
            if frame is None:
                # What it says later would be taken for the answer to another question.
                self._control.close()
                self._control = None
                return None
        return _decode_doing(frame)


class EngineHost:
    """All models' processes.

    Args:
        limit: Bytes that they may take together; None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._budget = MemoryBudget(limit)
        # By how they are loaded. Those that have ended are replaced.
        self._engines: dict[bytes, Engine] = {}
        self._by_pid: dict[int, Engine] = {}
        self._loading: Engine | None = None
        self._closed = False

    def attach(self, load: Load, size: int) -> tuple[socket.socket, int]:
        """Return a new connection to a model's process, which is started if need be, and its id.

        Raises:
            ModelFileError: The model cannot be loaded.
            ModelUnavailable: There is no room for it now.
        """
        key = msgspec.msgpack.encode(load)
        with self._budget.loading:
            while not self._closed:
                engine = self._engines.get(key)
                if engine is None or not engine.loaded:
                    engine = self._start(key, load, size)
                connection = engine.connect()
                if connection is not None:
                    return connection, engine.pid
                # It ended just now, as nobody seemed to need it any more.
                engine.unload()
        raise ModelUnavailable("The server is about to end.")

    def _start(self, key: bytes, load: Load, size: int) -> Engine:
        before = self._engines.pop(key, None)
        if before is not None:
            before.unload()
        engine = Engine(load)
        self._note_use()
        self._budget.make_room(engine, size)
        self._loading = engine
        try:
            engine.start()
        finally:
            self._loading = None
        self._engines[key] = self._by_pid[engine.pid] = engine
        return engine

    def _note_use(self) -> None:
        """Tell the budget who was used last: jobs do not pass here."""
        known = [(engine.doing(), engine) for engine in self._engines.values() if engine.loaded]
        for _, engine in sorted(
            ((-doing.idle, engine) for doing, engine in known if doing is not None), key=lambda each: each[0]
        ):
            self._budget.used(engine)

    def ending(self, pid: int) -> str:
        """Return how a process ended."""
        engine = self._by_pid.get(pid)
        return "unknown" if engine is None else engine.ending()

    def tidy(self) -> None:
        """Unload what nobody has had a connection to for a while, and forget what has ended."""
        with self._budget.loading:
            now = time.monotonic()
            for key, engine in list(self._engines.items()):
                if not engine.loaded:
                    engine.unload()
                    del self._engines[key]
                    continue
                doing = engine.doing()
                if doing is None or doing.clients:
                    engine.alone_since = None
                elif engine.alone_since is None:
                    engine.alone_since = now
                elif now - engine.alone_since > KEPT:
                    log.info("unloading model %s: nobody asks it any more", engine.name)
                    engine.unload()

    def stop_loading(self) -> None:
        """Load no more, as all is about to end: who waits for a model is told so. Does not block."""
        self._closed = True
        if self._loading is not None:
            self._loading.give_up()

    def close(self) -> None:
        """End all of them."""
        self.stop_loading()
        with self._budget.loading:
            for engine in self._engines.values():
                engine.unload()

    def serve(self, channel: socket.socket) -> None:
        """Answer what one process asks, until it is gone."""
        with channel, channel.makefile("rb") as source:
            while (frame := read_frame(source)) is not None:
                question = decode_question(frame)
                with contextlib.suppress(OSError):
                    if isinstance(question, Ask):
                        channel.sendall(frame_of(Ended(self.ending(question.pid))))
                    else:
                        self._answer(channel, question)

    def _answer(self, channel: socket.socket, question: Attach) -> None:
        try:
            connection, pid = self.attach(question.load, question.size)
        except ModelFileError as exc:
            channel.sendall(frame_of(Refused(str(exc), file=True)))
        except OSError as exc:
            text = f"its process cannot be started: {exc.strerror or exc}"
            channel.sendall(frame_of(Refused(text, file=True)))
        except ModelUnavailable as exc:
            said = Refused(exc.message, file=False, code=exc.code, retry_after=exc.retry_after)
            channel.sendall(frame_of(said))
        else:
            with connection:
                # The message is short: it goes as a whole.
                socket.send_fds(channel, [frame_of(Attached(pid))], [connection.fileno()])
