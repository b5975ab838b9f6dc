"""The gateway: small model first, escalate when it must.

>>> from smallfirst.router import Gateway
>>> async with Gateway() as gateway:                                         # doctest: +SKIP
...     answer = await gateway.complete("What is the capital of France?")
...     print(answer.text, answer.receipt.route, answer.receipt.cost_usd)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answer import Answer, AnswerStream, Receipt
    from .gateway import Gateway
    from .money.bill import Bill
    from .remote.gateway import RemoteGateway
    from .settings import Settings
    from .sync import SyncGateway
    from .wire import ChatRequest

__all__ = [
    "Answer",
    "AnswerStream",
    "Bill",
    "ChatRequest",
    "Gateway",
    "Receipt",
    "RemoteGateway",
    "Settings",
    "SyncGateway",
]

_HOMES = {
    "Answer": "answer",
    "AnswerStream": "answer",
    "Bill": "money.bill",
    "ChatRequest": "wire",
    "Gateway": "gateway",
    "Receipt": "answer",
    "RemoteGateway": "remote",
    "Settings": "settings",
    "SyncGateway": "sync",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command line and the settings need none of the heavy rooms.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
