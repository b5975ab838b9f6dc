"""Server-sent events, read as they arrive: bytes in, the `data` of whole events out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

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
        # The beginning of a line that has not ended. It is not searched again, so that a long line takes no more time
        # than many short ones: an upstream could else keep the whole gateway busy for seconds by one event.
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """Return the data of every event that `chunk` completes; they must be read before the next chunk is fed.

        Raises:
            EventTooLong: On reading them: the bytes since the last event are too many.
        """
        whole = None if self._rest or self._data else _whole_events(chunk)
        if whole is None:
            return self._lines(chunk)
        self._begun = True
        return whole

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if not self._begun:
            chunk = self._taken() + chunk
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._rest += chunk
                return
            chunk = chunk.removeprefix(_BOM)
            self._begun = True
        if self._rest.endswith(b"\r"):
            # What follows says which line end it is.
            del self._rest[-1]
            chunk = b"\r" + chunk
        start = 0
        for match in _LINE_END.finditer(chunk):
            # A lone CR at the very end may be the first half of CRLF: wait for what follows.
            if match.end() == len(chunk) and match[0] == b"\r":
                break
            line = chunk[start : match.start()]
            start = match.end()
            event = self._line(self._taken() + line if self._rest else line)
            if event is not None:
                yield event
        self._rest += chunk[start:]
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event has more than {MAX_EVENT_BYTES} bytes")

    def _taken(self) -> bytes:
        rest = bytes(self._rest)
        self._rest.clear()
        return rest

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


def _whole_events(chunk: bytes) -> list[bytes] | None:
    """Return the data of events where a chunk is nothing but whole ones of a single line each, else None.

    So nearly all servers send them, and it takes a quarter of the time.
    """
    if not chunk.startswith(b"data: ") or not chunk.endswith(b"\n\n") or b"\r" in chunk:
        return None
    events = chunk[6:-2].split(b"\n\ndata: ")
    # As many lines as make them up: there is no other one.
    if chunk.count(b"\n") != 2 * len(events) or b"" in events or len(chunk) > MAX_EVENT_BYTES:
        return None
    return events
