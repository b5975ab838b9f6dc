"""The items of a response: messages, calls, reasoning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .parts import Part

# Reasons to finish by which an answer is not whole -> what they are called here.
CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ItemMaker:
    """Makes the items of one response, each with an id of its own.

    Args:
        response_id: Of the response.
    """

    def __init__(self, response_id: str) -> None:
        self._name = response_id.removeprefix("resp_")

    def id(self, part: Part, at: int) -> str:
        """Return the id of the item at a position."""
        prefix = {"call": "fc", "reasoning": "rs"}.get(part.kind, "msg")
        return f"{prefix}_{self._name}{at:02x}"

    def named(self, part: Part, at: int) -> Part:
        """Return a part with a call's id, where its model gave it none."""
        return part if part.id or part.kind != "call" else replace(part, id=f"call_{self._name}{at:02x}")

    def begun(self, part: Part, at: int) -> dict[str, Any]:
        """Return an item that has nothing in it yet."""
        item = {"id": self.id(part, at), "status": "in_progress"}
        if part.kind == "call":
            call = self.named(part, at)
            return item | {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": ""}
        if part.kind == "reasoning":
            return item | {"type": "reasoning", "summary": [], "content": []}
        return item | {"type": "message", "role": "assistant", "content": []}

    def done(self, part: Part, at: int) -> dict[str, Any]:
        """Return a whole item."""
        item = self.begun(part, at) | {"status": "completed"}
        if part.kind == "call":
            return item | {"arguments": part.text or "{}"}
        return item | {"content": [content(part)]}


def content(part: Part, *, empty: bool = False) -> dict[str, Any]:
    """Return what an item holds: a text, a refusal, or reasoning."""
    text = "" if empty else part.text
    if part.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    if part.kind == "refusal":
        return {"type": "refusal", "refusal": text}
    logprobs = [] if empty else logprobs_of(part.logprobs)
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def logprobs_of(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return logprobs as this wire has them: as chat completions do, but `bytes` are never missing."""
    return [
        {
            "token": entry["token"],
            "logprob": entry["logprob"],
            "bytes": entry.get("bytes") or [],
            "top_logprobs": [
                {"token": top["token"], "logprob": top["logprob"], "bytes": top.get("bytes") or []}
                for top in entry.get("top_logprobs") or ()
            ],
        }
        for entry in entries
    ]
