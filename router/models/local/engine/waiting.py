"""Who waits, and whose turn it is."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from .sequence import Sequence


class WaitingRoom:
    """Queues by group; groups take turns, so that one with many jobs does not keep the others out."""

    def __init__(self) -> None:
        self._groups: OrderedDict[str, deque[Sequence]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, sequence: Sequence, *, first: bool = False) -> None:
        """Let a sequence wait; `first` for one that was taken out of work and goes on next."""
        queue = self._groups.setdefault(sequence.job.group, deque())
        if first:
            queue.appendleft(sequence)
            self._groups.move_to_end(sequence.job.group, last=False)
        else:
            queue.append(sequence)

    def in_turn(self) -> Iterator[Sequence]:
        """Yield who waits, one of each group after the other. Do not change the room meanwhile."""
        queues = [iter(queue) for queue in self._groups.values()]
        while queues:
            going_on = []
            for queue in queues:
                if (sequence := next(queue, None)) is not None:
                    yield sequence
                    going_on.append(queue)
            queues = going_on

    def take(self, sequence: Sequence) -> None:
        """Remove one that waits no more; its group's next turn comes after the others'."""
        group = sequence.job.group
        queue = self._groups[group]
        queue.remove(sequence)
        if queue:
            self._groups.move_to_end(group)
        else:
            del self._groups[group]
