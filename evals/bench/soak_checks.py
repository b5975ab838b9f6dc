"""Holds three books of a soak against each other: what clients saw, what the upstream did, and what the ledger has.

Of one thing the upstream cannot know what it did: a reset takes from the gateway what it has not read yet, and an
answer that is whole to the upstream may be lost so. Hence a call counts as answered or as failed, whichever the ledger
has, where

- its answer was whole less than `MOMENT` seconds before the model's port was closed, and
- the ledger has the attempt as one whose connection was lost, and not as late, say.

Such calls are counted, in `Books.torn`. All others were answered if the upstream says so.
"""

from __future__ import annotations

import bisect
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from .soak_clients import SeenLine
from .soak_faults import HARMLESS
from .soak_upstream import CallLine

T = TypeVar("T")

# Defects that are told in words; all are counted.
TOLD = 20
# Clocks of three processes on one machine, and a line that is written a little later.
_SLACK = 0.5
# Seconds between an answer and a reset in which the gateway may not have read the answer.
MOMENT = 0.25
# Codes of connections that were lost, before an answer or in the middle of it.
_LOST = ("upstream_unreachable", "stream_broken")
# Codes of refusals while all models that may answer rest.
_RESTING = ("model_resting", "no_model_available")


class AttemptLine(msgspec.Struct, frozen=True):
    """What is read of an attempt in the ledger."""

    model: str
    outcome: str
    retries: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    error_code: str | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class EntryLine:
    """What is read of an entry of the ledger."""

    request_id: str
    started_at: float
    duration_ms: float
    status: str
    error_code: str | None
    http_status: int
    cost_usd: float | None
    attempts: Sequence[AttemptLine]


_COLUMNS = tuple(EntryLine.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the soak's gateway was told.

    Attributes:
        prices: US dollars per million tokens, in and out, by model.
        bound: Seconds within which every request must end.
        limited: The same of requests that limit their own time.
        rest: Seconds before a refusal within which a model must have failed that rests.
        failures: That make a model rest.
    """

    prices: Mapping[str, tuple[float, float]]
    bound: float
    limited: float
    rest: float
    failures: int


@dataclass(slots=True)
class Books:
    """What was counted.

    Attributes:
        defects: By kind.
        told: The first of them, in words.
        entries: Of these requests; `recorded`: all that the ledger has.
        injected: Failures of the upstream's by kind; harmless ones, too.
        torn: Answers that were lost since the port was closed right after them.
        kinds: Requests by kind.
        booked_usd, used_usd: Of answers with counts: by the ledger, and by what the upstream says.
        estimated_usd: Of what nobody counted.
    """

    requests: int = 0
    entries: int = 0
    recorded: int = 0
    answered: int = 0
    cached: int = 0
    left: int = 0
    left_early: int = 0
    invalid: int = 0
    shed: int = 0
    errors: int = 0
    hit: int = 0
    recovered: int = 0
    resting: int = 0
    torn: int = 0
    slowest: float = 0.0
    compared: int = 0
    estimated: int = 0
    booked_usd: float = 0.0
    used_usd: float = 0.0
    estimated_usd: float = 0.0
    downs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)


def audit(seen: Path, calls: Path, ledger: Path, scratch: Path, rules: Rules) -> Books:
    """Hold the books against each other.

    Args:
        seen: Lines of clients.
        calls: Lines of the upstream.
        ledger: The gateway's, closed.
        scratch: A file that is made.
        rules: What the gateway was told.
    """
    with sqlite3.connect(scratch) as joined:
        joined.execute("PRAGMA synchronous = OFF")
        joined.execute("CREATE TABLE calls (identity TEXT, line BLOB)")
        downs: list[CallLine] = []
        joined.executemany("INSERT INTO calls VALUES (?, ?)", _named(calls, downs))
        joined.execute("CREATE INDEX by_call ON calls (identity)")
        joined.execute("ATTACH ? AS l", (str(ledger),))
        columns = ", ".join(("session", *_COLUMNS))
        joined.execute(f"CREATE TABLE entries AS SELECT {columns} FROM l.entries WHERE kind = 'request'")  # noqa: S608
        joined.execute("CREATE INDEX by_session ON entries (session)")
        auditor = _Auditor(joined, downs, rules)
        for line in _lines(seen, SeenLine):
            auditor.judge(line)
        auditor.close()
    return auditor.books


def _named(calls: Path, downs: list[CallLine]) -> Iterator[tuple[str, bytes]]:
    with calls.open("rb") as lines:
        for raw in lines:
            line = msgspec.json.decode(raw, type=CallLine)
            if line.identity:
                yield line.identity, raw
            else:
                downs.append(line)


def _lines(path: Path, kind: type[T]) -> Iterator[T]:
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as lines:
        for raw in lines:
            yield decoder.decode(raw)


class _Auditor:
    """Judges request after request."""

    def __init__(self, joined: sqlite3.Connection, downs: Sequence[CallLine], rules: Rules) -> None:
        self._joined = joined
        self._rules = rules
        self._downs = downs
        self._failed_at: dict[str, list[float]] = defaultdict(list)
        self.books = Books(downs=len(downs))
        for (raw,) in joined.execute("SELECT line FROM calls"):
            line = msgspec.json.decode(raw, type=CallLine)
            if line.fault is not None:
                self.books.injected[line.fault] += 1
            if _fails(line):
                self._failed_at[line.model].append(line.at)
        for times in self._failed_at.values():
            times.sort()

    def judge(self, seen: SeenLine) -> None:
        """Look at one request."""
        books = self.books
        books.requests += 1
        books.kinds[seen.kind] += 1
        books.statuses[f"{seen.status} {seen.code}" if seen.code else str(seen.status)] += 1
        entries, calls = self._entries(seen.identity), self._calls(seen.identity)
        books.entries += len(entries)
        books.slowest = max(books.slowest, seen.seconds)
        limited = int(seen.identity[-9:]) % 2
        if seen.hung or seen.seconds > (self._rules.limited if limited else self._rules.bound):
            self._defect("hung", seen, f"{seen.seconds:.1f} s")
        if seen.foreign:
            self._defect("foreign", seen, "got the answer to another request")
        if len(entries) > 1:
            self._defect("double", seen, f"has {len(entries)} entries")
        elif seen.kind == "invalid":
            self._invalid(seen, entries, calls)
        elif entries:
            self._money(seen, entries[0], calls)
            self._outcome(seen, entries[0], calls)
        else:
            self._without_entry(seen, calls)

    def close(self) -> None:
        """See that the ledger has nothing besides."""
        asked = "SELECT count(*), count(DISTINCT request_id) FROM entries"
        self.books.recorded, different = self._joined.execute(asked).fetchone()
        if self.books.recorded != different:
            self.books.defects["double"] += self.books.recorded - different

    # --- one request ------------------------------------------------------------------------------------------

    def _invalid(self, seen: SeenLine, entries: Sequence[EntryLine], calls: Sequence[CallLine]) -> None:
        self.books.invalid += 1
        if _was_shed(seen) and not calls:
            self.books.shed += 1
            return
        if not 400 <= seen.status < 500 or calls:
            self._defect("outcome", seen, f"was wrong, and got {seen.status} and {len(calls)} calls")
        if entries and (entries[0].status != "error" or entries[0].http_status != seen.status):
            self._defect("outcome", seen, f"was wrong, and the ledger has {entries[0].status}")

    def _without_entry(self, seen: SeenLine, calls: Sequence[CallLine]) -> None:
        if seen.left and not calls and not seen.status:
            self.books.left_early += 1
        elif _was_shed(seen) and not calls:
            self.books.shed += 1
        else:
            self._defect("lost", seen, f"{seen.status} {seen.code}, {len(calls)} calls, and no entry")

    def _outcome(self, seen: SeenLine, entry: EntryLine, calls: Sequence[CallLine]) -> None:
        books = self.books
        failed = any(_fails(call) for call in calls) or any(one.error_code for one in entry.attempts)
        hit = failed or entry.error_code in _RESTING
        if seen.left:
            books.left += 1
            return
        books.hit += hit
        if seen.whole:
            books.answered += 1
            books.cached += seen.cached
            books.recovered += hit
            if entry.status != "ok" or seen.request_id != entry.request_id:
                self._defect("outcome", seen, f"was answered, and the ledger has {entry.status}")
            return
        books.errors += 1
        same = entry.status == "error" and entry.error_code == seen.code
        if not same or seen.status not in (200, entry.http_status):
            said = f"{entry.status} {entry.http_status} {entry.error_code}"
            self._defect("outcome", seen, f"got {seen.status} {seen.code}, and the ledger has {said}")
        why = self._unexplained(entry, calls)
        if why is not None:
            self._defect("unexplained", seen, f"{seen.status} {seen.code}: {why}")

    def _unexplained(self, entry: EntryLine, calls: Sequence[CallLine]) -> str | None:
        """Return what of a failure was not injected; None: all was."""
        called = [one for one in entry.attempts if one.error_code != "model_resting"]
        if not called and entry.error_code in _RESTING:
            self.books.resting += 1
            models = {one.model for one in entry.attempts} or set(self._rules.prices)
            for model in models:
                if not self._may_rest(model, entry.started_at + entry.duration_ms / 1000):
                    return f"{model} rested without having failed"
            return None
        if not called:
            return "no model was asked"
        for one in called:
            own = [call for call in calls if call.model == one.model]
            answered = [call for call in own if call.held and not _fails(call) and not self._torn(call, one)]
            if answered:
                since = entry.started_at + entry.duration_ms / 1000 - answered[-1].ended
                return f"{one.model} had answered {since:.3f} s before"
            failed = sum(_fails(call) for call in own)
            if failed <= one.retries and not self._was_down(one.model, entry):
                return f"{one.model} was asked {one.retries + 1} times and failed {failed} times"
        return None

    def _may_rest(self, model: str, at: float) -> bool:
        times = self._failed_at[model]
        before = bisect.bisect_right(times, at) - bisect.bisect_left(times, at - self._rules.rest)
        down = any(
            one.model == model and one.at - _SLACK <= at <= one.until + self._rules.rest
            for one in self._downs
        )
        return down or before >= self._rules.failures

    def _was_down(self, model: str, entry: EntryLine) -> bool:
        begun, ended = entry.started_at - _SLACK, entry.started_at + entry.duration_ms / 1000 + _SLACK
        return any(one.model == model and one.at <= ended and begun <= one.until for one in self._downs)

    def _torn(self, call: CallLine, one: AttemptLine) -> bool:
        """Whether a whole answer may have been lost to a reset, as the ledger says; see the module. After a retry the
        entry tells the last try's end alone."""
        return (one.error_code in _LOST or one.retries > 0) and self._reset_after(call)

    def _reset_after(self, call: CallLine) -> bool:
        """Whether the model's port was closed right after an answer of it was whole."""
        return any(
            one.model == call.model and call.ended <= one.at <= call.ended + MOMENT for one in self._downs
        )

    # --- money ------------------------------------------------------------------------------------------------

    def _money(self, seen: SeenLine, entry: EntryLine, calls: Sequence[CallLine]) -> None:
        books = self.books
        costs = [one.cost_usd or 0.0 for one in entry.attempts]
        if abs((entry.cost_usd or 0.0) - math.fsum(costs)) > 1e-12:
            self._defect("money", seen, f"costs {entry.cost_usd}, its attempts {math.fsum(costs)}")
        good = [call for call in calls if call.whole and not _fails(call)]
        for one in entry.attempts:
            if one.estimated:
                books.estimated += 1
                books.estimated_usd += one.cost_usd or 0.0
            elif one.outcome == "ok" and one.model in self._rules.prices:  # a local model is no upstream's
                self._compare(seen, one, [call for call in good if call.model == one.model])
        booked = {one.model for one in entry.attempts if one.outcome in ("ok", "cancelled", "unused")}
        for call in good:
            if not call.held or seen.left or call.model in booked:
                continue
            if any(one.model == call.model and self._torn(call, one) for one in entry.attempts):
                books.torn += 1
            else:
                self._defect("money", seen, f"{call.model} answered, and that is not booked")

    def _compare(self, seen: SeenLine, one: AttemptLine, good: Sequence[CallLine]) -> None:
        if len(good) == 2 and one.retries and self._reset_after(good[0]):
            # The first answer was lost, and the model asked again.
            self.books.torn += 1
            good = good[1:]
        if len(good) != 1:
            self._defect("money", seen, f"{one.model} is booked as answered, {len(good)} answers were sent")
            return
        told = (good[0].input_tokens, good[0].output_tokens)
        each = self._rules.prices[one.model]
        used = (told[0] * each[0] + told[1] * each[1]) / 1e6
        books, cost = self.books, one.cost_usd or 0.0
        books.compared += 1
        books.booked_usd += cost
        books.used_usd += used
        if told != (one.input_tokens, one.output_tokens) or abs(cost - used) > 1e-12:
            booked = f"{one.input_tokens}+{one.output_tokens} tokens, {cost} $"
            self._defect("money", seen, f"{one.model} told {told[0]}+{told[1]} tokens, booked are {booked}")

    # --- books ------------------------------------------------------------------------------------------------

    def _entries(self, identity: str) -> list[EntryLine]:
        asked = f"SELECT {', '.join(_COLUMNS)} FROM entries WHERE session = ?"  # noqa: S608
        rows = self._joined.execute(asked, (identity,)).fetchall()
        attempts = list[AttemptLine]
        found = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        return [
            EntryLine(**one | {"attempts": msgspec.json.decode(one["attempts"], type=attempts)})
            for one in found
        ]

    def _calls(self, identity: str) -> list[CallLine]:
        rows = self._joined.execute("SELECT line FROM calls WHERE identity = ?", (identity,))
        return [msgspec.json.decode(raw, type=CallLine) for (raw,) in rows]

    def _defect(self, kind: str, seen: SeenLine, words: str) -> None:
        self.books.defects[kind] += 1
        if len(self.books.told) < TOLD:
            self.books.told.append(f"{kind}: {seen.identity} ({seen.kind}) {words}")


def _was_shed(seen: SeenLine) -> bool:
    return seen.status == 503 and seen.code == "overloaded"


def _fails(call: CallLine) -> bool:
    return call.fault is not None and call.fault not in HARMLESS
