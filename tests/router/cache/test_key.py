"""What makes two requests the same."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.cache import cache_key
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


def key(tenant: str = "t", target: str = "x", headers: dict[str, str] | None = None, **changes: Any) -> str:
    return cache_key(ChatRequest.parse({**BODY, **changes}, tenant=tenant, headers=headers), target=target)


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
        {"metadata": {"team": "x"}},
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
    assert cache_key(ChatRequest.parse(turned, tenant="t"), target="x") == key()


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
    assert key(messages=[{"role": "user", "content": text}]).startswith("smallfirst:1:t::")
