"""Whole answers to chunks and back."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.cache import CachedReply, ChunkCollector
from smallfirst.router.cache.replay import to_chunks

calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(min_size=1),
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": st.text(min_size=1), "arguments": st.text()}),
        }
    ),
    min_size=1,
    max_size=3,
)
text = st.text(st.characters(exclude_categories=["Cs"]))
messages = st.one_of(
    st.fixed_dictionaries({"role": st.just("assistant"), "content": text}, optional={"refusal": st.none()}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none(), "tool_calls": calls}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": text, "reasoning_content": text}),
)


def body(*answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    choices = [
        {"index": at, "message": message, "logprobs": None, "finish_reason": "stop"}
        for at, message in enumerate(answers)
    ]
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more}


def collected(whole: dict[str, Any]) -> ChunkCollector:
    collector = ChunkCollector()
    for chunk in to_chunks(whole):
        collector.add(msgspec.json.encode(chunk))
    return collector


@given(answers=st.lists(messages, min_size=1, max_size=3), usage=st.none() | st.just({"prompt_tokens": 1}))
def test_collecting_a_replay_gives_the_answer_back(
    answers: list[dict[str, Any]], usage: dict[str, int] | None
) -> None:
    whole = body(*answers, **({"usage": usage} if usage else {}))
    assert collected(whole).body() == msgspec.json.decode(msgspec.json.encode(whole))


pieces = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["content", "reasoning_content"]),
    text,
    st.fixed_dictionaries(
        {},
        optional={"usage": st.just({"prompt_tokens": 1}), "obfuscation": text, "created": st.integers(1, 2)},
    ),
)


@given(said=st.lists(pieces, max_size=12))
def test_texts_grow_in_order_whatever_comes_between_them(
    said: list[tuple[int, str, str, dict[str, Any]]],
) -> None:
    collector = ChunkCollector()
    grown: dict[tuple[int, str], str] = {}
    for index, key, piece, more in said:
        choice = {"index": index, "delta": {key: piece}, "logprobs": None, "finish_reason": None}
        collector.add(msgspec.json.encode({"id": "c", "choices": [choice], **more}))
        grown[index, key] = grown.get((index, key), "") + piece
    assert sorted(collector.text.split("\n")) == sorted("\n".join(grown.values()).split("\n"))
    assert not collector.ending
    for index in {index for index, _ in grown}:
        last = {"index": index, "delta": {}, "logprobs": None, "finish_reason": "stop"}
        collector.add(msgspec.json.encode({"id": "c", "choices": [last]}))
    whole = collector.body()
    told = {} if whole is None else {each["index"]: each["message"] for each in whole["choices"]}
    assert {(index, key): told[index][key] for index, key in grown} == grown
    assert collector.usage == ({"prompt_tokens": 1} if any("usage" in more for *_, more in said) else None)


def test_text_is_replayed_in_pieces() -> None:
    message = {"role": "assistant", "content": "One two three four five six. " * 4 + "a" * 100}
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in to_chunks(body(message))]
    assert len([piece for piece in pieces if piece]) > 5
    assert max(len(piece) for piece in pieces if piece) < 110


def test_an_unfinished_stream_has_no_whole_answer() -> None:
    collector = ChunkCollector()
    assert collector.body() is None
    collector.add(b'{"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": null}]}')
    assert collector.body() is None
    assert collector.text == "Hel"


def test_arguments_of_calls_grow_by_index() -> None:
    collector = ChunkCollector()
    for call in (
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x":'}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": "1}"}},
    ):
        collector.add(msgspec.json.encode({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}))
    collector.add(
        b'{"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 3}}'
    )
    whole = collector.body()
    assert whole is not None
    assert [call["function"]["arguments"] for call in whole["choices"][0]["message"]["tool_calls"]] == [
        '{"x":1}',
        "{}",
    ]
    assert whole["usage"] == {"prompt_tokens": 3}


def test_a_stored_answer_survives_and_damage_is_a_miss() -> None:
    stored = CachedReply(body({"role": "assistant", "content": "x"}), "m", "cloud", None, 1.5)
    assert CachedReply.decode(stored.encode()) == stored
    assert CachedReply.decode(stored.encode()[:-3]) is None
    assert CachedReply.decode(b"\xff") is None
    assert CachedReply.decode(b"{}") is None


def merged(*deltas: dict[str, Any]) -> dict[str, Any]:
    collector = ChunkCollector()
    for delta in (*deltas, {}):
        reason = None if delta else "stop"
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        collector.add(msgspec.json.encode({"choices": [choice]}))
    whole = collector.body()
    assert whole is not None
    message: dict[str, Any] = whole["choices"][0]["message"]
    return message


def call(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [fields]}


def test_a_name_that_comes_with_every_piece_is_taken_once() -> None:
    message = merged(
        call(index=0, id="a", function={"name": "f", "arguments": "{"}),
        call(index=0, id="a", function={"name": "f", "arguments": "}"}),
    )
    assert message["tool_calls"] == [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]


def test_calls_without_an_index_are_told_apart_by_their_id() -> None:
    message = merged(
        call(id="a", function={"name": "f", "arguments": "{"}),
        call(function={"arguments": "}"}),
        call(index=None, id="b", function={"name": "g", "arguments": "{}"}),
    )
    assert [(c["id"], c["function"]["arguments"]) for c in message["tool_calls"]] == [
        ("a", "{}"),
        ("b", "{}"),
    ]


def test_lists_grow_and_nulls_change_nothing() -> None:
    message = merged(
        {"content": "a", "details": [1], "tool_calls": None},
        {"content": None, "details": [2], "tool_calls": None},
    )
    assert message == {"role": "assistant", "content": "a", "details": [1, 2]}


def test_a_stream_with_an_error_has_no_whole_answer() -> None:
    collector = ChunkCollector()
    collector.add(b'{"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}')
    collector.add(b'{"error": {"message": "x"}}')
    assert collector.body() is None


def test_an_empty_first_chunk_does_not_hide_who_answered() -> None:
    collector = ChunkCollector()
    collector.add(b'{"id": "", "model": "", "choices": []}')
    collector.add(
        b'{"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}'
    )
    whole = collector.body()
    assert whole is not None
    assert (whole["id"], whole["model"]) == ("c", "m")
