"""Frames between the gateway and a model's process, over real pipes."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.models.local.protocol import (
    Cancel,
    Closing,
    Delta,
    Done,
    Failed,
    FromWorker,
    Leave,
    Load,
    Outbox,
    Ready,
    Spent,
    Stats,
    Submit,
    Taken,
    ToWorker,
    Unusable,
    decode_from_worker,
    decode_to_worker,
    read_frame,
)

TO_WORKER: list[ToWorker] = [
    Load("m.gguf", 4096, 8192, 16, None, -1, 512, None, {"german": "g.gguf"}),
    Submit(1, "chat", {"messages": [{"role": "user", "content": "Grüße 🎉"}], "x": [1.5, None, True]}),
    Submit(2, "embed", {"input": ["a", ""]}, True, "tenant", "german"),
    Cancel(1),
    Leave(),
]
FROM_WORKER: list[FromWorker] = [
    Ready(2),
    Unusable("damaged"),
    Taken(1),
    Delta(1, {"delta": {"content": "Hi"}}, {"score": 0.5}),
    Spent(1, 0.25, 10, 4, 3),
    Done(1, {"vectors": [[0.25, -1.0]]}),
    Failed(2, 400, "no", "input[0]", "empty"),
    Closing(),
    Stats(active=1, cells=64),
]


@dataclass
class Pipe:
    source: IO[bytes]
    sink: IO[bytes]

    def close(self) -> None:
        self.source.close()
        self.sink.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read, write = os.pipe()
    pipe = Pipe(os.fdopen(read, "rb"), os.fdopen(write, "wb"))
    yield pipe
    pipe.close()


def nobody_breaks() -> None:
    raise AssertionError("the other side is there")


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def through(pipe: Pipe, sent: bytes) -> bytes | None:
    pipe.sink.write(sent)
    pipe.sink.close()
    return read_frame(pipe.source)


def read_all(source: IO[bytes]) -> list[bytes]:
    return list(iter(lambda: read_frame(source), None))


def test_each_kind_of_message_is_tried_here() -> None:
    assert {type(message) for message in TO_WORKER} == set(get_args(ToWorker))
    assert {type(message) for message in FROM_WORKER} == set(get_args(FromWorker))


def test_messages_to_the_process_arrive_as_they_were(pipe: Pipe) -> None:
    outbox: Outbox[ToWorker] = Outbox(pipe.sink, nobody_breaks)
    for message in TO_WORKER:
        outbox.put(message)
    outbox.close()
    pipe.sink.close()
    found = [decode_to_worker(payload) for payload in read_all(pipe.source)]
    assert found == TO_WORKER


def test_messages_from_the_process_arrive_as_they_were(pipe: Pipe) -> None:
    outbox: Outbox[FromWorker] = Outbox(pipe.sink, nobody_breaks)
    for message in FROM_WORKER:
        outbox.put(message)
    outbox.close()
    pipe.sink.close()
    found = [decode_from_worker(payload) for payload in read_all(pipe.source)]
    assert found == FROM_WORKER


def test_a_message_is_written_at_once(pipe: Pipe) -> None:
    outbox: Outbox[ToWorker] = Outbox(pipe.sink, nobody_breaks)
    for job in range(3):
        outbox.put(Cancel(job))
        payload = read_frame(pipe.source)
        assert payload is not None
        assert decode_to_worker(payload) == Cancel(job)
    outbox.close()


def test_of_several_threads_each_ones_messages_keep_their_order(pipe: Pipe) -> None:
    outbox: Outbox[ToWorker] = Outbox(pipe.sink, nobody_breaks)

    def put(own: int) -> None:
        for number in range(200):
            outbox.put(Cancel(own * 1000 + number))

    threads = [threading.Thread(target=put, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outbox.close()
    pipe.sink.close()
    found = [cancel(payload).id for payload in read_all(pipe.source)]
    assert sorted(found) == [own * 1000 + number for own in range(4) for number in range(200)]
    for own in range(4):
        assert [job % 1000 for job in found if job // 1000 == own] == list(range(200))


def cancel(payload: bytes) -> Cancel:
    return msgspec.msgpack.decode(payload, type=Cancel)


@pytest.mark.parametrize("value", [10**30, "\ud800"])
def test_what_cannot_be_sent_is_an_error_at_once_and_nothing_else_suffers(pipe: Pipe, value: object) -> None:
    outbox: Outbox[ToWorker] = Outbox(pipe.sink, nobody_breaks)
    with pytest.raises((ValueError, OverflowError)):
        outbox.put(Submit(1, "chat", {"x": value}))
    outbox.put(Cancel(2))
    outbox.close()
    pipe.sink.close()
    assert [cancel(payload) for payload in read_all(pipe.source)] == [Cancel(2)]


def test_who_puts_a_message_never_waits_for_the_reader(pipe: Pipe) -> None:
    outbox: Outbox[ToWorker] = Outbox(pipe.sink, nobody_breaks)
    large = Submit(1, "chat", {"text": "x" * 200_000})  # more than a pipe holds
    for _ in range(5):
        outbox.put(large)
    reader = threading.Thread(target=outbox.close)
    reader.start()
    found: list[ToWorker] = []
    while len(found) < 5:
        payload = read_frame(pipe.source)
        assert payload is not None
        found.append(decode_to_worker(payload))
    reader.join()
    assert found == [large] * 5


def test_where_nobody_reads_any_more_that_is_told_once(pipe: Pipe) -> None:
    broken = threading.Semaphore(0)
    outbox: Outbox[ToWorker] = Outbox(pipe.sink, broken.release)
    pipe.source.close()
    outbox.put(Cancel(1))
    assert broken.acquire(timeout=5)
    outbox.put(Cancel(2))
    outbox.close()
    assert not broken.acquire(blocking=False)
    with pytest.raises(BrokenPipeError):
        pipe.sink.close()


@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 100_000])
def test_a_frame_is_read_whole(payload: bytes) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        writer = threading.Thread(target=write_slowly, args=(write, frame(payload)))
        writer.start()
        assert (read_frame(source), read_frame(source)) == (payload, None)
        writer.join()


def write_slowly(sink: int, sent: bytes) -> None:
    """Write in pieces of odd sizes."""
    for at in range(0, len(sent), 7777):
        os.write(sink, sent[at : at + 7777])
    os.close(sink)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8])
def test_a_frame_that_was_cut_off_is_none(pipe: Pipe, length: int) -> None:
    assert through(pipe, frame(b"hello")[:length]) is None


def test_from_a_closed_stream_comes_none(pipe: Pipe) -> None:
    pipe.source.close()
    assert read_frame(pipe.source) is None


@given(payloads=st.lists(st.binary(max_size=50), max_size=8))
def test_frames_are_told_apart_by_their_length(payloads: list[bytes]) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        os.write(write, b"".join(map(frame, payloads)))
        os.close(write)
        assert read_all(source) == payloads
