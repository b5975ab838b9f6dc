"""The door of the house: every request to a cloud model goes through it, whoever asks and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ..errors import CannotServe, RequestError
from ..models.base import Model
from ..wire import ChatRequest, Reply, ReplyStream
from .placeholders import Placeholders
from .restore import RestoredStream, restored_body


class Door:
    """A cloud model that gets placeholders for what was found in a request, and whose answers have the originals.

    It looks through the very body that is to be sent. Retries, samples, early calls, comparisons and refreshes all pass
    here; what nobody has screened, or must not leave the house, does not get through.

    Args:
        model: Behind the door.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def name(self) -> str:
        """The model's."""
        return self._model.name

    async def start(self) -> None:
        """See `Model`."""
        await self._model.start()

    async def aclose(self) -> None:
        """See `Model`."""
        await self._model.aclose()

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer in one piece; see `Model`."""
        outgoing, placeholders = _outgoing(request)
        reply = await self._model.complete(outgoing)
        if not placeholders:
            return reply
        return replace(reply, body=restored_body(reply.body, placeholders, json=_answers_json(request)))

    async def stream(self, request: ChatRequest) -> ReplyStream:
        """Start an answer; see `Model`."""
        outgoing, placeholders = _outgoing(request)
        stream = await self._model.stream(outgoing)
        return RestoredStream(stream, placeholders, json=_answers_json(request)) if placeholders else stream


def doors(models: Mapping[str, Model], cloud: Collection[str]) -> dict[str, Model]:
    """Return models, those in the cloud behind doors.

    Args:
        models: By name.
        cloud: Names of those that are not in the house.
    """
    return {name: Door(model) if name in cloud else model for name, model in models.items()}


def _outgoing(request: ChatRequest) -> tuple[ChatRequest, Placeholders]:
    screening = request.screening
    if screening is None:
        # A bug of ours must not become a leak.
        raise RequestError("An internal error occurred: the request was not screened.", code="internal_error")
    if screening.keeps_local or (screening.mode == "block" and screening.found):
        kinds = " and ".join(screening.kinds)
        raise CannotServe(
            f"The request holds {kinds}, and the policy '{screening.policy}' keeps that in the house.",
            param="messages",
            code="privacy_local_only",
        )
    if screening.mode != "redact-and-restore":
        return request, Placeholders({})
    return screening.outgoing(request)


def _answers_json(request: ChatRequest) -> bool:
    form = request.fields.response_format
    return form is not None and form.type != "text"
