"""Processes on chosen cores: started, watched through `/proc`, set aside while others are measured, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")

_GRACE = 10.0


class BenchError(Exception):
    """The measurement cannot go on: a process ended, or answers are wrong. Seen by whoever runs the benchmark."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores are for whom; the same one where there is only one."""

    gateway: int
    others: int

    @classmethod
    def found(cls) -> Cores:
        """Return the first two cores that this process may use.

        Raises:
            BenchError: This system pins no processes to cores (it is not Linux).
        """
        if not hasattr(os, "sched_getaffinity") or not Path("/proc/self/stat").exists():
            raise BenchError("Processes are pinned to cores and watched through /proc: this needs Linux.")
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1] if len(usable) > 1 else usable[0])


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this thread, and what it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A started server with all its children.

    Args:
        argv: The command.
        core: The only one that it may use.
        log: Where its output goes; None: its first line on standard output is read with `first_line`.
        environ: Its whole environment.
    """

    def __init__(
        self, argv: Sequence[str], *, core: int, log: Path | None, environ: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        self.started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            output = subprocess.PIPE if log is None else stack.enter_context(log.open("wb"))
            stack.enter_context(on_core(core))
            # A session of its own: its children are found, and signalled, by it.
            self._popen = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if log is None else output,
                env=None if environ is None else dict(environ),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self._popen.pid

    def first_line(self) -> str:
        """Return the first line that it prints.

        Raises:
            BenchError: It ended instead.
        """
        assert self._popen.stdout is not None
        line: bytes = self._popen.stdout.readline()
        if not line:
            raise BenchError(f"a helper process ended with {self._popen.wait()} at its start")
        return line.decode().strip()

    def check(self) -> None:
        """See that it runs.

        Raises:
            BenchError: It ended; says what it last wrote.
        """
        code = self._popen.poll()
        if code is not None:
            tail = ""
            if self._log is not None:
                tail = self._log.read_text(errors="replace")[-400:].strip().replace("\n", " | ")
            raise BenchError(f"it ended with {code}: {tail}")

    def cpu_seconds(self) -> float:
        """Return the processor time that it and its children took, in steps of a clock tick (10 ms as a rule)."""
        return sum(ticks for ticks, _ in self._family()) / TICKS

    def rss_bytes(self) -> int:
        """Return the resident memory of it and its children."""
        return sum(pages for _, pages in self._family()) * os.sysconf("SC_PAGE_SIZE")

    def pause(self) -> None:
        """Set it aside: it takes no processor time until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it: asked first, then by force."""
        self.resume()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_GRACE)
        # Its children, too, should they not have followed.
        self._signal(signal.SIGKILL)
        self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        # Once it has ended and nothing of its session is left, its number may be another's.
        if self._popen.returncode is None or any(self._family()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _family(self) -> Iterator[tuple[int, int]]:
        """Yield (clock ticks, pages) of every process in its session."""
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                stat = (folder / "stat").read_text()
            except OSError:  # it ended meanwhile
                continue
            # The name, in parentheses, may have blanks in it. See proc_pid_stat(5): fields are counted from 3 on.
            fields = stat.rpartition(")")[2].split()
            if int(fields[3]) == self.pid:
                yield int(fields[11]) + int(fields[12]), int(fields[21])


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")
