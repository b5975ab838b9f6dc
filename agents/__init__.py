"""smallfirst inside agent workflows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bill import BillCallback
    from .cache import SmallFirstCache
    from .embeddings import SmallFirstEmbeddings
    from .langchain import ChatSmallFirst
    from .middleware import SmallFirstMiddleware
    from .steps import TierRules, choose_tier

__all__ = [
    "BillCallback",
    "ChatSmallFirst",
    "SmallFirstCache",
    "SmallFirstEmbeddings",
    "SmallFirstMiddleware",
    "TierRules",
    "choose_tier",
]

_HOMES = {
    "BillCallback": "bill",
    "ChatSmallFirst": "langchain",
    "SmallFirstCache": "cache",
    "SmallFirstEmbeddings": "embeddings",
    "SmallFirstMiddleware": "middleware",
    "TierRules": "steps",
    "choose_tier": "steps",
}


def __getattr__(name: str) -> Any:
    # LangChain is an extra and heavy: it loads when it is asked for.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not exc.name.startswith(("langchain", "langgraph")):
            raise
        raise ModuleNotFoundError(f"{name} needs LangChain: pip install 'smallfirst[langchain]'") from exc
