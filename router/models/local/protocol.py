"""What the gateway and a model's own process say to each other: frames of MessagePack, their length in front."""

from __future__ import annotations

import queue
import struct
import threading
from collections.abc import Callable
from typing import IO, Any, Generic, Literal, TypeVar

import msgspec

_LENGTH = struct.Struct(">I")

Message = TypeVar("Message")
Operation = Literal["chat", "embed", "count"]


class Load(msgspec.Struct, tag="load", frozen=True):
    """The first message: which model, and how it is run.

    Attributes:
        cells: Room for tokens in memory, for all sequences together.
        adapters: LoRA files by name.
        name: The model's, for messages.
        max_queue: Where several gateways share the process: jobs of all of them that may wait.
    """

    path: str
    context_tokens: int
    cells: int
    parallel: int
    threads: int | None
    gpu_layers: int
    max_output_tokens: int
    system_prompt: str | None
    adapters: dict[str, str]
    name: str = ""
    max_queue: int = 0


class Submit(msgspec.Struct, tag="submit", frozen=True):
    """A job; answered by `Delta`s and one `Done` or `Failed` of the same id. A `Taken` comes of one that streams.

    Attributes:
        body: For `chat` and `count` a chat completion body, for `embed` `{"input": [text, …]}`.
        stream: Whether deltas are wanted as they come; else all is in `Done`.
        group: Whose job it is: groups take turns.
        adapter: The LoRA adapter's name, or None.
        waits: Whether it is taken however many wait before it.
    """

    id: int
    operation: Operation
    body: dict[str, Any]
    stream: bool = False
    group: str = ""
    adapter: str | None = None
    waits: bool = False


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """Gives a job up; nothing more comes of it."""

    id: int


class Leave(msgspec.Struct, tag="leave", frozen=True):
    """One of several gateways needs the process no more; the last one's word ends it."""


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The model is loaded."""

    threads: int


class Unusable(msgspec.Struct, tag="unusable", frozen=True):
    """The model cannot be loaded; the process ends."""

    message: str


class Taken(msgspec.Struct, tag="taken", frozen=True):
    """A job that streams was found right, and runs or waits for its turn. It may come after the first `Delta`s."""

    id: int


class Delta(msgspec.Struct, tag="delta", frozen=True):
    """A part of a streamed reply: an OpenAI choice without its index, and how sure the model was so far."""

    id: int
    choice: dict[str, Any]
    confidence: dict[str, Any] | None = None


class Spent(msgspec.Struct, tag="spent", frozen=True):
    """What a chat has taken so far; sent now and then while it is made, and right before its end.

    Attributes:
        cpu_seconds: Of the process's processor time, its share.
        input_tokens, cached_tokens: Of the prompt, and what of it was in memory already.
        output_tokens: That were made so far.
    """

    id: int
    cpu_seconds: float
    input_tokens: int
    cached_tokens: int
    output_tokens: int


class Done(msgspec.Struct, tag="done", frozen=True):
    """The end of a job, with its result."""

    id: int
    result: dict[str, Any]


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """A job failed; `status` 400 blames the request."""

    id: int
    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None


class Closing(msgspec.Struct, tag="closing", frozen=True):
    """A process that several gateways share ends as it was told to: its memory is needed, or all of them end."""


class Stats(msgspec.Struct, tag="stats", frozen=True):
    """What the engine does; sent by itself while there is work, about once a second.

    Attributes:
        active, waiting: Sequences in the batch, and those that wait to join it.
        cells, cells_used: Room for tokens in memory, and how much of it is taken; kept beginnings included.
        cells_kept: Of those taken, what is kept for reuse and given up where room is short.
        tokens_read, tokens_made: Since the start: prompt tokens that were computed, and tokens of replies.
    """

    active: int = 0
    waiting: int = 0
    cells: int = 0
    cells_used: int = 0
    cells_kept: int = 0
    tokens_read: int = 0
    tokens_made: int = 0


ToWorker = Load | Submit | Cancel | Leave
FromWorker = Ready | Unusable | Taken | Delta | Spent | Done | Failed | Closing | Stats

decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode


def frame_of(message: object) -> bytes:
    """Return a message as a frame.

    Raises:
        ValueError, OverflowError: It has something that MessagePack cannot hold.
    """
    payload = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(payload)) + payload


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Return the next frame's payload; None where the other side is gone. Blocks."""
    try:
        header = stream.read(_LENGTH.size)
        if len(header) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(header)
        payload = stream.read(length)
    except (OSError, ValueError):  # closed under our hands
        return None
    return payload if len(payload) == length else None


class Outbox(Generic[Message]):
    """Writes messages in a thread of its own: who puts one never waits for the other side.

    Args:
        sink: Where frames go.
        broken: Called, in that thread, where nobody reads any more.
    """

    def __init__(self, sink: IO[bytes], broken: Callable[[], None]) -> None:
        self._sink = sink
        self._broken = broken
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="smallfirst-outbox", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Hand a message over; safe from any thread.

        Raises:
            ValueError, OverflowError: It has something that MessagePack cannot hold: an integer beyond 64 bits, half of
                a surrogate pair. Nothing is sent.
        """
        self._frames.put(frame_of(message))

    def close(self) -> None:
        """Write what is left, and stop."""
        self._frames.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (frame := self._frames.get()) is not None:
            try:
                self._sink.write(frame)
                if self._frames.empty():
                    self._sink.flush()
            except (OSError, ValueError):
                self._broken()
                return
