"""A cloud's chunks as they are passed on: with our name for the model, and else as they came."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from smallfirst.router.errors import StreamBroken
from smallfirst.router.models.events import Events
from smallfirst.router.models.patience import Patience
from smallfirst.router.models.refusal import Secrets
from smallfirst.router.settings import CloudModelSettings, Timeouts


class Arriving:
    """A response that arrives in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.let_go = 0
        self._pieces = list(pieces)

    async def piece(self, _: object) -> bytes | None:
        await asyncio.sleep(0)
        return self._pieces.pop(0) if self._pieces else None

    def settle(self) -> None:
        self.let_go += 1

    def close(self) -> None:
        self.let_go += 1


def events(response: Arriving, name: str = "big") -> Events:
    settings = CloudModelSettings(name=name, kind="openai")
    return Events(name, response, Patience(name, Timeouts()), Secrets(settings))


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def chunk(text: str = "x", model: str | None = "big-2025-04-14", **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    fields = {"id": "c", "model": model, "choices": [choice], **more}
    return json.dumps(fields, separators=(",", ":")).encode()


async def passed_on(*chunks: bytes, at_once: bool) -> list[bytes]:
    pieces = [event(each) for each in (*chunks, b"[DONE]")]
    return [each async for each in events(Arriving(b"".join(pieces)) if at_once else Arriving(*pieces))]


@pytest.mark.parametrize("at_once", [False, True])
async def test_the_models_name_is_ours_and_the_rest_as_it_came(at_once: bool) -> None:
    texts = ["Par", "is", '"model":"big-2025-04-14"', "é😀", ""]
    sent = [chunk(text) for text in texts]
    expected = [each.replace(b'"model":"big-2025-04-14"', b'"model":"big"', 1) for each in sent]
    assert await passed_on(*sent, at_once=at_once) == expected


async def test_chunks_that_do_not_begin_alike_are_renamed_each_by_itself() -> None:
    sent = [
        chunk("a"),
        chunk("b", model="other"),
        chunk("c", model=None),
        b'{"choices":[],"model":"big-2025-04-14"}',
        b'{"choices":[{"index":0,"delta":{"model":"big-2025-04-14"}}]}',
        b'{"model" : "big-2025-04-14","choices":[],"of":{"model":"big-2025-04-14"}}',
        chunk("d"),
    ]
    got = [json.loads(each) for each in await passed_on(*sent, at_once=False)]
    assert got == [{**json.loads(each), "model": "big"} for each in sent]


async def test_an_event_of_several_lines_becomes_one_line() -> None:
    written = json.dumps(json.loads(chunk("a", model="big")), indent=1)
    lines = "".join(f"data: {line}\n" for line in written.split("\n")).encode() + b"\n"
    (got,) = [each async for each in events(Arriving(lines, event(b"[DONE]")))]
    assert b"\n" not in got
    assert json.loads(got) == json.loads(written)


async def test_it_is_known_what_has_arrived() -> None:
    stream = events(Arriving(event(chunk("a")) + event(chunk("b")), event(chunk("c"))))
    await stream.wait_for_first()
    known = []
    for _ in range(3):
        known.append(stream.ready)
        await anext(stream)
    assert known == [True, True, False]
    await stream.aclose()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b'"overloaded"', "overloaded"),
        (b'""', "reported an error"),
        (b"17", "reported an error"),
        (b"[" * 900 + b"]" * 900, "reported an error"),
    ],
    ids=["words", "none", "a number", "lists"],
)
async def test_an_error_in_a_stream_breaks_it_off_with_its_words_if_it_has_any(
    message: bytes, said: str
) -> None:
    stream = events(Arriving(event(chunk("a")), event(b'{"error": {"message": %s}}' % message)))
    await anext(stream)
    with pytest.raises(StreamBroken, match=said):
        await anext(stream)


@pytest.mark.parametrize("last", [event(b"[DONE]"), event(b"{"), b""], ids=["whole", "broken", "cut"])
async def test_however_it_ends_the_response_is_let_go_of(last: bytes) -> None:
    response = Arriving(event(chunk("a")), *([last] if last else []))
    stream = events(response)
    with contextlib.suppress(StreamBroken):
        assert [each async for each in stream]
    assert response.let_go == 1
