"""What a `chat.completion` must have to be one."""

from __future__ import annotations

from typing import Annotated, Any, TypeGuard

import msgspec


class _Called(msgspec.Struct):
    function: dict[str, Any] | None = None


class _Message(msgspec.Struct):
    tool_calls: list[_Called] | None = None


class _Answered(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    """What an answer must have to be passed on, counted and kept; values in it may be odd."""

    choices: Annotated[list[_Answered], msgspec.Meta(min_length=1)]


def is_completion(body: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a decoded reply has what everything behind a model relies on."""
    try:
        msgspec.convert(body, _Completion)
    except msgspec.ValidationError:
        return False
    return True
