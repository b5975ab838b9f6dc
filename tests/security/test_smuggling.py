"""Bytes that two servers would read differently, sent to the real server over a socket: none is read as two requests.

A proxy before the gateway that ends a request elsewhere than the gateway does would let one caller write the beginning
of another's request (https://cwe.mitre.org/data/definitions/444.html).
"""

from __future__ import annotations

import json

import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.real_server import RealServer, StartServer

BODY = json.dumps({"model": "big", "messages": [{"role": "user", "content": "Hi"}]}).encode()
INNER = b"\r\n".join(
    [
        b"POST /v1/chat/completions HTTP/1.1",
        b"host: localhost",
        b"connection: close",
        b"content-length: %d" % len(BODY),
        b"",
        BODY,
    ]
)


@pytest.fixture(scope="module")
def server(start_server: StartServer, _cloud_server: LoopbackCloud) -> RealServer:
    model = {"name": "big", "kind": "openai", "base_url": _cloud_server.base_url}
    return start_server(
        json.dumps({"models": [model], "cache": {"enabled": False}, "ledger": {"path": "l.db"}})
    )


def head(*lines: bytes, first: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    return b"\r\n".join([first, b"host: localhost", *lines, b"", b""])


def statuses(answer: bytes) -> list[int]:
    return [int(part.split(b" ", 1)[0]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def length(of: bytes) -> bytes:
    return b"content-length: %d" % len(of)


def test_what_is_sent_as_two_requests_is_read_as_two(server: RealServer, cloud: LoopbackCloud) -> None:
    assert statuses(server.raw(head(length(BODY)) + BODY + INNER)) == [200, 200]
    assert len(cloud.requests) == 2


CLOSE = b"connection: close"
CHUNKED = b"transfer-encoding: chunked"
SMUGGLED: dict[str, bytes] = {
    "both a length and chunks, the length first": head(length(b"0\r\n\r\n" + INNER), CHUNKED)
    + b"0\r\n\r\n"
    + INNER,
    "both, the chunks first": head(CHUNKED, length(b"0\r\n\r\n" + INNER)) + b"0\r\n\r\n" + INNER,
    "two lengths": head(b"content-length: 0", length(INNER)) + INNER,
    "two lengths in one line": head(b"content-length: 0, %d" % len(INNER)) + INNER,
    "a length with a sign": head(b"content-length: +%d" % len(INNER)) + INNER,
    "a length below nought": head(b"content-length: -1") + INNER,
    "a length in hex": head(b"content-length: 0x10") + INNER,
    "a length with a blank in it": head(b"content-length: 1 0") + INNER,
    "a blank before the colon": head(b"content-length : %d" % len(INNER)) + INNER,
    "a blank before the colon of chunks": head(b"transfer-encoding : chunked", b"content-length: 0") + INNER,
    "a folded header": head(b"x: a", b" content-length: %d" % len(INNER), b"content-length: 0") + INNER,
    "chunks by another name": head(b"transfer-encoding: xchunked") + b"0\r\n\r\n" + INNER,
    "chunks twice": head(b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n" + INNER,
    "chunks, then another coding": head(b"transfer-encoding: chunked, identity") + b"0\r\n\r\n" + INNER,
    "a size of a chunk with a sign": head(CHUNKED) + b"+0\r\n\r\n" + INNER,
    "a size of a chunk that overflows": head(CHUNKED) + b"f" * 17 + b"\r\n" + INNER,
    "a chunk that ends by a line feed": head(CHUNKED) + b"1\r\nZ\n0\r\n\r\n" + INNER,
    "an extension of a chunk with a line feed": head(CHUNKED) + b"0;a=\nb\r\n\r\n" + INNER,
    "a NUL in a header": head(b"x: a\x00b", b"content-length: 0") + INNER,
    "a lone return in a header": head(b"x: a\rcontent-length: %d" % len(INNER), b"content-length: 0") + INNER,
    "no name": head(b": a", b"content-length: 0") + INNER,
    "a version of tomorrow": head(length(INNER), first=b"POST /v1/chat/completions HTTP/9.9") + INNER,
    "a method that is none": head(length(INNER), first=b"PO ST /v1/chat/completions HTTP/1.1") + INNER,
}


@pytest.mark.parametrize("sent", SMUGGLED.values(), ids=SMUGGLED)
def test_no_request_hides_in_another(server: RealServer, cloud: LoopbackCloud, sent: bytes) -> None:
    answer = server.raw(sent)
    # Refused, and the connection closed: what follows is nobody's request.
    assert statuses(answer) in ([400], []), answer
    assert cloud.requests == []


LINE_FEEDS: dict[str, bytes] = {
    "in the header": head(length(INNER)).replace(b"\r\n", b"\n") + INNER,
    "at its end": head(length(INNER))[:-2] + b"\n" + INNER,
}


@pytest.mark.parametrize("sent", LINE_FEEDS.values(), ids=LINE_FEEDS)
def test_a_lone_line_feed_ends_no_request_early(
    server: RealServer, cloud: LoopbackCloud, sent: bytes
) -> None:
    # Refused, or read as the end of a line as RFC 9112 (2.2) allows; then the length still holds, and what is in the
    # body is a body (of broken JSON).
    assert statuses(server.raw(sent)) in ([400], [])
    assert cloud.requests == []


@pytest.mark.parametrize(
    "first",
    [
        b"POST http://evil.example/v1/chat/completions HTTP/1.1",
        b"POST //evil.example/v1/chat/completions HTTP/1.1",
        b"POST /v1/chat/completions@evil.example HTTP/1.1",
        b"CONNECT evil.example:443 HTTP/1.1",
        b"TRACE /v1/chat/completions HTTP/1.1",
    ],
)
def test_the_gateway_is_nobodys_proxy(server: RealServer, cloud: LoopbackCloud, first: bytes) -> None:
    answer = server.raw(head(CLOSE, length(BODY), first=first) + BODY)
    served = first.startswith(b"POST http://")  # its path is one of ours, and the host in it means nothing
    assert statuses(answer)[:1] in (([200],) if served else ([400], [404], [405], []))
    assert [request.headers["host"] for request in cloud.requests] == [f"127.0.0.1:{cloud.port}"] * served
    assert b"evil.example" not in answer.split(b"\r\n\r\n")[0]


@pytest.mark.parametrize(
    "value", [b"a\r\nset-cookie: a=b", b"a\nset-cookie: a=b", b"a\rset-cookie: a=b", b"\xff\x00"]
)
@pytest.mark.parametrize("name", [b"x-request-id", b"x-session-id", b"traceparent", b"x-smallfirst-cache"])
def test_a_callers_header_makes_no_header_of_an_answer_or_upstream(
    server: RealServer, cloud: LoopbackCloud, name: bytes, value: bytes
) -> None:
    answer = server.raw(head(name + b": " + value, CLOSE, length(BODY)) + BODY)
    assert b"set-cookie" not in answer
    for request in cloud.requests:
        assert not {"set-cookie", "x-session-id", "x-smallfirst-cache"} & set(request.headers)


def test_a_long_conversation_of_hostile_bytes_leaves_the_server_well(
    server: RealServer, cloud: LoopbackCloud
) -> None:
    for sent in (*SMUGGLED.values(), *LINE_FEEDS.values()):
        server.raw(sent)
    assert statuses(server.raw(INNER)) == [200]
    assert "Traceback" not in server.stderr
