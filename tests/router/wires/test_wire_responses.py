"""The wire of OpenAI's Responses: what becomes of a request, and what is refused."""

import asyncio
import json
from typing import Any

import pytest
from fixtures.wired import choice, chunk

from smallfirst.router.answer import Answer, Receipt
from smallfirst.router.errors import InvalidRequest, StreamBroken
from smallfirst.router.wire import Usage
from smallfirst.router.wires.response_store import MemoryResponses
from smallfirst.router.wires.responses import ResponsesCall, error_body, parse

RECEIPT = Receipt("req_1", "cloud", "big", "", None, "miss", None, None, 0.0, 1)
USER: Any = {"role": "user", "content": "Hi"}
TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
NESTED: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def call_of(**fields: Any) -> ResponsesCall:
    body = {"input": "Hi", **fields}
    return asyncio.run(parse(body, headers={}, tenant_of=lambda _: "a", store=MemoryResponses(0, 1.0)))


def chat(**fields: Any) -> dict[str, Any]:
    return call_of(**fields).request.body


def messages(*items: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(input=list(items))["messages"]
    return found


def answer(text: str, name: str = "req_1") -> Answer:
    receipt = Receipt(name, "cloud", "big", "", None, "miss", None, None, 0.0, 1)
    return Answer({"choices": [choice({"content": text})]}, receipt, Usage(20, 5))


# --- requests -----------------------------------------------------------------------------------------------------


def test_items_become_messages() -> None:
    assert messages(
        {"role": "developer", "content": "Be short."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Two calls."}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes."}],
        },
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
        {"role": "assistant", "content": "Done."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No more."}]},
    ) == [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": "Two calls."},
        {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "content": "Yes.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "assistant", "content": "Done."},
        {"role": "assistant", "content": "No more."},
    ]


CALLED = [{"type": "function_call", "call_id": name, "name": "f", "arguments": "{}"} for name in "ab"]
RESULTS = [{"type": "function_call_output", "call_id": name, "output": name} for name in "ab"]


def test_reasoning_between_calls_leaves_them_in_one_message() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    made = messages({"role": "user", "content": "Hi"}, CALLED[0], thought, CALLED[1], *RESULTS)
    assert [message["role"] for message in made] == ["user", "assistant", "tool", "tool"]


def test_a_message_between_calls_and_results_comes_after_the_results() -> None:
    made = messages({"role": "user", "content": "Hi"}, *CALLED, {"role": "user", "content": "Now?"}, *RESULTS)
    assert [message["role"] for message in made] == ["user", "assistant", "tool", "tool", "user"]


def test_a_message_does_not_wait_for_results_that_never_come() -> None:
    later: Any = [{"role": "user", "content": "Now?"}, {"role": "assistant", "content": "No."}]
    made = messages({"role": "user", "content": "Hi"}, *CALLED, *later)
    assert [message["role"] for message in made] == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    "fields", [{"n": 2}, {"max_tokens": 5}, {"functions": []}, {"tool_choice": "required"}]
)
def test_what_only_chat_completions_have_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == next(iter(fields))


def test_what_means_nothing_without_tools_or_logprobs_is_left_out() -> None:
    body = chat(tool_choice="auto", parallel_tool_calls=True, top_logprobs=0)
    assert not {"tool_choice", "parallel_tool_calls", "top_logprobs"} & {*body}


def test_allowed_tools_that_are_none_of_the_tools_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        chat(
            tools=[TOOL], tool_choice={"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]}
        )


def test_errors_have_this_wires_names_of_fields() -> None:
    exc = InvalidRequest("Invalid value for 'response_format': no.", param="response_format")
    error = error_body(exc)["error"]
    assert (error["param"], error["message"]) == ("text.format", "Invalid value for 'text.format': no.")


def test_a_stream_that_was_cut_closes_its_last_item_as_incomplete() -> None:
    made = call_of().events(RECEIPT, Usage())
    made.feed(chunk({"delta": {"content": "Hi"}, "finish_reason": "length"})[6:])
    lines = [line for line in made.end(Usage()).decode().split("\n") if line.startswith("data: ")]
    done = [json.loads(line[6:]) for line in lines]
    assert [e["item"]["status"] for e in done if e["type"] == "response.output_item.done"] == ["incomplete"]


def test_pictures_files_and_sounds_become_content_parts() -> None:
    (message,) = messages(
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
                {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            ],
        }
    )
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]


@pytest.mark.parametrize(
    ("choice_", "expected"),
    [
        ("required", {"tools": [NESTED], "tool_choice": "required"}),
        (
            {"type": "function", "name": "weather"},
            {"tools": [NESTED], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            {"tools": [NESTED], "tool_choice": "required"},
        ),
    ],
)
def test_every_choice_of_tools_is_translated(choice_: Any, expected: dict[str, Any]) -> None:
    other = {"type": "function", "name": "other", "parameters": None}
    tools = [TOOL, other] if isinstance(choice_, dict) and "mode" in choice_ else [TOOL]
    body = chat(tools=tools, tool_choice=choice_)
    assert {name: body[name] for name in ("tools", "tool_choice")} == expected


def test_logprobs_are_asked_for_where_they_are_to_be_included() -> None:
    assert chat(include=["message.output_text.logprobs"])["logprobs"] is True
    body = chat(top_logprobs=3)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
    assert "logprobs" not in chat(include=["reasoning.encrypted_content"])


def test_only_hints_of_the_metadata_leave_the_response() -> None:
    call = call_of(metadata={"session": "s1", "team": "a"})
    assert call.request.body["metadata"] == {"session": "s1"}
    assert call.echoed["metadata"] == {"session": "s1", "team": "a"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "hologram"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
    ],
)
def test_a_bad_field_is_refused_by_its_own_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        call_of(**fields)
    assert (refused.value.param or "").startswith(param)
    assert param in refused.value.message


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_stream_that_breaks_in_a_call_ends_with_an_error_and_no_call() -> None:
    made = call_of().events(RECEIPT, Usage())
    half = {"index": 0, "id": "call_7", "function": {"name": "weather", "arguments": '{"city": "Pa'}}
    seen = made.feed(chunk({"delta": {"content": "I look."}})[6:])
    seen += made.feed(chunk({"delta": {"tool_calls": [half]}})[6:])
    seen += made.error(StreamBroken("It broke."))
    events = [json.loads(line[6:]) for line in seen.decode().split("\n") if line.startswith("data: ")]
    kinds = [event["type"] for event in events]
    assert kinds[-2:] == ["response.failed", "error"]
    assert not {"response.completed", "response.incomplete", "response.function_call_arguments.done"} & {
        *kinds
    }
    failed, error = events[-2:]
    assert [item["type"] for item in failed["response"]["output"]] == ["message"]
    assert failed["response"]["error"] == {"code": "server_error", "message": "It broke."}
    assert (error["message"], error["code"]) == ("It broke.", "stream_broken")
