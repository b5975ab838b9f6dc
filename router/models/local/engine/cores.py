"""How many threads are worth having."""

from __future__ import annotations

import os
from pathlib import Path


def physical_cores() -> int:
    """Return the physical cores that this process may use: two threads on one core only get in each other's way."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = min(allowed, _quota() or allowed)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return allowed
    cores: set[tuple[str, str]] = set()
    package = ""
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "physical id":
            package = value
        elif name == "core id":
            cores.add((package, value))
    return max(1, min(len(cores) or allowed, allowed))


def _quota() -> int | None:
    """Return a container's limit of processor time, in whole cores; None where there is none."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(1, int(limit) // int(period))
