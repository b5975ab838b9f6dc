"""What makes two requests the same."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.cache import Identity, key_prefix
from smallfirst.router.errors import InvalidRequest
from smallfirst.router.wire import ChatRequest

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BODY: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How far?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "12 km"},
    ],
    "tools": [TOOL],
    "temperature": 0,
}


def identity(
    tenant: str = "t", target: str = "x", headers: dict[str, str] | None = None, **changes: Any
) -> Identity:
    return Identity.of(ChatRequest.parse({**BODY, **changes}, tenant=tenant, headers=headers), target=target)


def key(**changes: Any) -> str:
    return identity(**changes).key


def with_message(at: int, **changes: Any) -> list[dict[str, Any]]:
    messages = [dict(message) for message in BODY["messages"]]
    messages[at] |= changes
    return messages


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": with_message(0, content="Be long.")},
        {"messages": with_message(3, content="13 km")},
        {"messages": with_message(1, content="How far? ")},
        {"messages": BODY["messages"][1:]},
        {"messages": with_message(1, name="Ann")},
        {"tools": []},
        {"tools": [TOOL, TOOL]},
        {"tool_choice": "required"},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"seed": 1},
        {"max_tokens": 5},
        {"stop": ["x"]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"unknown": 1},
        {"metadata": {"privacy": "local"}},
        {"headers": {"x-smallfirst-privacy": "local"}},
        {"cache": {"namespace": "n"}},
        {"tenant": "u"},
        {"target": "y"},
    ],
)
def test_what_may_change_the_answer_changes_the_key(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "ann"},
        {"metadata": {"agent": "a", "session": "s", "tags": ["x"]}},
        {"metadata": {"trace_id": "7"}},
        {"cache": {"ttl": 5}},
        {"prompt_cache_key": "p"},
        {"model": "auto/balanced"},
    ],
)
def test_labels_and_delivery_do_not(changes: dict[str, Any]) -> None:
    assert key(**changes) == key()


def test_the_order_of_fields_does_not_matter() -> None:
    turned = {name: BODY[name] for name in reversed(BODY)}
    turned["messages"] = [dict(reversed(message.items())) for message in BODY["messages"]]
    assert Identity.of(ChatRequest.parse(turned, tenant="t"), target="x").key == key()


names = st.text(min_size=1, max_size=5)


@given(a=st.tuples(names, names), b=st.tuples(names, names))
def test_tenants_and_namespaces_never_run_into_each_other(a: tuple[str, str], b: tuple[str, str]) -> None:
    keys = {key(tenant=tenant, cache={"namespace": namespace}) for tenant, namespace in (a, b)}
    assert len(keys) == len({a, b})


@given(text=st.text())
def test_any_text_makes_a_key(text: str) -> None:
    try:
        msgspec.json.encode(text)
    except (UnicodeEncodeError, msgspec.ValidationError):
        return
    assert key(messages=[{"role": "user", "content": text}]).startswith(key_prefix("t", ""))


def test_ids_of_tool_calls_are_drawn_at_random_and_make_no_difference() -> None:
    renamed = with_message(3, tool_call_id="call_9f")
    renamed[2]["tool_calls"] = [{**BODY["messages"][2]["tool_calls"][0], "id": "call_9f"}]
    assert key(messages=renamed) == key()


def test_which_result_belongs_to_which_call_does() -> None:
    calls = [{"id": name, "type": "function", "function": {"name": name}} for name in "ab"]
    messages = [{"role": "user", "content": "Go."}, {"role": "assistant", "tool_calls": calls}]
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in "ab"]
    swapped = [{**results[0], "tool_call_id": "b"}, {**results[1], "tool_call_id": "a"}]
    assert key(messages=messages + results) != key(messages=messages + swapped)


ASKED = {"role": "user", "content": "And now?"}
TALK = [*BODY["messages"], {"role": "assistant", "content": "12 km."}, ASKED]
OTHER_TOOL = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}


def partition(**changes: Any) -> str:
    return identity(**{"messages": TALK, **changes}).partition


def test_requests_that_differ_in_the_last_words_only_may_be_compared() -> None:
    assert partition(messages=[*TALK[:-1], {"role": "user", "content": "So?"}]) == partition()


def test_text_in_parts_is_text() -> None:
    parts = [{"type": "text", "text": "So?"}]
    assert partition(messages=[*TALK[:-1], {"role": "user", "content": parts}]) == partition()


def test_where_the_texts_stand_among_the_images_makes_a_difference() -> None:
    image, text = {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "A"}
    first, second = ([*TALK[:-1], {"role": "user", "content": c}] for c in ([image, text], [text, image]))
    assert partition(messages=first) != partition(messages=second)


def test_tools_are_the_same_in_any_order() -> None:
    assert partition(tools=[TOOL, OTHER_TOOL]) == partition(tools=[OTHER_TOOL, TOOL])


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "system", "content": "Be long."}, *TALK[1:]]},
        {"messages": [*TALK[:3], {**TALK[3], "content": "13 km"}, *TALK[4:]]},
        {"messages": [*TALK[:4], {"role": "assistant", "content": "13 km."}, ASKED]},
        {"messages": [*TALK[:-1], {**ASKED, "name": "Ann"}]},
        {
            "messages": [
                *TALK[:-1],
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            ]
        },
        {"tools": [OTHER_TOOL]},
        {"tools": []},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"temperature": 0.5},
        {"unknown": 1},
        {"metadata": {"privacy": "local"}},
        {"cache": {"namespace": "n"}},
        {"tenant": "u"},
        {"target": "y"},
    ],
)
def test_requests_that_differ_in_anything_else_are_never_compared(changes: dict[str, Any]) -> None:
    assert partition(**changes) != partition()


def test_a_partition_is_within_its_tenant_and_namespace() -> None:
    found = identity(messages=TALK, tenant="a:b", cache={"namespace": "n"})
    assert found.partition.startswith(found.prefix)
    assert found.key.startswith(found.prefix)


@pytest.mark.parametrize("last", [BODY["messages"][2], BODY["messages"][3], {"role": "user", "content": ""}])
def test_only_words_of_the_user_are_a_question(last: dict[str, Any]) -> None:
    assert identity(messages=[*BODY["messages"][:3], last]).question is None


def test_a_session_claims_an_answer_for_itself() -> None:
    assert identity().claim("a") != identity().claim("b") != identity().key


def test_half_a_surrogate_pair_is_an_error_of_the_request() -> None:
    for changes in ({"messages": [{"role": "user", "content": "\ud800"}]}, {"tenant": "\ud800"}):
        with pytest.raises(InvalidRequest):
            identity(**changes)
