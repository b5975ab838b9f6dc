"""Anthropic's wire: what becomes of a request, and what is refused."""

import json
from typing import Any

import pytest
from fixtures.wired import TOOL_CALL, choice, chunk

from smallfirst.router.answer import Answer, Receipt
from smallfirst.router.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    RequestError,
    StreamBroken,
    UpstreamError,
)
from smallfirst.router.wire import Usage
from smallfirst.router.wires.messages import MessagesCall, error_body, parse, parse_count

RECEIPT = Receipt("req_1", "cloud", "big", "", None, "miss", None, None, 0.0, 1)
USER: Any = {"role": "user", "content": "Hi"}
TOOL: Any = {"name": "weather", "input_schema": {"type": "object"}}
ASSISTANT = {"type": "tool_use", "id": "call_7", "name": "weather", "input": {"city": "Paris"}}


def call_of(**fields: Any) -> MessagesCall:
    return parse({"model": "auto", "max_tokens": 9, "messages": [USER], **fields}, headers={})


def chat(**fields: Any) -> dict[str, Any]:
    return call_of(**fields).request.body


def user(*blocks: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = chat(messages=[{"role": "user", "content": list(blocks)}])["messages"]
    return messages


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def events(data: bytes) -> list[dict[str, Any]]:
    lines = [line for line in data.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def reply(
    message: dict[str, Any], finish: str = "stop", *, call: MessagesCall | None = None, **fields: Any
) -> Any:
    answer = Answer({"choices": [choice(message, finish, **fields)]}, RECEIPT, Usage(20, 5, 8))
    return (call or call_of()).reply(answer)


# --- requests -----------------------------------------------------------------------------------------------------


def test_a_system_prompt_may_be_text_or_blocks() -> None:
    assert chat(system="Be short.")["messages"][0] == {"role": "system", "content": "Be short."}
    cached = {**text("Be short."), "cache_control": {"type": "ephemeral"}}
    assert chat(system=[cached])["messages"][0] == {"role": "system", "content": "Be short."}
    two = chat(system=[text("A"), text("B")])["messages"][0]["content"]
    assert two == [text("A"), text("B")]


def test_a_documents_context_comes_before_it() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Data"}
    (message,) = user({"type": "document", "source": source, "context": "About"})
    assert message["content"] == [text("About"), text("Data")]


@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"functions": []}, {"tool_choice": {"type": "any"}}],
    ids=["n", "functions", "choice"],
)
def test_what_only_chat_completions_have_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == next(iter(fields))


def test_a_choice_without_tools_is_left_out() -> None:
    body = chat(tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert not {"tool_choice", "parallel_tool_calls"} & {*body}


def test_more_cached_tokens_than_there_are_leave_none() -> None:
    answer = Answer({"choices": [choice({"content": "Hi"})]}, RECEIPT, Usage(5, 5, 8))
    assert call_of().reply(answer)["usage"]["input_tokens"] == 0


def test_options_have_their_names_in_chat_completions() -> None:
    body = chat(
        stop_sequences=["END"],
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        thinking={"type": "enabled", "budget_tokens": 1024},
        metadata={"user_id": "u1", "session": "s1"},
        output_config={"effort": "high"},
        cache_control={"type": "ephemeral"},
    )
    assert body == {
        "model": "auto",
        "messages": [USER],
        "max_completion_tokens": 9,
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "user": "u1",
        "metadata": {"session": "s1"},
        "reasoning_effort": "high",
    }


def test_pictures_and_documents_become_content_parts() -> None:
    (message,) = user(
        text("Look:"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"},
        },
        {
            "type": "document",
            "title": "Note",
            "source": {"type": "text", "media_type": "text/plain", "data": "B"},
        },
    )
    assert message["content"] == [
        text("Look:"),
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
        text("Note\n\nB"),
    ]


def test_results_of_several_tools_come_before_the_text_of_their_turn() -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    found = user(
        {"type": "tool_result", "tool_use_id": "a", "content": "Rain"},
        {"type": "tool_result", "tool_use_id": "b", "is_error": True, "content": [text("No"), text("net")]},
        {"type": "tool_result", "tool_use_id": "c", "content": [text("See"), picture]},
        {"type": "tool_result", "tool_use_id": "d"},
        text("Well?"),
    )
    assert found == [
        {"role": "tool", "tool_call_id": "a", "content": "Rain"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: No\nnet"},
        {"role": "tool", "tool_call_id": "c", "content": "See"},
        {"role": "tool", "tool_call_id": "d", "content": ""},
        {
            "role": "user",
            "content": [
                text("The result of call c:"),
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                text("Well?"),
            ],
        },
    ]


def test_an_assistants_turn_becomes_one_message() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {**text("I look."), "citations": None},
        ASSISTANT,
    ]
    assert chat(messages=[USER, {"role": "assistant", "content": blocks}])["messages"][1] == {
        "role": "assistant",
        "reasoning_content": "Hm.",
        "content": "I look.",
        "tool_calls": [
            {
                "id": "call_7",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
            }
        ],
    }


@pytest.mark.parametrize(
    ("choice_", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "weather"},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_every_choice_of_tools_is_translated(choice_: Any, expected: dict[str, Any]) -> None:
    body = chat(tools=[{**TOOL, "description": "d", "strict": True}], tool_choice=choice_)
    function = {"name": "weather", "parameters": {"type": "object"}, "description": "d", "strict": True}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body} == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [ASSISTANT]}]}, "messages[0].content[0].type"),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]},
                ]
            },
            "messages[1].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages[0].content[0].source.type",
        ),
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"name": "weather"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ],
)
def test_a_bad_field_is_refused_by_its_own_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        call_of(**fields)
    assert (refused.value.param or "").startswith(param)
    assert param in error_body(refused.value)["error"]["message"]


def test_tokens_are_counted_of_the_same_prompt() -> None:
    body = {"model": "auto", "messages": [USER], "system": "Be short.", "tools": [TOOL]}
    counted = parse_count(json.dumps(body).encode())
    assert counted.body == {
        key: value for key, value in chat(**body).items() if key != "max_completion_tokens"
    }


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "finish", "fields", "expected"),
    [
        ({"content": "Hi"}, "stop", {}, ("end_turn", None)),
        ({"content": "Hi"}, "length", {}, ("max_tokens", None)),
        ({"content": "Hi"}, "content_filter", {}, ("refusal", None)),
        ({"content": None, "refusal": "No."}, "stop", {}, ("refusal", None)),
        ({"content": "Hi"}, "stop", {"stop_reason": "END"}, ("stop_sequence", "END")),
        ({"content": "Hi"}, "stop", {"stop_reason": 42}, ("end_turn", None)),
        ({"content": None, "tool_calls": [TOOL_CALL]}, "tool_calls", {}, ("tool_use", None)),
        # A call that was asked for by its name ends with `stop` at OpenAI.
        ({"content": None, "tool_calls": [TOOL_CALL]}, "stop", {}, ("tool_use", None)),
    ],
)
def test_why_an_answer_ended_is_translated(
    message: dict[str, Any], finish: str, fields: dict[str, Any], expected: Any
) -> None:
    said = reply(message, finish, call=call_of(stop_sequences=["END"]), **fields)
    assert (said["stop_reason"], said["stop_sequence"]) == expected


def test_reasoning_is_shown_to_those_who_asked_for_it() -> None:
    message = {"reasoning_content": "Hm.", "content": "Yes."}
    assert reply(message)["content"] == [text("Yes.")]
    thinks = call_of(thinking={"type": "adaptive"})
    assert reply(message, call=thinks)["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        text("Yes."),
    ]


@pytest.mark.parametrize("arguments", ['{"city": ', "[1]", "Paris"])
def test_a_call_that_cannot_be_read_is_an_error_and_no_prose(arguments: str) -> None:
    broken = {**TOOL_CALL, "function": {"name": "weather", "arguments": arguments}}
    message = {"content": None, "tool_calls": [broken]}
    with pytest.raises(UpstreamError, match="weather"):
        reply(message, "tool_calls")
    made = call_of().events(RECEIPT, Usage())
    seen = events(
        made.feed(chunk({"delta": {"tool_calls": [{"index": 0, **broken}]}, "finish_reason": "stop"})[6:])
    )
    with pytest.raises(UpstreamError, match="weather"):
        made.end(Usage())
    assert [event["content_block"]["type"] for event in seen if "content_block" in event] == ["tool_use"]


def test_a_call_that_was_cut_at_the_limit_has_no_arguments() -> None:
    cut = {**TOOL_CALL, "function": {"name": "weather", "arguments": '{"city": "Pa'}}
    said = reply({"content": None, "tool_calls": [cut]}, "length")
    assert said["stop_reason"] == "max_tokens"
    assert said["content"] == [{"type": "tool_use", "id": "call_7", "name": "weather", "input": {}}]


def test_a_call_without_an_id_gets_one() -> None:
    nameless = {"type": "function", "function": {"name": "weather", "arguments": ""}}
    said = reply({"content": None, "tool_calls": [nameless, nameless]}, "tool_calls")
    ids = [block["id"] for block in said["content"]]
    assert len({*ids}) == 2
    assert all(each.startswith("toolu_") for each in ids)


def test_a_stream_without_a_reason_to_end_is_not_complete() -> None:
    made = call_of().events(RECEIPT, Usage())
    made.feed(chunk({"delta": {"content": "Hi"}})[6:])
    with pytest.raises(StreamBroken):
        made.end(Usage())


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (InvalidRequest("x"), "invalid_request_error"),
        (AuthenticationFailed("x"), "authentication_error"),
        (ModelNotFound("x"), "not_found_error"),
        (BodyTooLarge("x"), "request_too_large"),
        (UpstreamError("x", status=429), "rate_limit_error"),
        (ModelUnavailable("x"), "overloaded_error"),
        (RequestError("x"), "api_error"),
    ],
)
def test_errors_have_anthropics_names(exc: RequestError, kind: str) -> None:
    assert error_body(exc) == {"type": "error", "error": {"type": kind, "message": "x"}}
