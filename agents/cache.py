"""LangChain's cache of answers on the store behind smallfirst's cache: in this process, or Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from langchain_core.caches import BaseCache
from langchain_core.messages import message_to_dict, messages_from_dict
from langchain_core.outputs import ChatGeneration, Generation

from smallfirst.router.cache import key_prefix, open_cache
from smallfirst.router.cache.base import Cache
from smallfirst.router.settings import CacheSettings
from smallfirst.router.sync import LoopThread


class SmallFirstCache(BaseCache):
    """Keeps answers of LangChain models, each tenant's apart, for a limited time.

    `ChatSmallFirst` does not need it: the gateway has a cache of its own, that knows of policies, privacy and who may
    see what, and whose hits are in the ledger. This one is for the other models of a program:
    `set_llm_cache(SmallFirstCache(CacheSettings(url=…)))`, or a model's `cache=`. A store that is down is a miss, never
    an error.

    Args:
        settings: Where the store is, how large, and for how many seconds it keeps an answer.
        tenant: Whose answers; others' are never seen.
        namespace: Keeps answers of the same tenant apart.
        store: Replaces the one of the settings.
    """

    def __init__(
        self,
        settings: CacheSettings | None = None,
        *,
        tenant: str = "default",
        namespace: str = "langchain",
        store: Cache | None = None,
    ) -> None:
        self._settings = settings or CacheSettings()
        self._tenant, self._namespace = tenant, namespace
        self._store = store or open_cache(self._settings)
        # The store belongs to one loop; LangChain calls from anywhere.
        self._thread = LoopThread()

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        """Return what was kept; None where there is nothing."""
        return self._thread.run(self._get(prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep answers."""
        self._thread.run(self._set(prompt, llm_string, return_val))

    def clear(self, **_: Any) -> None:
        """Forget this tenant's and namespace's answers."""
        self._thread.run(self._clear())

    async def alookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        """Return what was kept; None where there is nothing."""
        return await self._thread.arun(self._get(prompt, llm_string))

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep answers."""
        await self._thread.arun(self._set(prompt, llm_string, return_val))

    async def aclear(self, **_: Any) -> None:
        """Forget this tenant's and namespace's answers."""
        await self._thread.arun(self._clear())

    def close(self) -> None:
        """Free connections; safe to call twice."""
        self._thread.close(None if self._store is None else self._store.aclose)

    def __enter__(self) -> SmallFirstCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _key(self, prompt: str, llm_string: str) -> str:
        both = msgspec.json.encode([prompt, llm_string])
        digest = hashlib.blake2b(both, digest_size=20).hexdigest()
        return f"{key_prefix(self._tenant, self._namespace)}{digest}"

    async def _get(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        if self._store is None:
            return None
        found = await self._store.find(self._key(prompt, llm_string))
        return None if found.value is None else _decode(found.value)

    async def _set(self, prompt: str, llm_string: str, answers: Sequence[Generation]) -> None:
        value = _encode(answers)
        if self._store is not None and value is not None:
            await self._store.set(self._key(prompt, llm_string), value, ttl=self._settings.ttl)

    async def _clear(self) -> None:
        if self._store is not None:
            await self._store.delete(self._tenant, self._namespace)


def _encode(answers: Sequence[Generation]) -> bytes | None:
    """Return answers as JSON; None where one has something in it that is none: it is not kept."""
    try:
        return msgspec.json.encode([_plain(one) for one in answers])
    except TypeError:
        return None


def _plain(one: Generation) -> dict[str, Any]:
    message = message_to_dict(one.message) if isinstance(one, ChatGeneration) else None
    return {"text": str(one.text), "info": one.generation_info, "message": message}


def _decode(stored: bytes) -> Sequence[Generation] | None:
    try:
        return [_generation(one) for one in msgspec.json.decode(stored, type=list[dict[str, Any]])]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, ValueError):
        # Another version's, or damaged: a miss.
        return None


def _generation(one: dict[str, Any]) -> Generation:
    if one["message"] is None:
        return Generation(text=one["text"], generation_info=one["info"])
    (message,) = messages_from_dict([one["message"]])
    return ChatGeneration(message=message, generation_info=one["info"])
