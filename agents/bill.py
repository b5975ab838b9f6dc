"""A bill of what a LangChain program asked: a callback that collects the receipts of its messages."""

from __future__ import annotations

import threading
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from smallfirst.router.answer import Receipt
from smallfirst.router.money.bill import Bill


class BillCallback(BaseCallbackHandler):
    """Writes every answer of `ChatSmallFirst` on a bill: `model.invoke(…, config={"callbacks": [callback]})`.

    An answer that LangChain's own cache gives again is on it once: it was asked for once.

    Args:
        bill: To write on; default: a new one.
    """

    def __init__(self, bill: Bill | None = None) -> None:
        self.bill = bill if bill is not None else Bill()
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Take the receipt of an answer; several answers to one request have the same."""
        for generation in response.generations:
            first = generation[0] if generation else None
            if isinstance(first, ChatGeneration) and isinstance(first.message, AIMessage):
                receipt = receipt_of(first.message)
                if receipt is not None and self._is_new(receipt.request_id):
                    self.bill.add(receipt)

    def _is_new(self, request_id: str) -> bool:
        with self._lock:
            if request_id in self._seen:
                return False
            self._seen.add(request_id)
            return True


def receipt_of(message: AIMessage) -> Receipt | None:
    """Return the receipt of a message; None where another model than `ChatSmallFirst` wrote it."""
    metadata = message.response_metadata
    if metadata.get("model_provider") != "smallfirst" or not metadata.get("route"):
        return None
    return Receipt(
        request_id=metadata["request_id"],
        route=metadata["route"],
        model=metadata["model_name"],
        reason=metadata["reason"],
        score=metadata["score"],
        cache=metadata["cache"],
        cost_usd=metadata["cost_usd"],
        saved_usd=metadata["saved_usd"],
        overhead_ms=metadata["overhead_ms"],
        attempts=metadata["attempts"],
        # Messages that were kept may be older than it.
        hedged=metadata.get("hedged", False),
    )
