"""Logs of a server: one line an event on standard error, as text or JSON. No prompt, answer, key or header is in one.

The library logs through `logging` and configures nothing; `smallfirst serve` calls `write_logs`. Loggers:
`smallfirst` (models), `smallfirst.server`, `smallfirst.drift`, and two with one line each a request:
`smallfirst.request` (what was asked of the gateway: route, model, tokens, cost) and `smallfirst.access` (HTTP).
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import msgspec

from ..ledger import Entry
from ..settings import LogSettings
from .labels import code_label

# Lines that wait for a slow reader of standard error; more are dropped and counted: a request never waits for its log.
MOST_WAITING = 10_000
# How long the end waits for the last lines to be written.
LAST_SECONDS = 5.0
# How long a line waits for others, to be written with them.
GATHERED_SECONDS = 0.02
# Bytes that Linux writes to a pipe without those of another process in between.
_WHOLE = 4096

# What a record of the standard library has of its own; the rest came by `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

requests = logging.getLogger("smallfirst.request")
accesses = logging.getLogger("smallfirst.access")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `message`, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = _traceback(record)
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """One line for people: time, level, logger, message, then `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        # What is wrong with a settings file may be several lines.
        message = "\\n".join(_message(record).splitlines())
        said = [_utc(record.created), record.levelname.lower(), record.name, message]
        said += [f"{name}={_shown(value)}" for name, value in _extra(record).items()]
        line = " ".join(said)
        return f"{line}\n{_traceback(record)}" if record.exc_info else line


def request_ended(entry: Entry) -> None:
    """Log what became of a request, from its ledger entry. Labels that a caller is free to choose stay out."""
    if not requests.isEnabledFor(logging.INFO):
        return
    fields = {
        "request_id": entry.request_id,
        "kind": entry.kind,
        "status": entry.status,
        "http_status": entry.http_status,
        "route": entry.route,
        "model": entry.model,
        "policy": entry.policy,
        "reason_code": code_label_of(entry),
        "cache": entry.cache,
        "attempts": len(entry.attempts),
        "stream": entry.stream,
        "duration_ms": round(entry.duration_ms, 3),
        "overhead_ms": round(entry.overhead_ms, 3),
        "ttft_ms": None if entry.ttft_ms is None else round(entry.ttft_ms, 3),
        "input_tokens": entry.input_tokens,
        "output_tokens": entry.output_tokens,
        "cost_usd": entry.cost_usd,
        "error_code": code_label(entry.error_code) if entry.status == "error" else None,
        "trace_id": entry.trace_id,
    }
    _say(
        requests,
        logging.INFO,
        "request",
        {name: value for name, value in fields.items() if value is not None},
    )


def code_label_of(entry: Entry) -> str:
    """Return why an entry was routed so; where that is an upstream's error code, a word of ours."""
    failed = entry.status == "error" and entry.reason_code == entry.error_code
    return code_label(entry.reason_code) if failed else entry.reason_code


def accessed(method: str, path: str, status: int, *, seconds: float, request_id: str | None) -> None:
    """Log one HTTP request. Probes and scrapes are for debugging.

    Args:
        method: Of HTTP.
        path: Of the table of operations, without what a caller put into it.
        status: Of the response.
        seconds: Until its end.
        request_id: Of the gateway's request, where there was one.
    """
    level = logging.DEBUG if path.startswith(("/health", "/metrics")) else logging.INFO
    if accesses.isEnabledFor(level):
        fields = {"method": method, "path": path, "status": status, "duration_ms": round(seconds * 1000, 3)}
        _say(
            accesses, level, "access", fields if request_id is None else {**fields, "request_id": request_id}
        )


# What every record of ours has. As where `logging.logThreads` and the like are off, nobody is told which thread it was:
# to look that up, with the process and the line of ours, takes longer than all the rest.
_USUAL = vars(logging.LogRecord("", logging.INFO, "", 0, "", (), None)) | {
    "levelname": "INFO",
    "process": None,
    "processName": None,
    "thread": None,
    "threadName": None,
}


def _say(logger: logging.Logger, level: int, message: str, fields: dict[str, object]) -> None:
    """Log as `logger.log` does, faster."""
    if level != logging.INFO or logging.getLogRecordFactory() is not logging.LogRecord:
        record = logger.makeRecord(logger.name, level, "", 0, message, (), None, extra=fields)
    else:
        now = time.time()
        record = logging.LogRecord.__new__(logging.LogRecord)
        record.__dict__ = _USUAL | {"name": logger.name, "msg": message, "created": now} | fields
    logger.handle(record)


@contextmanager
def write_logs(settings: LogSettings, stream: TextIO) -> Iterator[None]:
    """Write what is logged to a stream, in a thread of its own, until the block ends: ours from the level that is set
    on, other packages' warnings and errors.
    """
    writer = _Writer(stream)
    writer.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    hand_over = _HandOver()
    listener = _Writing(hand_over, writer)
    everything, ours = logging.getLogger(), logging.getLogger("smallfirst")
    before = everything.level, ours.level
    everything.addHandler(hand_over)
    everything.setLevel(logging.WARNING)
    set_level(settings)
    listener.start()
    try:
        yield
    finally:
        everything.removeHandler(hand_over)
        everything.setLevel(before[0])
        ours.setLevel(before[1])
        listener.stop()
        if hand_over.dropped:
            writer.handle(_dropped(hand_over.dropped))
        writer.close()


def set_level(settings: LogSettings) -> None:
    """Log from another level on, where `write_logs` writes; else the level is not ours to set."""
    if any(isinstance(handler, _HandOver) for handler in logging.getLogger().handlers):
        logging.getLogger("smallfirst").setLevel(settings.level.upper())


class _HandOver(logging.Handler):
    """Hands records to the writing thread as they are (values of ours do not change later, and formatting is left to
    that thread), and drops what finds no room."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: deque[logging.LogRecord] = deque()
        self.arrived = threading.Event()
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; never waits."""
        if len(self.waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        self.waiting.append(record)
        if not self.arrived.is_set():
            self.arrived.set()


class _Writer(logging.StreamHandler[TextIO]):
    """Writes several records at once."""

    def emit_all(self, records: Iterable[logging.LogRecord]) -> None:
        """Write lines; where one cannot be made, the others are written."""
        lines = []
        for record in records:
            try:
                lines.append(self.format(record) + self.terminator)
            except Exception:  # as every handler does: a line that cannot be made stops nothing
                self.handleError(record)
        try:
            for some in _together(lines):
                self.stream.write(some)
                self.flush()
        except (OSError, ValueError):  # it was closed
            self.handleError(_dropped(len(lines)))


def _together(lines: Iterable[str]) -> Iterator[str]:
    """Put lines together, so many that they go into a pipe as one: other processes write there, too (`PIPE_BUF`)."""
    some, size = "", 0
    for line in lines:
        length = len(line.encode(errors="backslashreplace"))
        if some and size + length > _WHOLE:
            yield some
            some, size = "", 0
        some += line
        size += length
    if some:
        yield some


class _Writing:
    """Writes in a thread what was handed over: what came within `GATHERED_SECONDS` with one call, as each wakes a
    thread and takes Python's lock from requests. At the end a reader that is stuck is waited for no longer than
    `LAST_SECONDS`."""

    def __init__(self, handed: _HandOver, writer: _Writer) -> None:
        self._handed = handed
        self._writer = writer
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write, name="smallfirst-log", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._ending.set()
        self._handed.arrived.set()
        self._thread.join(LAST_SECONDS)

    def _write(self) -> None:
        waiting, arrived = self._handed.waiting, self._handed.arrived
        while waiting or not self._ending.is_set():
            arrived.wait()
            self._ending.wait(GATHERED_SECONDS)
            arrived.clear()
            count = len(waiting)
            # They take up room until they are written.
            self._writer.emit_all([waiting[at] for at in range(count)])
            for _ in range(count):
                waiting.popleft()


def _dropped(count: int) -> logging.LogRecord:
    fields = {
        "name": "smallfirst",
        "levelno": logging.WARNING,
        "levelname": "WARNING",
        "created": time.time(),
    }
    return logging.makeLogRecord({**fields, "msg": "lines were dropped", "dropped": count})


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    fields = vars(record).copy()
    for name in _OWN:
        fields.pop(name, None)
    return fields


def _utc(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=4)  # the same one for many lines
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def _shown(value: Any) -> str:
    text = str(value)
    return msgspec.json.encode(text).decode() if " " in text or not text.isprintable() else text


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    # asyncio quotes the failed task with its exception, and that may quote an upstream, which may quote a prompt.
    return message.partition("\n")[0] if record.name == "asyncio" else message


def _traceback(record: logging.LogRecord) -> str:
    """Return where an exception came from and its type, without its message, which may quote a request."""
    assert record.exc_info
    kind, _, at = record.exc_info
    return "".join([*traceback.format_tb(at), "" if kind is None else kind.__name__])
