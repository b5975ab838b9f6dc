"""How long a cloud call may take: each wait by its phase, and all of them together."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Literal

from ..deadline import TURNS
from ..errors import ModelTimeout
from ..settings import Timeouts

Phase = Literal["first_byte", "between_bytes", "total"]

# Loops count time in milliseconds; a timer may ring so much too early.
_RESOLUTION = 0.001


class Patience:
    """Bounds the waits of one call by `timeouts`: one wait at a time, and `total` from now on for all of them.

    One timer serves them all, and is set anew only for a wait that ends before it rings, or when it rings: nearly every
    wait is over long before its time, and costs no timer of its own. Belongs to the event loop that it is made in.

    What arrived in time is not lost because the loop was late: between the timer and the cancel the loop reads what is
    there (see `TURNS`), and a wait that is over by then, or another one with time left, goes on. The bound stays one:
    it is kept a few turns of the loop later, and a wait that begins when its time is over has no such turns.

        with patience.during("first_byte"):
            await something()

    Args:
        name: The model's, for what is said.
        timeouts: Of the model.

    Raises:
        ModelTimeout: On leaving the `with`: its time was over, and what was waited for has been cancelled.
    """

    __slots__ = (
        "_cancelling",
        "_due",
        "_end",
        "_loop",
        "_name",
        "_over",
        "_phase",
        "_rings",
        "_task",
        "_timeouts",
        "_timer",
    )

    def __init__(self, name: str, timeouts: Timeouts) -> None:
        self._name = name
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + timeouts.total
        self._timer: asyncio.Handle | None = None
        self._rings = 0.0
        # Of the wait that is on.
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._phase: Phase = "total"
        self._due = self._end
        self._over = False

    def during(self, phase: Phase) -> Patience:
        """Return what bounds the next wait, entered in the task that waits."""
        self._phase, self._due = "total", self._end
        if phase != "total":
            due = self._loop.time() + getattr(self._timeouts, phase)
            if due < self._end:
                self._phase, self._due = phase, due
        return self

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._timer is None or self._due < self._rings:
            self._set()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, where: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._over:
            return
        self._over = False
        assert task is not None
        # Somebody else may have cancelled it as well: that goes on.
        if (
            task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            seconds = getattr(self._timeouts, self._phase)
            raise ModelTimeout(
                f"Model '{self._name}' took longer than {seconds:.3g} s ('timeouts.{self._phase}')."
            ) from exc

    def end(self) -> None:
        """Let the timer go; nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = self._due
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._ring, TURNS)
        else:
            self._timer = self._loop.call_soon(self._ring, 0)

    def _ring(self, turns: int) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._due - _RESOLUTION:
            self._set()
        elif turns:
            # Still the timer that is set, to a wait that begins meanwhile.
            self._timer = self._loop.call_soon(self._ring, turns - 1)
        else:
            self._over = True
            self._task.cancel()
