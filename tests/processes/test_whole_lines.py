"""Several processes write their logs to one pipe: lines stay whole."""

from __future__ import annotations

import io
import logging
from typing import TextIO

from smallfirst.router.settings import LogSettings
from smallfirst.router.telemetry.logs import write_logs


class Pipe(io.StringIO):
    """Notes what is written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        return super().write(text)

    def close(self) -> None:
        """Stay open: it is read afterwards."""


def test_what_is_written_at_once_are_whole_lines_that_a_pipe_takes_at_once() -> None:
    pipe: TextIO = Pipe()
    log = logging.getLogger("smallfirst.lines")
    with write_logs(LogSettings(), pipe):
        for number in range(200):
            log.warning("line %d with an ä %s", number, "x" * (number % 90))
        log.warning("a long one %s", "y" * 6000)
    assert isinstance(pipe, Pipe)
    assert len(pipe.getvalue().splitlines()) == 201
    assert all(text.endswith("\n") for text in pipe.writes)
    long = [text for text in pipe.writes if len(text.encode()) > 4096]
    assert [text.count("\n") for text in long] == [1]
