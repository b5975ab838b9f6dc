"""A model's process that several gateways share: each has a connection, and all of their jobs are in one batch.

Standard input is a socket of the process that started this one. From there comes what to load, and then a new
connection with each byte `NEW`; any byte is answered with what the process does. Its end is the end.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import msgspec

from ...errors import ModelFileError, ModelUnavailable
from .operations import Operations
from .protocol import (
    Cancel,
    Closing,
    Done,
    Failed,
    FromWorker,
    Leave,
    Load,
    Outbox,
    Ready,
    Stats,
    Submit,
    ToWorker,
    Unusable,
    decode_to_worker,
    frame_of,
    read_frame,
)
from .queue import queue_full
from .sharing import NEW, Doing
from .worker import Reporter, load_model, take

# A client's jobs have numbers of its own; so many of them, and the next client's begin.
_ROOM = 1 << 40
# Seconds in which clients are told of the end.
_LAST_WORDS = 0.5


class _Client:
    """One of the gateways."""

    def __init__(self, number: int, connection: socket.socket) -> None:
        self.number = number
        self.connection = connection
        self.source = connection.makefile("rb")
        self.out: Outbox[FromWorker] = Outbox(connection.makefile("wb"), broken=lambda: None)
        # When they began; by the number that the engine knows them under.
        self.jobs: dict[int, float] = {}


class _Hub:
    """Passes jobs and what comes of them to and fro.

    Args:
        load: How the model is run.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._operations: Operations | None = None
        self._clients: dict[int, _Client] = {}
        self._count = 0
        self._stats = Stats()
        self._seconds = 1.0  # that a job takes, as a moving average
        self._touched = time.monotonic()
        # Held while clients come and go.
        self._door = threading.Lock()
        # Held while a job is begun or given up: that is not made for several threads.
        self._taking = threading.Lock()

    def open(self, operations: Operations) -> None:
        """Take jobs from now on."""
        self._operations = operations

    def doing(self) -> Doing:
        """Return what it does."""
        clients = list(self._clients.values())
        idle = time.monotonic() - self._touched
        return Doing(len(clients), sum(len(client.jobs) for client in clients), idle)

    # --- what the engine says ---------------------------------------------------------------------------------

    def put(self, message: FromWorker) -> None:
        """Pass on what is said about a job, or to all; from any thread."""
        if isinstance(message, Stats):
            self._stats = message
            for client in list(self._clients.values()):
                client.out.put(message)
            return
        assert not isinstance(message, (Ready, Unusable, Closing))
        number, job = divmod(message.id, _ROOM)
        found = self._clients.get(number)
        if found is None:
            return
        if isinstance(message, (Done, Failed)):
            self._touched = now = time.monotonic()
            begun = found.jobs.pop(message.id, now)
            self._seconds += 0.1 * (now - begun - self._seconds)
        found.out.put(msgspec.structs.replace(message, id=job))

    # --- clients ----------------------------------------------------------------------------------------------

    def add(self, connection: socket.socket) -> None:
        """Serve one more client."""
        assert self._operations is not None
        with self._door:
            self._count += 1
            client = self._clients[self._count] = _Client(self._count, connection)
        client.out.put(Ready(self._operations.threads))
        client.out.put(self._stats)
        threading.Thread(target=self._serve, args=(client,), name="smallfirst-client", daemon=True).start()

    def close(self) -> None:
        """Tell all clients that this is the end, and end."""
        with self._door:
            for client in self._clients.values():
                client.out.put(Closing())
                threading.Thread(target=client.out.close, daemon=True).start()
            time.sleep(_LAST_WORDS if self._clients else 0.0)
            os._exit(0)

    def _serve(self, client: _Client) -> None:
        left = False
        while not left and (frame := read_frame(client.source)) is not None:
            message = decode_to_worker(frame)
            left = isinstance(message, Leave)
            if isinstance(message, (Submit, Cancel)):
                self._take(client, message)
        self._remove(client)
        if left:
            self._end_without_clients()

    def _take(self, client: _Client, message: Submit | Cancel) -> None:
        assert self._operations is not None
        job = client.number * _ROOM + message.id
        renamed: ToWorker = msgspec.structs.replace(message, id=job)
        self._touched = time.monotonic()
        with self._taking:
            if isinstance(message, Cancel):
                client.jobs.pop(job, None)
            else:
                full = self._full()
                if full is not None and not message.waits:
                    client.out.put(
                        Failed(message.id, full.status, full.message, None, full.code, full.retry_after)
                    )
                    return
                client.jobs[job] = self._touched
            take(renamed, self._operations, self.put)

    def _full(self) -> ModelUnavailable | None:
        load = self._load
        return queue_full(
            load.name,
            self.doing().outstanding,
            parallel=load.parallel,
            max_queue=load.max_queue,
            seconds=self._seconds,
        )

    def _remove(self, client: _Client) -> None:
        """Give up what a client wanted that is gone: nobody waits for it."""
        assert self._operations is not None
        with self._door:
            del self._clients[client.number]
        with self._taking:
            for job in client.jobs:
                self._operations.cancel(job)
            client.jobs.clear()
        client.out.close()
        client.connection.close()

    def _end_without_clients(self) -> None:
        with self._door:
            if not self._clients:
                os._exit(0)


def main() -> None:
    """Serve one model until nobody needs it, or standard input ends."""
    # Sent to a whole group of processes; who started this one decides when it ends.
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    control = socket.socket(fileno=os.dup(0))
    # Nothing follows before it is answered.
    with control.makefile("rb") as source:
        first = read_frame(source)
    if first is None:
        return
    load = decode_to_worker(first)
    assert isinstance(load, Load), "the first message says what to load"
    hub = _Hub(load)
    try:
        operations, engine = load_model(load, hub.put)
    except Exception as exc:  # whatever it is, who waits for the model must hear of it
        text = str(exc) if isinstance(exc, ModelFileError) else f"{type(exc).__name__}: {exc}"
        control.sendall(frame_of(Unusable(text)))
        return
    hub.open(operations)
    Reporter(engine, hub.put)
    control.sendall(frame_of(Ready(operations.threads)))
    while True:
        try:
            said, given, _, _ = socket.recv_fds(control, 1, 1)
            if not said:
                break
            if said == NEW and given:
                hub.add(socket.socket(fileno=given[0]))
            control.sendall(frame_of(hub.doing()))
        except OSError:
            break
    hub.close()


if __name__ == "__main__":
    main()
