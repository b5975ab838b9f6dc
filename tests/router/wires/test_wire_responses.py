"""The wire of OpenAI's Responses: what becomes of a request, what is refused, and what is kept."""

import json
from typing import Any

import pytest
from fixtures.wired import TOOL_CALL, choice, chunk

from smallfirst.router.answer import Answer, Receipt
from smallfirst.router.errors import InvalidRequest, ResponseNotFound, StreamBroken
from smallfirst.router.hints import read_hints
from smallfirst.router.wire import Usage
from smallfirst.router.wires.response_store import ResponseStore, Stored
from smallfirst.router.wires.responses import ResponsesCall, error_body, parse

RECEIPT = Receipt("req_1", "cloud", "big", "", None, "miss", None, None, 0.0, 1)
USER: Any = {"role": "user", "content": "Hi"}
TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
NESTED: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
STORE = ResponseStore(0, 1.0)


def call_of(*, store: ResponseStore = STORE, tenant: str = "a", **fields: Any) -> ResponsesCall:
    body = {"input": "Hi", **fields}
    return parse(body, headers={}, tenant_of=lambda _: tenant, store=store)


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


# --- what is kept -------------------------------------------------------------------------------------------------


def test_a_response_goes_on_where_the_last_one_ended() -> None:
    store = ResponseStore(100_000, 60)
    first = call_of(store=store, instructions="Be short.", input="One", metadata={"session": "s1"})
    response = first.reply(answer("1"))
    second = call_of(store=store, input="Two", previous_response_id=response["id"])
    assert second.request.body["messages"] == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two"},
    ]
    # It is the same session, so that what sticks to a conversation goes on.
    assert read_hints(second.request).session == read_hints(first.request).session == "s1"
    named = call_of(store=store, previous_response_id=response["id"], prompt_cache_key="k")
    assert read_hints(named.request).session == "k"


def test_what_follows_on_a_private_response_is_private() -> None:
    store = ResponseStore(100_000, 60)
    response = call_of(store=store, metadata={"privacy": "local"}).reply(answer("1"))
    second = call_of(store=store, previous_response_id=response["id"], metadata={"privacy": "any"})
    assert read_hints(second.request).privacy == "local"
    third = call_of(store=store, previous_response_id=second.reply(answer("2", "req_2"))["id"])
    assert read_hints(third.request).privacy == "local"


def test_a_response_is_its_tenants_alone() -> None:
    store = ResponseStore(100_000, 60)
    response = call_of(store=store, tenant="a").reply(answer("1"))
    with pytest.raises(ResponseNotFound) as missing:
        call_of(store=store, tenant="b", previous_response_id=response["id"])
    assert (missing.value.status, missing.value.param) == (404, "previous_response_id")
    with pytest.raises(ResponseNotFound):
        store.delete("b", response["id"])
    assert store.get("a", response["id"]).body == response


def test_a_response_is_kept_for_its_time() -> None:
    now = [0.0]
    store = ResponseStore(100_000, 60, clock=lambda: now[0])
    store.put("a", "resp_1", Stored({}, [], "s"))
    now[0] = 59.0
    store.get("a", "resp_1")
    now[0] = 60.0
    with pytest.raises(ResponseNotFound):
        store.get("a", "resp_1")
    assert store.bytes == 0


def test_the_store_never_takes_more_than_it_may() -> None:
    store = ResponseStore(20_000, 60)
    for at in range(50):
        store.put("a", f"resp_{at}", Stored({"text": "x" * 1000}, [], "s"))
        assert store.bytes <= 20_000
        # What is used stays.
        store.get("a", "resp_0")
    with pytest.raises(ResponseNotFound):
        store.get("a", "resp_1")
    store.put("a", "huge", Stored({"text": "x" * 20_000}, [], "s"))
    assert store.get("a", "resp_0").body == {"text": "x" * 1000}


def test_a_tenant_that_keeps_much_pushes_out_its_own_responses_alone() -> None:
    store = ResponseStore(20_000, 60)
    store.put("b", "resp_b", Stored({"text": "x" * 1000}, [], "s"))
    for at in range(50):
        store.put("a", f"resp_{at}", Stored({"text": "x" * 1000}, [], "s"))
    assert store.get("b", "resp_b").body == {"text": "x" * 1000}
    with pytest.raises(ResponseNotFound):
        store.get("a", "resp_0")


def test_a_response_may_take_a_tenth_of_the_room() -> None:
    store = ResponseStore(20_000, 60)
    store.put("a", "resp_0", Stored({"text": "x" * 2000}, [], "s"))
    assert store.bytes == 0


def test_what_has_ended_makes_room_when_the_next_is_kept() -> None:
    now = [0.0]
    store = ResponseStore(20_000, 60, clock=lambda: now[0])
    store.put("a", "resp_0", Stored({}, [], "s"))
    one = store.bytes
    now[0] = 61
    store.put("b", "resp_1", Stored({}, [], "s"))
    assert store.bytes == one


def test_what_a_policy_keeps_in_the_house_stays_there_in_what_follows() -> None:
    store = ResponseStore(100_000, 60)
    private = parse(
        {"input": "Hi", "model": "auto/private"},
        headers={},
        tenant_of=lambda _: "a",
        store=store,
        is_private=lambda model: model == "auto/private",
    )
    response = private.reply(answer("1"))
    follows = call_of(store=store, previous_response_id=response["id"])
    assert read_hints(follows.request).privacy == "local"


def test_a_response_is_not_kept_where_the_caller_says_so() -> None:
    store = ResponseStore(100_000, 60)
    assert call_of(store=store).reply(answer("1"))["store"] is True
    kept = store.bytes
    loose = parse({"input": "Hi", "store": False}, headers={}, tenant_of=lambda _: "a", store=store)
    assert loose.reply(answer("1", "req_2"))["store"] is False
    assert store.bytes == kept > 0


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


def test_a_call_without_an_id_is_kept_under_the_one_it_was_given() -> None:
    store = ResponseStore(100_000, 60)
    nameless = {**TOOL_CALL, "id": ""}
    body = {"choices": [choice({"content": None, "tool_calls": [nameless]}, "tool_calls")]}
    response = call_of(store=store).reply(Answer(body, RECEIPT, Usage()))
    call_id = response["output"][0]["call_id"]
    assert call_id.startswith("call_")
    assert store.get("a", response["id"]).messages[-1]["tool_calls"][0]["id"] == call_id
