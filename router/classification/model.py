"""A trained classifier as a model: it answers requests for one of its labels, in well under a millisecond."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ..confidence import Confidence
from ..errors import InvalidRequest
from ..settings import ClassifierSettings
from ..wire import ChatFields, ChatRequest, Reply, ReplyStream, Usage
from .choice import LabelChoice, label_choice, ranked, text_of
from .head import LabelHead


class ClassifierModel:
    """A `LabelHead` behind OpenAI's chat completions.

    Args:
        settings: Its name and file, which is read at once: it is small, and routing asks for its certainty.

    Raises:
        SettingsError: The file is missing or damaged.
    """

    def __init__(self, settings: ClassifierSettings) -> None:
        self._settings = settings
        self._head = LabelHead.load(settings.path)

    @property
    def name(self) -> str:
        """The classifier's name as configured."""
        return self._settings.name

    @property
    def labels(self) -> tuple[str, ...]:
        """What it answers with."""
        return self._head.labels

    async def start(self) -> None:
        """Nothing to load any more."""

    async def aclose(self) -> None:
        """Nothing to free."""

    def certainty(self, fields: ChatFields) -> float | None:
        """Return P(its answer is right), or None where the request is not for its labels."""
        choice = label_choice(fields)
        if choice is None or set(choice.labels) != set(self._head.labels):
            return None
        return float(self._head.predict_proba([text_of(fields)]).max())

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer in one piece; see `Model`."""
        begun = time.thread_time()
        choice, shares = self._shares(request)
        if request.meter is not None:
            request.meter.add(time.thread_time() - begun)
        label = next(iter(shares))
        usage = Usage()  # no tokens: nothing was generated
        message = {"role": "assistant", "content": choice.answer(label)}
        body = self._base("chat.completion") | {
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": usage.to_wire(),
            "classification": {"method": "classifier", "probabilities": shares},
        }
        return Reply(body, usage, confidence=_confidence(shares))

    async def stream(self, request: ChatRequest) -> ReplyStream:
        """Answer as a stream; see `Model`."""
        reply = await self.complete(request)
        return ReplyStream(self._chunks(reply))

    async def _chunks(self, reply: Reply) -> AsyncIterator[bytes]:
        base = self._base("chat.completion.chunk")
        message = reply.body["choices"][0]["message"]
        for delta, finish in ((message, None), ({}, "stop")):
            choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield msgspec.json.encode(base | {"choices": [choice]})
        yield msgspec.json.encode(base | {"choices": [], "usage": reply.body["usage"]})

    def _shares(self, request: ChatRequest) -> tuple[LabelChoice, dict[str, float]]:
        choice: LabelChoice | None = label_choice(request.fields)
        if choice is None or set(choice.labels) != set(self._head.labels):
            raise InvalidRequest(
                f"Invalid value for 'response_format': '{self.name}' is a classifier; it answers one of its "
                f"{len(self._head.labels)} labels, given as an 'enum' of strings.",
                param="response_format",
                code="unsupported_schema",
            )
        found = self._head.predict_proba([text_of(request.fields)])[0].tolist()
        by_label = dict(zip(self._head.labels, found, strict=True))
        return choice, ranked(choice, [by_label[label] for label in choice.labels])

    def _base(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.name,
            "system_fingerprint": None,
        }


def _confidence(shares: dict[str, float]) -> Confidence:
    best, second, *_ = (math.log(max(share, 1e-9)) for share in shares.values())
    return Confidence(best, best, best - second, 1)
