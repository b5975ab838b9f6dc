"""Server-sent events, read as they arrive: bytes in, the `data` of whole events out."""

from __future__ import annotations

import re
from collections.abc import Iterator

# An event longer than this is an attack or a bug, not an answer.
MAX_EVENT_BYTES = 8 * 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event has more than `MAX_EVENT_BYTES`."""


class SSEParser:
    """An incremental parser of the event stream format (WHATWG HTML, section 9.2).

    Only `data` matters to chat completions; comments, `event`, `id` and `retry` are skipped. The result does not depend
    on where the bytes were cut.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of every event that `chunk` completes.

        Raises:
            EventTooLong: The bytes since the last event are too many.
        """
        buffer = self._rest + chunk
        if not self._begun:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self._rest = buffer
                return
            buffer = buffer.removeprefix(_BOM)
            self._begun = True
        start = 0
        for match in _LINE_END.finditer(buffer):
            # A lone CR at the very end may be the first half of CRLF: wait for what follows.
            if match.end() == len(buffer) and match[0] == b"\r":
                break
            event = self._line(buffer[start : match.start()])
            start = match.end()
            if event is not None:
                yield event
        self._rest = buffer[start:]
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event has more than {MAX_EVENT_BYTES} bytes")

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            event = b"\n".join(self._data)
            self._data, self._size = [], 0
            return event or None
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value)
        return None
