"""How much memory local models may take together, and who gives way."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from ...errors import ModelUnavailable

log = logging.getLogger("smallfirst")


class Unloadable(Protocol):
    """A model that can be taken out of memory."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def loaded(self) -> bool:
        """Whether it is in memory."""
        ...

    @property
    def busy(self) -> bool:
        """Whether it answers something right now."""
        ...

    def unload(self) -> None:
        """Free its memory. Blocks."""
        ...


class MemoryBudget:
    """Keeps local models within a limit: who was not used for longest is unloaded first, who is busy never.

    Args:
        limit: Bytes for all of them; None for no limit.

    Attributes:
        loading: Held while a model is loaded, so that two do not count on the same room.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._sizes: dict[Unloadable, int] = {}  # in the order of their last use
        self._lock = threading.Lock()
        self.loading = threading.Lock()

    def used(self, model: Unloadable) -> None:
        """Take note that a model is used."""
        with self._lock:
            size = self._sizes.pop(model, None)
            if size is not None:
                self._sizes[model] = size

    def make_room(self, model: Unloadable, size: int) -> None:
        """Unload others until a model of `size` bytes fits. Call it while holding `loading`.

        Raises:
            ModelUnavailable: Those that would have to give way are busy.
        """
        if self._limit is not None:
            busy = sum(taken for other, taken in self._others(model) if other.busy)
            if busy and busy + size > self._limit:
                raise ModelUnavailable(
                    f"There is no memory for model '{model.name}' while the other local models are busy.",
                    retry_after=1.0,
                    code="no_memory",
                )
            while self._taken(model) + size > self._limit and (victim := self._idle(model)) is not None:
                log.info("unloading model %s to make room for %s", victim.name, model.name)
                victim.unload()
        with self._lock:
            self._sizes.pop(model, None)
            self._sizes[model] = size

    def _others(self, than: Unloadable) -> list[tuple[Unloadable, int]]:
        """Return who else is loaded, with its size, in the order of last use."""
        with self._lock:
            return [
                (model, size) for model, size in self._sizes.items() if model is not than and model.loaded
            ]

    def _taken(self, without: Unloadable) -> int:
        return sum(size for _, size in self._others(without))

    def _idle(self, without: Unloadable) -> Unloadable | None:
        return next((model for model, _ in self._others(without) if not model.busy), None)
