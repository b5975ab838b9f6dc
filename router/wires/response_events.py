"""Streams of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..answer import Receipt
from ..errors import RequestError
from ..wire import Usage
from .base import event, receipt_field
from .parts import Part, PartReader, Step
from .response_items import CUT, ItemMaker, content, logprobs_of

if TYPE_CHECKING:
    from .responses import ResponsesCall

_DELTA = {
    "text": "response.output_text.delta",
    "refusal": "response.refusal.delta",
    "reasoning": "response.reasoning_text.delta",
    "call": "response.function_call_arguments.delta",
}
_DONE = {kind: name.removesuffix("delta") + "done" for kind, name in _DELTA.items()}
# What the whole text is called in the event that ends it.
_WHOLE = {"text": "text", "refusal": "refusal", "reasoning": "text", "call": "arguments"}


class ResponseEvents:
    """Translates one stream; see `Events`."""

    def __init__(self, call: ResponsesCall, receipt: Receipt) -> None:
        self._call = call
        self._body = call.begun(receipt)
        self._items = ItemMaker(self._body["id"])
        self._reader = PartReader()
        self._sent = 0
        self._closed = 0
        self._cut = False
        self._last: list[Step] = []
        self._ended: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk."""
        return self._start() + self._steps(self._reader.feed(chunk))

    async def settle(self, usage: Usage) -> None:
        """Keep the response, so that the next request finds it."""
        await self._call.keep(self._whole(usage), self._reader.parts)

    def end(self, usage: Usage, receipt: Receipt | None = None) -> bytes:
        """Return the last events."""
        body = self._whole(usage)
        self._cut = self._reader.finish_reason in CUT
        last = self._start() + self._steps(self._last)
        # In the response, not beside it: the openai client's helper keeps nothing of an event that it does not know.
        return last + self._event(f"response.{body['status']}", response=body | receipt_field(receipt))

    def _whole(self, usage: Usage) -> dict[str, Any]:
        if self._ended is None:
            self._last = self._reader.finish()
            parts, finish = self._reader.parts, self._reader.finish_reason
            self._ended = self._call.ended(self._body, parts, finish, usage)
        return self._ended

    def error(self, exc: RequestError) -> bytes:
        """Return the events that say that the response failed: as its state, and as what clients raise."""
        error = self._call.error(exc)["error"]
        known = "rate_limit_exceeded" if exc.status == 429 else "server_error"
        # Only what was said to the end; a call that was cut must not look like one.
        output = [self._items.done(part, at) for at, part in enumerate(self._reader.parts[: self._closed])]
        failed = self._body | {
            "status": "failed",
            "error": {"code": known, "message": error["message"]},
            "output": output,
        }
        flat = {"code": error.get("code"), "message": error["message"], "param": error.get("param")}
        return (
            self._start()
            + self._event("response.failed", response=failed)
            + self._event("error", **flat, error=error)
        )

    def _start(self) -> bytes:
        if self._sent:
            return b""
        return self._event("response.created", response=self._body) + self._event(
            "response.in_progress", response=self._body
        )

    def _steps(self, steps: Sequence[Step]) -> bytes:
        return b"".join([self._step(step) for step in steps])

    def _step(self, step: Step) -> bytes:
        part = step.part
        at = self._closed
        if step.does == "open":
            return self._open(part, at)
        if step.does == "close":
            return self._close(part, at)
        logprobs = {"logprobs": logprobs_of(step.logprobs or [])} if part.kind == "text" else {}
        return self._event(_DELTA[part.kind], **self._where(part, at), delta=step.text, **logprobs)

    def _open(self, part: Part, at: int) -> bytes:
        added = self._event("response.output_item.added", output_index=at, item=self._items.begun(part, at))
        if part.kind == "call":
            return added
        where = self._where(part, at)
        return added + self._event("response.content_part.added", **where, part=content(part, empty=True))

    def _close(self, part: Part, at: int) -> bytes:
        self._closed += 1
        item = self._items.done(part, at)
        if self._cut and part is self._reader.parts[-1]:
            item["status"] = "incomplete"
        where = self._where(part, at)
        whole: dict[str, Any] = {_WHOLE[part.kind]: part.text}
        if part.kind == "call":
            whole = {"arguments": item["arguments"], "name": part.name}
        elif part.kind == "text":
            whole["logprobs"] = logprobs_of(part.logprobs)
        events = self._event(_DONE[part.kind], **where, **whole)
        if part.kind != "call":
            events += self._event("response.content_part.done", **where, part=item["content"][0])
        return events + self._event("response.output_item.done", output_index=at, item=item)

    def _where(self, part: Part, at: int) -> dict[str, Any]:
        where: dict[str, Any] = {"item_id": self._items.id(part, at), "output_index": at}
        return where if part.kind == "call" else where | {"content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._sent = self._sent, self._sent + 1
        return event({"type": kind, "sequence_number": number, **fields})
