"""Recalling answers: an equal request's, or that of one which surely has the same answer; and keeping them.

Both the gateway and `smallfirst eval cache` go this way.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from ..scoring.embedding import FloatArray
from ..settings import CacheSettings
from ..wire import ChatRequest
from .base import Cache, CachedReply, Found, Neighbour, Place
from .evidence import Evidence
from .key import Identity
from .rules import entry_ttl, has_calls, may_read, may_store, offers_tools, picks_label

State = Literal["bypass", "miss", "exact", "semantic"]


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a look-up came to.

    Attributes:
        state: `bypass`: it may not be answered from the cache.
        reply: The answer, of `exact` and `semantic`.
        likeness: P(same answer) of `semantic`.
        stale: Whether it is past its time, and to be asked again while it is served.
    """

    state: State
    reply: CachedReply | None = None
    likeness: float | None = None
    stale: bool = False


class Question(Protocol):
    """A text that was read once, to be compared many times."""

    @property
    def text(self) -> str:
        """As it came."""
        ...

    @property
    def vector(self) -> FloatArray:
        """Length 1, shape (256,)."""
        ...


class SameAnswer(Protocol):
    """Decides whether two questions have the same answer; see `semantic.equivalence.Equivalence`."""

    def read(self, text: str) -> Question | None:
        """Read a text; None where it cannot be compared."""
        ...

    def probability(self, asked: Any, stored: Any) -> float:
        """Return P(both have the same answer), of two that it has read itself."""
        ...

    def threshold(self, max_error: float) -> float | None:
        """Return the least probability that keeps a share of wrong ones; None where none does."""
        ...


class Keeps(Protocol):
    """Decides whether an answer keeps; see `semantic.volatility.Volatility`."""

    def keeps(self, text: str) -> bool:
        """Whether the same answer is good for everyone at any time."""
        ...


# Neighbours with a smaller cosine are not worth a comparison: of 358 recognised pairs the least was 0.57.
FARTHEST = 0.5

# A session is known to have had a call for so long at least, in seconds.
SESSION = 24 * 3600.0
# Answers of more letters are given to equal requests only: the neighbours of a request are all read.
LONGEST_TO_COMPARE = 64 * 1024

MISS, BYPASS = Recalled("miss"), Recalled("bypass")


class Asked:
    """A request, read for the cache: each part when it is first needed.

    Args:
        request: The request.
        identity: Its keys.
        session: Whose tool calls it must not get again.
        derived: Whether the session was not named but made of how the conversation begins, so that equal requests of
            different callers share it.
    """

    def __init__(
        self,
        request: ChatRequest,
        identity: Identity,
        *,
        session: str,
        derived: bool,
        equivalence: SameAnswer | None,
        volatility: Keeps,
    ) -> None:
        self.request = request
        self.identity = identity
        self.session = session
        self.derived = derived
        self._equivalence = equivalence
        self._volatility = volatility

    @cached_property
    def volatile(self) -> bool:
        """Whether an answer in words would not keep: it depends on the time, the user, or does something.

        Not where the caller asked for the cache, and not where the words are to be labelled.
        """
        text = self.identity.question
        asked_for = self.request.fields.cache is not None
        if text is None or asked_for or picks_label(self.request):
            return False
        return not self._volatility.keeps(text)

    @cached_property
    def question(self) -> Question | None:
        """What other requests of its partition are compared with; None where none may stand for it."""
        text = self.identity.question
        return None if text is None or self._equivalence is None else self._equivalence.read(text)

    @cached_property
    def place(self) -> Place | None:
        """Where it stands; None where no other request may stand for it."""
        if self.volatile or self.question is None:
            return None
        return Place(self.identity.partition, self.question.vector)


class Recall:
    """Recalls and keeps answers.

    Args:
        cache: The store.
        settings: How long, and how sure.
        equivalence: Decides whether two questions have the same answer.
        volatility: Decides whether an answer keeps.
        clock: Unix seconds.
    """

    def __init__(
        self,
        cache: Cache,
        settings: CacheSettings,
        *,
        equivalence: SameAnswer,
        volatility: Keeps,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.cache = cache
        self.evidence = Evidence(settings.max_cache_error, equivalence.threshold)
        self.damaged = 0
        self._settings = settings
        self._equivalence = equivalence
        self._volatility = volatility
        self._clock = clock

    @property
    def similar(self) -> bool:
        """Whether requests may be answered by those of others in other words."""
        return self.evidence.possible and self.cache.finds_similar

    def read(self, request: ChatRequest, *, target: str, session: str = "", derived: bool = True) -> Asked:
        """Read a request; see `Asked`.

        Args:
            request: The request.
            target: `Target.fingerprint`.
            session: Its session.
            derived: Whether the session was made of how the conversation begins.
        """
        return Asked(
            request,
            Identity.of(request, target=target),
            session=session,
            derived=derived,
            equivalence=self._equivalence if self.evidence.possible else None,
            volatility=self._volatility,
        )

    def may_ask(self, asked: Asked) -> bool:
        """Whether the request may be answered from the cache at all, as far as one can tell without looking."""
        # Calls are a function of the request; only where there are none can the answer's words be out of date.
        return may_read(asked.request) and (offers_tools(asked.request) or not asked.volatile)

    async def look_up(
        self, asked: Asked, *, usable: Callable[[CachedReply], bool] = lambda reply: True
    ) -> Recalled:
        """Find the answer to a request.

        Args:
            asked: The request.
            usable: Whether an answer may still be given.
        """
        if not self.may_ask(asked):
            return BYPASS
        begun = time.monotonic()
        least = self.evidence.threshold(asked.request.tenant, asked.identity.prefix)
        find_place = (lambda: asked.place) if least is not None else None
        found = await self.cache.find(asked.identity.key, find_place)
        if found.value is not None:
            left = self._settings.timeout - (time.monotonic() - begun)
            return await self._exact(asked, found.value, usable, left)
        return MISS if least is None else self._similar(asked, found, least, usable)

    def keep(
        self,
        asked: Asked,
        body: dict[str, Any],
        *,
        model: str,
        tier: str,
        cost_usd: float | None,
        task: str | None = None,
    ) -> tuple[CachedReply, Coroutine[Any, Any, None]] | None:
        """Return an answer as it is kept, with the work of keeping it; None where it may not be kept.

        Args:
            asked: The request.
            body: OpenAI's `chat.completion`.
            model: Who answered.
            tier: Its tier.
            cost_usd: What it cost.
            task: What kind of task it answers.
        """
        calls = has_calls(body)
        if not may_store(asked.request, body) or (asked.volatile and not calls):
            return None
        now, ttl = self._clock(), entry_ttl(asked.request, self._settings.ttl)
        place = None if calls else asked.place
        question = asked.question.text if place is not None and asked.question is not None else ""
        reply = CachedReply(
            body, model, tier, cost_usd, now, asked=question, fresh_until=now + ttl, task=task
        )
        return reply, self._keep(asked, reply, ttl, place)

    async def shared(self, asked: Asked, found: Recalled, made_for: str | None) -> Recalled:
        """Return what a request gets of the answer to an equal one at the same time.

        Args:
            asked: The request.
            found: The answer.
            made_for: The session for which it was made, where that was named.
        """
        assert found.reply is not None
        if not has_calls(found.reply.body):
            return BYPASS if asked.volatile else found
        # What is asked at once is no loop; only a session that was named can be told to have had the call.
        if asked.derived or (
            asked.session != made_for and await self._is_first(asked, self._settings.timeout)
        ):
            return found
        return MISS

    async def _keep(self, asked: Asked, reply: CachedReply, ttl: float, place: Place | None) -> None:
        key, value = asked.identity.key, reply.encode()
        place = place if len(value) <= LONGEST_TO_COMPARE else None
        await self.cache.set(key, value, ttl=ttl + self._settings.stale, place=place)
        if has_calls(reply.body) and not asked.derived:
            await self._claim(asked)

    async def _exact(
        self, asked: Asked, value: bytes, usable: Callable[[CachedReply], bool], seconds: float
    ) -> Recalled:
        reply = CachedReply.decode(value)
        if reply is None:
            self.damaged += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(seconds, 0.0)):
                    await self.cache.remove(asked.identity.key)
            return MISS
        if not usable(reply):
            return MISS
        if has_calls(reply.body):
            if not await self._is_first(asked, seconds):
                return MISS
        elif asked.volatile:
            return BYPASS
        return Recalled("exact", reply, stale=self._is_stale(reply))

    def _similar(
        self, asked: Asked, found: Found, least: float, usable: Callable[[CachedReply], bool]
    ) -> Recalled:
        # The first that is sure enough is taken, the nearest first.
        for neighbour in found.nearest:
            if neighbour.similarity < FARTHEST:
                break
            reply = self._stands_for(asked, neighbour)
            if reply is None or not usable(reply):
                continue
            question = self._equivalence.read(reply.asked)
            if question is None or asked.question is None:
                continue
            likeness = self._equivalence.probability(asked.question, question)
            if likeness >= least:
                return Recalled("semantic", reply, likeness)
        return MISS

    def _stands_for(self, asked: Asked, neighbour: Neighbour) -> CachedReply | None:
        """Return a neighbour's answer if it may be given to others: words, and not past its time."""
        reply = CachedReply.decode(neighbour.value)
        if reply is None or has_calls(reply.body) or self._is_stale(reply):
            return None
        return reply

    def _is_stale(self, reply: CachedReply) -> bool:
        return reply.fresh_until is not None and self._clock() >= reply.fresh_until

    async def _is_first(self, asked: Asked, seconds: float) -> bool:
        """Whether the session has not had these tool calls yet; False where that cannot be told in time."""
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                return await self._claim(asked)
        except TimeoutError:
            return False

    async def _claim(self, asked: Asked) -> bool:
        ttl = max(SESSION, entry_ttl(asked.request, self._settings.ttl) + self._settings.stale)
        return await self.cache.claim(asked.identity.claim(asked.session), ttl=ttl)
