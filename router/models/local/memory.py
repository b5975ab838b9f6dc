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
            while self._taken(model) + size > self._limit and (victim := self._idle(model)) is not None:
                log.info("unloading model %s to make room for %s", victim.name, model.name)
                victim.unload()
            if self._taken(model) and self._taken(model) + size > self._limit:
                raise ModelUnavailable(
                    f"There is no memory for model '{model.name}' while the other local models are busy.",
                    retry_after=1.0,
                    code="no_memory",
                )
        with self._lock:
            self._sizes.pop(model, None)
            self._sizes[model] = size

    def _taken(self, without: Unloadable) -> int:
        with self._lock:
            return sum(size for model, size in self._sizes.items() if model is not without and model.loaded)

    def _idle(self, without: Unloadable) -> Unloadable | None:
        with self._lock:
            loaded = [model for model in self._sizes if model is not without and model.loaded]
        return next((model for model in loaded if not model.busy), None)
