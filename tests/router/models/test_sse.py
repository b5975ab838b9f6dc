"""Event streams, wherever the bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.models import sse
from smallfirst.router.models.sse import EventTooLong, SSEParser


def parse(*pieces: bytes) -> list[bytes]:
    parser = SSEParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\r\n\r\ndata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b": keep-alive\n\nevent: x\nid: 1\ndata: a\n\n", [b"a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: unfinished\n", []),
        (b"data\n\n", []),
        ("data: é\n\n".encode(), ["é".encode()]),
    ],
)
def test_events_are_read(stream: bytes, events: list[bytes]) -> None:
    assert parse(stream) == events
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == events


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
lines = st.sampled_from([b"data: {}", b"data:[1]", b": ping", b"", b"event: e", "data: ü€😀".encode()])


@given(
    parts=st.lists(st.tuples(lines, line_ends), max_size=12),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_a_stream_cut_anywhere_parses_the_same(parts: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(line + end for line, end in parts) + b"\n"
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert parse(*(stream[a:b] for a, b in pairwise(bounds))) == parse(stream)


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    with pytest.raises(EventTooLong):
        parse(b"data: " + b"x" * 101)
    with pytest.raises(EventTooLong):
        parse(*[b"data: " + b"x" * 30 + b"\n"] * 4)


def test_a_long_line_in_many_pieces_is_read_as_in_one() -> None:
    parser = SSEParser()
    for piece in (b"\r", b"\r", b"data: ", *[b"x" * 1000] * 2000, b"\r"):
        assert list(parser.feed(piece)) == []
    assert list(parser.feed(b"\n\r\ndata: a\r\r")) == [b"x" * 2_000_000, b"a"][:1]
    assert list(parser.feed(b"\n")) == [b"a"]
