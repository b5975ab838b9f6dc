"""Sessions, labels and privacy as a request gives them."""

from typing import Any

import pytest

from smallfirst.router.errors import InvalidRequest
from smallfirst.router.hints import Hints, read_hints
from smallfirst.router.wire import ChatRequest

USER = {"role": "user", "content": "Hi"}


def request(headers: dict[str, str] | None = None, **fields: Any) -> ChatRequest:
    return ChatRequest.parse({"messages": [USER], **fields}, headers=headers)


def test_labels_come_from_metadata() -> None:
    hints = read_hints(request(metadata={"agent": "triage", "step": 3, "session": "s1", "tags": ["a", "b"]}))
    assert hints == Hints(session="s1", agent="triage", step="3", tags=("a", "b"))


def test_the_first_named_session_wins() -> None:
    fields: dict[str, Any] = {
        "metadata": {"session": "m"},
        "prompt_cache_key": "p",
        "previous_response_id": "r",
        "user": "u",
    }
    assert read_hints(request({"x-session-id": "h"}, **fields)).session == "h"
    for name in ("metadata", "prompt_cache_key", "previous_response_id", "user"):
        expected = {"metadata": "m", "prompt_cache_key": "p", "previous_response_id": "r", "user": "u"}[name]
        assert read_hints(request(**fields)).session == expected
        del fields[name]


def test_a_growing_conversation_keeps_its_session() -> None:
    first = request()
    later = request(
        messages=[USER, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]
    )
    other = request(messages=[{"role": "user", "content": "Something else"}])
    assert read_hints(first).session == read_hints(later).session != read_hints(other).session


def test_the_same_words_of_two_tenants_are_two_sessions() -> None:
    assert read_hints(request().with_tenant("a")).session != read_hints(request().with_tenant("b")).session


@pytest.mark.parametrize(
    ("header", "metadata", "expected"),
    [(None, None, "any"), ("local", None, "local"), (None, "local", "local"), ("any", "local", "local")],
)
def test_the_stricter_privacy_wins(header: str | None, metadata: str | None, expected: str) -> None:
    headers = {"x-smallfirst-privacy": header} if header else {}
    fields: dict[str, Any] = {"metadata": {"privacy": metadata}} if metadata else {}
    assert read_hints(request(headers, **fields)).privacy == expected


def test_a_misspelt_privacy_header_is_refused_rather_than_ignored() -> None:
    with pytest.raises(InvalidRequest, match="x-smallfirst-privacy"):
        read_hints(request({"x-smallfirst-privacy": "locl"}))
