"""`smallfirst`, as the command line has it, that also tells how many tasks it has.

    python -m smallfirst.evals.bench.soak_serve COUNTS --config smallfirst.yaml serve

On SIGUSR2 it appends the number of tasks of its event loop to the file COUNTS, as a line.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from smallfirst.router.cli import main as smallfirst


def main() -> None:
    """Run the command."""
    counts = Path(sys.argv.pop(1))

    def tell(*_: object) -> None:
        with counts.open("a", encoding="utf-8") as file:
            file.write(f"{_tasks()}\n")

    signal.signal(signal.SIGUSR2, tell)
    smallfirst()


def _tasks() -> int:
    """Return the number of tasks of the loop that runs in this thread; -1: none does."""
    try:
        return len(asyncio.all_tasks(asyncio.get_running_loop()))
    except RuntimeError:
        return -1


if __name__ == "__main__":
    main()
