"""LangChain's messages to OpenAI's wire form and back, as values."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage

from smallfirst.agents.messages import StreamReader, from_chunk, from_reply, to_wire, usage_metadata
from smallfirst.router.answer import AnswerStream, Receipt
from smallfirst.router.wire import Usage

RECEIPT = Receipt("req_1", "cloud", "gpt-4.1", "asked for", None, "miss", 0.5, 0.25, 1.0, 1)
IMAGE = {"type": "image", "base64": "QQ==", "mime_type": "image/png"}
WIRE_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}
CALL = {"name": "look", "args": {"at": "it"}, "id": "c1", "type": "tool_call"}
WIRE_CALL = {"type": "function", "id": "c1", "function": {"name": "look", "arguments": '{"at": "it"}'}}


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (HumanMessage("Hi"), "Hi"),
        (HumanMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "a\nb"),
        (HumanMessage([IMAGE]), [WIRE_IMAGE]),
        (HumanMessage([WIRE_IMAGE]), [WIRE_IMAGE]),
        (HumanMessage([{"type": "image", "url": "https://x/y.png"}]), [
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
        ]),
        (HumanMessage([{"type": "file", "base64": "QQ==", "mime_type": "application/pdf"}]), [
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QQ==", "filename": "file.pdf"}}
        ]),
        (HumanMessage([{"type": "audio", "base64": "QQ==", "mime_type": "audio/wav"}]), [
            {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}
        ]),
        (AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes."}]), "Yes."),
        (AIMessage([{"type": "reasoning", "reasoning": "hm"}]), ""),
        (AIMessage([{"type": "server_tool_call", "name": "web", "args": {}, "id": "s"}, "Yes."]), "Yes."),
        (HumanMessage([{"type": "text-plain", "text": "a note", "mime_type": "text/plain"}]), "a note"),
    ],
)  # fmt: skip
def test_content_becomes_the_wires(message: BaseMessage, content: Any) -> None:
    assert [one["content"] for one in to_wire([message])] == [content]


@pytest.mark.parametrize(
    "content",
    [
        "",
        [{"type": "tool_call", **CALL}],
        [{"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "it"}}],
    ],
)
def test_a_call_is_on_the_wire_once(content: Any) -> None:
    (sent,) = to_wire([AIMessage(content, tool_calls=[CALL])])
    assert sent["tool_calls"] == [WIRE_CALL]
    assert not sent["content"]


def test_what_tools_attach_goes_into_a_message_after_all_results() -> None:
    sent = to_wire(
        [
            AIMessage("", tool_calls=[CALL, CALL | {"id": "c2"}]),
            ToolMessage([IMAGE], tool_call_id="c1"),
            ToolMessage([{"type": "text", "text": "seen"}, IMAGE], tool_call_id="c2"),
            HumanMessage("And?"),
        ]
    )
    assert [one["role"] for one in sent] == ["assistant", "tool", "tool", "user", "user"]
    assert sent[1]["content"] == "The result is attached to the next message."
    assert sent[2]["content"] == [{"type": "text", "text": "seen"}]
    assert sent[3]["content"] == [WIRE_IMAGE, WIRE_IMAGE]


def reply(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return {"id": "r", "model": "m", "choices": [{"message": message, **fields}], "usage": usage}


def test_a_reply_keeps_thoughts_refusals_and_logprobs() -> None:
    message = {"content": None, "reasoning_content": "hm", "refusal": "No.", "audio": {"id": "a"}}
    (found,) = from_reply(reply(message, finish_reason="stop", logprobs={"content": []}), RECEIPT)
    assert found.additional_kwargs == {"reasoning_content": "hm", "refusal": "No.", "audio": {"id": "a"}}
    assert found.response_metadata["logprobs"] == {"content": []}
    assert found.content_blocks[0] == {"type": "reasoning", "reasoning": "hm"}


def test_a_call_that_cannot_be_read_is_kept_as_such() -> None:
    broken = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": '}}
    (found,) = from_reply(reply({"content": "", "tool_calls": [broken]}), RECEIPT)
    assert found.tool_calls == []
    assert [(one["name"], one["args"], one["id"]) for one in found.invalid_tool_calls] == [
        ("look", '{"at": ', "c1")
    ]


def test_the_result_of_a_call_that_could_not_be_read_has_its_call() -> None:
    unread = {"name": "look", "args": '{"at": ', "id": "c2", "error": "cut", "type": "invalid_tool_call"}
    asked = AIMessage("", tool_calls=[CALL], invalid_tool_calls=[unread])
    wire = to_wire([asked, ToolMessage("it", tool_call_id="c1"), ToolMessage("what?", tool_call_id="c2")])
    calls = [(call["id"], call["function"]["arguments"]) for call in wire[0]["tool_calls"]]
    assert calls == [("c1", '{"at": "it"}'), ("c2", '{"at": ')]
    assert "tool_calls" not in to_wire([AIMessage("", invalid_tool_calls=[unread]), HumanMessage("Hm?")])[0]


def test_a_cut_call_without_arguments_is_no_call_without_parameters() -> None:
    """Empty arguments are what a function without parameters is called with."""
    empty = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}
    (whole,) = from_reply(reply({"content": None, "tool_calls": [empty]}), RECEIPT)
    (cut,) = from_reply(reply({"content": None, "tool_calls": [empty]}, finish_reason="length"), RECEIPT)
    assert [one["args"] for one in whole.tool_calls] == [{}]
    assert (cut.tool_calls, [one["name"] for one in cut.invalid_tool_calls]) == ([], ["look"])


class Said:
    """The source of a stream that is read elsewhere."""

    receipt = RECEIPT
    usage: Usage | None = None
    ready = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


def streamed(*pieces: str, finish: str) -> AIMessageChunk:
    """A call's arguments in pieces, added up as LangChain does."""
    reader = StreamReader(AnswerStream(Said()))
    calls = [{"index": 0, "id": "c1", "function": {"name": "look", "arguments": ""}}]
    calls += [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    deltas: list[tuple[dict[str, Any], str | None]] = [({"tool_calls": [call]}, None) for call in calls]
    whole = AIMessageChunk(content="")
    for delta, reason in [*deltas, ({}, finish)]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        message = reader.read(json.dumps({"model": "m", "choices": [choice]}).encode())
        whole = whole if message is None else whole + message
    return whole + reader.last()


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        ("{",),
        ('{"at": ',),
        ('{"at', '": "i'),
        ('{"at": ["it"',),
        ('{"at": "a\\',),
        ('{"at": {"x": [1, ',),
    ],
)
def test_half_a_streamed_call_is_not_run_as_a_whole_one(pieces: tuple[str, ...]) -> None:
    found = streamed(*pieces, finish="length")
    assert (found.tool_calls, [one["id"] for one in found.invalid_tool_calls]) == ([], ["c1"])
    (call,) = found.invalid_tool_calls
    assert (call["args"] or "").startswith("".join(pieces))


@pytest.mark.parametrize("finish", ["length", "tool_calls"])
def test_a_whole_streamed_call_is_one_however_the_stream_ends(finish: str) -> None:
    found = streamed('{"at": ', '"it"}', finish=finish)
    assert [one["args"] for one in found.tool_calls] == [{"at": "it"}]
    assert found.response_metadata["finish_reason"] == finish


def test_several_answers_count_their_tokens_once() -> None:
    body = reply({"content": "a"})
    found = from_reply(body | {"choices": [*body["choices"], {"message": {"content": "b"}}]}, RECEIPT)
    assert [one.text for one in found] == ["a", "b"]
    assert [one.usage_metadata is None for one in found] == [False, True]
    assert [one.id for one in found] == ["req_1", None]


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": []},
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 1, "delta": {"content": "of another answer"}}]},
    ],
)
def test_a_chunk_that_says_nothing_is_none(chunk: dict[str, Any]) -> None:
    assert from_chunk(chunk, "req_1") is None


def test_a_streamed_thought_is_no_text() -> None:
    found = from_chunk({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}, "req_1")
    assert found is not None
    assert (found.text, found.additional_kwargs) == ("", {"reasoning_content": "hm"})


def test_usage_tells_kinds_of_tokens_apart() -> None:
    wire = {
        "prompt_tokens": 30,
        "completion_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 2},
    }
    assert usage_metadata(wire) == {
        "input_tokens": 30,
        "output_tokens": 12,
        "total_tokens": 42,
        "input_token_details": {"cache_read": 8, "audio": 10},
        "output_token_details": {"reasoning": 5, "audio": 2},
    }
    assert usage_metadata(None) is None
