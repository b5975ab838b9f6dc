"""An answer has the originals wherever a model can put them, whole or streamed."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.cache import ChunkCollector
from smallfirst.router.deadline import Bounded
from smallfirst.router.privacy.placeholders import Placeholders
from smallfirst.router.privacy.restore import RestoredStream, restored_body
from smallfirst.router.wire import ReplyStream

JANE, KEY = "jane@example.com", '-----BEGIN "KEY"\nMII\\E'
ORIGINALS = Placeholders({"<EMAIL_1>": JANE, "<SECRET_1>": KEY})


def body(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": None, **message}
    return {
        "id": "c",
        "model": "m",
        "choices": [{"index": 0, "message": said, "finish_reason": "stop", **choice}],
    }


def restored(message: dict[str, Any], *, as_json: bool = False, **choice: Any) -> dict[str, Any]:
    whole = restored_body(body(message, **choice), ORIGINALS, json=as_json)
    found: dict[str, Any] = whole["choices"][0]
    return found


def call(arguments: str) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "mail", "arguments": arguments}}


def test_words_have_the_originals() -> None:
    said = {
        "content": "Mail <EMAIL_1>.",
        "refusal": "Not to <EMAIL_1>!",
        "reasoning_content": "<EMAIL_1>?",
        "reasoning_details": [{"type": "text", "text": "<EMAIL_1> it is"}],
    }
    assert restored(said)["message"] == {
        "role": "assistant",
        "content": f"Mail {JANE}.",
        "refusal": f"Not to {JANE}!",
        "reasoning_content": f"{JANE}?",
        "reasoning_details": [{"type": "text", "text": f"{JANE} it is"}],
    }


def test_arguments_have_the_originals_escaped() -> None:
    said = restored({"tool_calls": [call('{"to":"<EMAIL_1>","key":"<SECRET_1>"}')]})
    arguments = said["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"to": JANE, "key": KEY}


def test_an_answer_that_follows_a_schema_stays_json() -> None:
    said = restored({"content": '{"key": "<SECRET_1>"}'}, as_json=True)
    assert json.loads(said["message"]["content"]) == {"key": KEY}
    parts = restored({"content": [{"type": "text", "text": '{"key": "<SECRET_1>"}'}]}, as_json=True)
    assert json.loads(parts["message"]["content"][0]["text"]) == {"key": KEY}


def token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}


def test_tokens_of_a_placeholder_become_one() -> None:
    tokens = [
        token("To", -0.1),
        token(" <", -0.5),
        token("EMAIL", -0.25),
        token("_1", -0.25),
        token(">.", -1.0),
    ]
    said = restored({"content": "To <EMAIL_1>."}, logprobs={"content": tokens})
    assert said["logprobs"]["content"] == [token("To", -0.1), token(f" {JANE}.", -2.0)]


# --- streams --------------------------------------------------------------------------------------------------------


def chunk(delta: dict[str, Any], finish: str | None = None, **choice: Any) -> dict[str, Any]:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **choice}]}


async def streamed(chunks: list[dict[str, Any]], *, as_json: bool = False) -> list[dict[str, Any]]:
    async def source() -> AsyncIterator[bytes]:
        for one in chunks:
            yield json.dumps(one).encode()

    stream = RestoredStream(ReplyStream(source()), ORIGINALS, json=as_json)
    return [json.loads(one) async for one in stream]


def together(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    collector = ChunkCollector()
    for one in chunks:
        collector.add(json.dumps(one).encode())
    whole = collector.body()
    assert whole is not None
    found: dict[str, Any] = whole["choices"][0]
    return found


def cut(text: str, cuts: list[int]) -> list[str]:
    ends = sorted(min(at, len(text)) for at in cuts)
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(st.lists(st.integers(0, 60), max_size=12))
async def test_however_a_stream_is_cut_the_answer_is_the_same(cuts: list[int]) -> None:
    words, arguments = "Mail <EMAIL_1>, not <EMAIL_2> <EM", '{"to": "<EMAIL_1>", "key": "\\u003cSECRET_1>"}'
    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"reasoning_content": piece}) for piece in cut("<EMAIL_1>", cuts)]
    chunks += [chunk({"content": piece}) for piece in cut(words, cuts)]
    chunks += [chunk({"tool_calls": [{"index": 0, **call("")}]})]
    chunks += [
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        for piece in cut(arguments, cuts)
    ]
    chunks += [chunk({}, "tool_calls")]
    said = together(await streamed(chunks))
    assert said["message"]["reasoning_content"] == JANE
    assert said["message"]["content"] == f"Mail {JANE}, not <EMAIL_2> <EM"
    assert json.loads(said["message"]["tool_calls"][0]["function"]["arguments"]) == {"to": JANE, "key": KEY}
    assert said["finish_reason"] == "tool_calls"


async def test_what_is_held_back_goes_out_before_something_else_begins() -> None:
    chunks = [chunk({"content": "a <EM"}), chunk({"tool_calls": [{"index": 0, **call("{}")}]})]
    out = await streamed([*chunks, chunk({}, "tool_calls")])
    assert [one["choices"][0]["delta"].get("content") for one in out] == ["a ", "<EM", None]


async def test_what_is_held_back_at_the_end_goes_out_with_the_finish_reason() -> None:
    out = await streamed([chunk({"content": "a <EMAIL_1"}), chunk({}, "stop")])
    assert out[-1]["choices"][0]["delta"] == {"content": "<EMAIL_1"}


async def test_it_is_known_what_has_arrived() -> None:
    class Arriving:
        """Has one chunk now, and one later."""

        def __init__(self) -> None:
            self.given = 0

        @property
        def ready(self) -> bool:
            return self.given < 1

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            self.given += 1
            return json.dumps(chunk({"content": "a"})).encode()

    stream = RestoredStream(ReplyStream(Arriving()), ORIGINALS, json=False)
    known = [stream.ready]
    await anext(aiter(stream))
    known.append(stream.ready)
    assert known == [True, False]
    bounded = Bounded(RestoredStream(ReplyStream(Arriving()), ORIGINALS, json=False), time.monotonic() + 60)
    assert bounded.ready
    await anext(aiter(bounded))
    assert not bounded.ready


async def test_a_stream_that_does_not_say_that_it_ends_loses_nothing() -> None:
    out = await streamed([chunk({"content": "a <EMAIL_1"})])
    assert "".join(one["choices"][0]["delta"]["content"] for one in out) == "a <EMAIL_1"


async def test_chunks_with_nothing_to_restore_are_passed_on_untouched() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b'{ "choices" : [] }'

    stream = RestoredStream(ReplyStream(source()), ORIGINALS, json=False)
    assert [one async for one in stream] == [b'{ "choices" : [] }']


async def test_streamed_tokens_of_a_placeholder_become_one() -> None:
    pieces = [("To", -0.1), (" <", -0.5), ("EMAIL", -0.25), ("_1", -0.25), (">", -1.0), ("!", -0.5)]
    chunks = [chunk({"content": text}, logprobs={"content": [token(text, p)]}) for text, p in pieces]
    said = together(await streamed([*chunks, chunk({}, "stop")]))
    assert said["message"]["content"] == f"To {JANE}!"
    assert said["logprobs"]["content"] == [token("To", -0.1), token(f" {JANE}", -2.0), token("!", -0.5)]
