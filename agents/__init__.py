"""smallfirst inside agent workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .langchain import ChatSmallFirst

__all__ = ["ChatSmallFirst"]


def __getattr__(name: str) -> Any:
    # LangChain is an extra and heavy: it loads when it is asked for.
    if name != "ChatSmallFirst":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .langchain import ChatSmallFirst
    except ModuleNotFoundError as exc:
        if exc.name is None or not exc.name.startswith("langchain"):
            raise
        raise ModuleNotFoundError(
            "ChatSmallFirst needs LangChain: pip install 'smallfirst[langchain]'"
        ) from exc
    return ChatSmallFirst
