"""Ask a model and check its answer: kept, or turned down for the next model's.

Words are streamed once so many tokens are known to be sure; JSON, tool calls and answers that several samples must
agree on are held to their end. Nothing of an answer that is turned down is ever shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec

from smallfirst.policies import Attempt

from .cache import ChunkCollector, replay
from .classification.choice import label_choice
from .comparison import agree, can_compare
from .confidence import Confidence
from .errors import RequestError, StreamBroken
from .models.base import Model
from .money.billing import NOTHING
from .money.usage import total
from .validity import flaw, may_call, must_call, wants_json
from .wire import ChatRequest, Reply, ReplyStream, Usage

# Words are held back until so many tokens are known to be sure; after that they are shown and there is no way back.
HELD_TOKENS = 16
# Further samples are drawn so freely where the caller does not say how freely.
SAMPLE_TEMPERATURE = 0.7

Cause = Literal["unsure", "disagreed", "invalid", "cut"]
# Told the confidence of what there is of an answer, again and again while it is made and not shown.
Watch = Callable[[Confidence | None], None]

T = TypeVar("T")


class Ask(msgspec.Struct, frozen=True):
    """One model asked once, and what its answer is held to.

    Attributes:
        usage_of: What a reply took, estimated where its model does not say.
        watch: None where nobody wants to know.
        followed: Whether another model may be asked after this one.
    """

    model: Model
    request: ChatRequest
    attempt: Attempt
    usage_of: Callable[[Reply], Usage]
    watch: Watch | None = None
    followed: bool = False


class Kept(msgspec.Struct, Generic[T], frozen=True):
    """An answer, and what samples beside it took that nobody sees."""

    result: T
    besides: Usage = NOTHING


class Rejected(Exception):
    """A model answered, and its answer is not good enough.

    Args:
        cause: Why, as a stable word.
        words: Why, to be put after the model's name.
        answer: The answer, where all of it is there and it is of use should nobody else be able to answer.
        usage: What that took, where it is known.
        tokens: How many tokens were counted of an answer that was not finished.

    Attributes:
        retries, billed_tries: Before the answer began; as a `Reply`'s.
    """

    retries = billed_tries = 0

    def __init__(
        self,
        cause: Cause,
        words: str,
        *,
        answer: Kept[Any] | None = None,
        usage: Usage | None = None,
        tokens: int = 0,
    ) -> None:
        super().__init__()
        self.cause = cause
        self.words = words
        self.answer = answer
        self.usage = usage
        self.tokens = tokens


class Form(Protocol[T]):
    """How an answer is given: in one piece or as a stream."""

    async def ask(self, ask: Ask) -> Kept[T]:
        """Ask a model and check its answer.

        Raises:
            Rejected: It is not good enough; nothing of it runs any more.
            RequestError: The model failed before there was anything to show.
        """
        ...

    async def stop(self, result: T) -> None:
        """Stop an answer that nobody wants."""
        ...


class Whole:
    """Answers in one piece."""

    async def ask(self, ask: Ask) -> Kept[Reply]:
        """See `Form`."""
        if ask.attempt.checked:
            return await _examined(ask)
        reply = await ask.model.complete(ask.request)
        with _after_tries(reply):
            _require_room(reply, ask)
        return Kept(reply)

    async def stop(self, result: Reply) -> None:
        """Nothing runs any more."""


class Streamed:
    """Answers as a stream."""

    async def ask(self, ask: Ask) -> Kept[ReplyStream]:
        """See `Form`."""
        if ask.attempt.samples > 1:
            try:
                return _streamed(
                    await _examined(msgspec.structs.replace(ask, request=_in_one_piece(ask.request)))
                )
            except Rejected as exc:
                exc.answer = _streamed(exc.answer) if exc.answer is not None else None
                raise
        stream = await ask.model.stream(ask.request)
        return Kept(await hold(stream, ask) if ask.attempt.checked else stream)

    async def stop(self, result: ReplyStream) -> None:
        """Stop the model."""
        await result.aclose()


def _in_one_piece(request: ChatRequest) -> ChatRequest:
    body = {key: value for key, value in request.body.items() if key != "stream_options"}
    return replace(
        request,
        body=body | {"stream": False},
        fields=msgspec.structs.replace(request.fields, stream=False, stream_options=None),
    )


def _streamed(kept: Kept[Reply]) -> Kept[ReplyStream]:
    reply = kept.result
    stream = ReplyStream(replay(reply.body), retries=reply.retries, billed_tries=reply.billed_tries)
    return Kept(stream, kept.besides)


# --- whole answers ------------------------------------------------------------------------------------------------


async def _examined(ask: Ask) -> Kept[Reply]:
    """Ask once; if that answer is good enough, as often as the attempt says, and return what the majority says."""
    reply = await _reply(ask)
    with _after_tries(reply):
        return await _majority(reply, ask)


async def _majority(reply: Reply, ask: Ask) -> Kept[Reply]:
    """Check a first answer, and ask for the others where it is good enough."""
    _require_room(reply, ask)
    _require_valid(reply, ask)
    if _is_unsure(reply.confidence, ask.attempt):
        raise _unsure(reply.confidence, ask, answer=Kept(reply), usage=ask.usage_of(reply))
    if ask.attempt.samples == 1 or not _may_agree(reply):
        return Kept(reply)
    replies = [reply, *await _further_samples(ask)]
    usages = [ask.usage_of(one) for one in replies]
    chosen, alike = _likeliest(replies, ask)
    if 2 * alike <= ask.attempt.samples:
        words = f"disagreed with itself ({alike} of {ask.attempt.samples} answers alike)"
        raise Rejected("disagreed", words, answer=Kept(reply, total(*usages[1:])), usage=total(*usages))
    return Kept(replies[chosen], total(*usages[:chosen], *usages[chosen + 1 :]))


@contextmanager
def _after_tries(answer: Reply | ReplyStream) -> Iterator[None]:
    """Note how often an answer was asked for before it was turned down."""
    try:
        yield
    except Rejected as exc:
        exc.retries, exc.billed_tries = answer.retries, answer.billed_tries
        raise


def _likeliest(replies: Sequence[Reply], ask: Ask) -> tuple[int, int]:
    """Return which answer most others agree with, the first of several, and how many give it.

    Self-consistency (Wang et al., 2023), over what answers mean: calls and JSON as values, short texts without case and
    punctuation. An answer that is not valid agrees with no other.
    """
    messages = [None if _flaw(reply, ask) else _message(reply) for reply in replies]

    def alike(message: Mapping[str, Any] | None) -> int:
        if message is None:
            return 0
        return sum(message is one or agree(message, one) is True for one in messages if one is not None)

    counts = [alike(message) for message in messages]
    most = max(counts)
    return counts.index(most), most


def _may_agree(reply: Reply) -> bool:
    """Whether further samples can say something of an answer."""
    # Labels whose probabilities were computed would come out the same every time; who asks for several answers wants
    # them to differ.
    several = len(reply.body["choices"]) > 1
    return not several and "classification" not in reply.body and can_compare(_message(reply))


def _message(reply: Reply) -> Mapping[str, Any]:
    return reply.body["choices"][0].get("message") or {}


async def _reply(ask: Ask) -> Reply:
    """Ask once, as a stream where somebody watches. Labels come in one step, and their probabilities in no stream."""
    if ask.watch is None or label_choice(ask.request.fields) is not None:
        return await ask.model.complete(ask.request)
    stream = await ask.model.stream(ask.request)
    collector = ChunkCollector()
    try:
        async for chunk in stream:
            collector.add(chunk)
            ask.watch(stream.confidence)
    except BaseException:
        await stream.aclose()
        raise
    body = collector.body()
    if body is None:
        raise StreamBroken(f"The answer of model '{ask.model.name}' ended before it was complete.")
    usage = Usage.of_reply(body)
    return Reply(body, usage, stream.retries, stream.confidence, stream.cut, stream.billed_tries)


async def _further_samples(ask: Ask) -> list[Reply]:
    """Ask again, at once; a sample that fails is left out and so agrees with no other."""
    temperature = ask.request.fields.temperature or SAMPLE_TEMPERATURE
    first = ask.request.fields.seed or 0

    async def sample(at: int) -> Reply | None:
        varied = ChatRequest.of(ask.request, {"temperature": temperature, "seed": first + at}, stream=False)
        try:
            return await ask.model.complete(varied)
        except RequestError:
            return None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sample(at)) for at in range(1, ask.attempt.samples)]
    return [reply for task in tasks if (reply := task.result()) is not None]


def _flaw(reply: Reply, ask: Ask) -> str | None:
    return flaw(reply.body, ask.request.fields) if ask.attempt.valid else None


def _require_valid(reply: Reply, ask: Ask) -> None:
    found = _flaw(reply, ask)
    if found is not None:
        raise Rejected("invalid", f"gave no valid answer ({found})", usage=ask.usage_of(reply))


def _require_room(reply: Reply, ask: Ask) -> None:
    """Turn an answer down that its model had no room for, where another one may have it."""
    if reply.cut and ask.followed:
        words = "had no room for the whole answer"
        raise Rejected("cut", words, answer=Kept(reply), usage=ask.usage_of(reply))


def _is_unsure(confidence: Confidence | None, attempt: Attempt) -> bool:
    """Whether an answer falls short; one whose model tells no confidence does so only where `sure` is asked for."""
    if confidence is None:
        return attempt.sure
    return confidence.value < attempt.min_confidence


def _unsure(
    confidence: Confidence | None, ask: Ask, *, answer: Kept[Any] | None, usage: Usage | None
) -> Rejected:
    if confidence is None:
        return Rejected("unsure", "told no confidence", answer=answer, usage=usage)
    words = f"was unsure ({confidence.value:.2f}, under {ask.attempt.min_confidence:.2f})"
    return Rejected("unsure", words, answer=answer, usage=usage, tokens=confidence.tokens)


# --- streams ------------------------------------------------------------------------------------------------------


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_decode = msgspec.json.Decoder(_Chunk).decode


async def hold(stream: ReplyStream, ask: Ask) -> ReplyStream:
    """Hold a stream back until it is known whether its answer is good enough.

    Args:
        stream: The model's.
        ask: What was asked, and what the answer is held to.

    Returns:
        The stream from its first chunk on.

    Raises:
        Rejected: The answer is not good enough; the stream is closed.
        RequestError: The stream failed while it was held.
    """
    fields, attempt = ask.request.fields, ask.attempt
    by_confidence = attempt.sure or (attempt.min_confidence > 0 and stream.tells_confidence)
    if not by_confidence and not (attempt.valid and (wants_json(fields) or may_call(fields))):
        return stream
    # A risk budget was calibrated on the confidence of whole answers: its first tokens' would not do.
    whole = attempt.sure or wants_json(fields) or (attempt.valid and must_call(fields))
    held: list[bytes] = []
    calling, ended = False, True
    chunks = aiter(stream)
    try:
        async for chunk in chunks:
            held.append(chunk)
            if ask.watch is not None:
                ask.watch(stream.confidence)
            if whole or calling:
                continue
            deltas = [choice.delta for choice in _decode(chunk).choices]
            calling = any(delta.tool_calls for delta in deltas)
            known = stream.confidence
            if by_confidence:
                enough = known is not None and known.tokens >= HELD_TOKENS
            else:
                enough = any(delta.content for delta in deltas)
            if enough and not calling:
                ended = False
                break
        with _after_tries(stream):
            return _judged(stream, ask, _Resumed(stream, held, None if ended else chunks))
    except BaseException:
        await stream.aclose()
        raise


def _judged(stream: ReplyStream, ask: Ask, resumed: _Resumed) -> ReplyStream:
    """Return a held stream if its answer is good enough so far."""
    usage = None
    if resumed.ended:
        reply = resumed.reply()
        if reply is None:
            raise StreamBroken(f"The answer of model '{ask.model.name}' ended before it was complete.")
        try:
            _require_room(reply, ask)
        except Rejected as exc:
            exc.answer = Kept(resumed)
            raise
        _require_valid(reply, ask)
        usage = ask.usage_of(reply)
    if _is_unsure(stream.confidence, ask.attempt):
        answer = Kept(resumed) if resumed.ended else None
        raise _unsure(stream.confidence, ask, answer=answer, usage=usage)
    return resumed


class _Resumed(ReplyStream):
    """A stream whose first chunks were read already. A class and not a generator: closing it must close the stream.

    Args:
        stream: The model's.
        held: What was read.
        rest: What follows; None where that was all.
    """

    def __init__(self, stream: ReplyStream, held: list[bytes], rest: AsyncIterator[bytes] | None) -> None:
        super().__init__(self, retries=stream.retries, billed_tries=stream.billed_tries)
        self._stream = stream
        self._held = held[::-1]
        self._rest = rest
        self.confidence = stream.confidence

    @property
    def ended(self) -> bool:
        """Whether all of it was read."""
        return self._rest is None

    def reply(self) -> Reply | None:
        """Return what was read as one answer; None where that is not whole."""
        collector = ChunkCollector()
        for chunk in reversed(self._held):
            collector.add(chunk)
        body = collector.body()
        if body is None:
            return None
        usage, cut = Usage.of_reply(body), self._stream.cut
        return Reply(body, usage, self.retries, self.confidence, cut, self.billed_tries)

    @property
    def ready(self) -> bool:
        """Whether it is known that the next chunk is there already."""
        return bool(self._held) or (self._rest is not None and self._stream.ready)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._held:
            return self._held.pop()
        if self._rest is None:
            raise StopAsyncIteration
        chunk = await anext(self._rest)
        self.confidence = self._stream.confidence
        return chunk

    async def aclose(self) -> None:
        """Stop the model."""
        self._held.clear()
        await self._stream.aclose()
