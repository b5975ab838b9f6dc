"""Whatever way a cloud fails, the next one answers, and where that fails as well, a model in the house."""

from __future__ import annotations

import pytest
from fixtures.faults import MATRIX, Row, break_
from fixtures.faulty_upstream import FaultyUpstream, OpenHouse, Seen, target
from fixtures.scripted_model import Scripted

from smallfirst.router.settings import LocalModelSettings

LOCAL = LocalModelSettings(name="small", kind="llama", source="file:/nowhere.gguf")
NEVER_OPEN = {"failures": 100, "least_calls": 100, "max_rest": 0.001}

# Of a stream that is broken, what was shown cannot be taken back.
ROWS = pytest.mark.parametrize(
    ("row", "stream"),
    [
        (row, stream)
        for row in MATRIX
        for stream in (False, True)
        if (row.streamed if stream else row.plain)[0] != 200
    ],
    ids=lambda value: value.name if isinstance(value, Row) else ("stream" if value else "plain"),
)


@ROWS
async def test_the_next_cloud_and_then_the_house_answers(
    open_house: OpenHouse, row: Row, stream: bool
) -> None:
    spare = FaultyUpstream()
    small = Scripted("small", words=("Paris",))
    async with spare.listening():
        rules = {"breaker": NEVER_OPEN, "timeouts": row.times}
        other = target(spare, name="spare", **rules)
        async with open_house(other, LOCAL, own={"small": small}, **rules) as house:
            break_(house.upstream, row)
            first = await house.ask(model="auto/quality", stream=stream)
            break_(spare, row)
            await house.rested()
            second = await house.ask(model="auto/quality", stream=stream)
            entries = await house.entries(2)
    assert (first.status, first.code, first.done) == (200, None, True)
    assert first.text in ("Paris is it.", "Paris is the answer.")
    assert second == Seen(200, None, "Paris")
    outcome = row.outcome[stream]
    assert [[(a.model, a.outcome) for a in entry.attempts] for entry in entries] == [
        [("big", outcome), ("spare", "ok")],
        [("big", outcome), ("spare", outcome), ("small", "ok")],
    ]
    assert [(entry.route, entry.reason_code) for entry in entries] == [
        ("cloud", "fallback"),
        ("local", "fallback"),
    ]
    # What may be billed of those that failed is in the cost.
    assert [bool(entry.attempts[0].cost_usd) for entry in entries] == [row.billed[stream]] * 2


@pytest.mark.parametrize("row", [row for row in MATRIX if row.streamed[0] == 200], ids=lambda row: row.name)
async def test_nobody_else_is_asked_once_a_part_was_shown(open_house: OpenHouse, row: Row) -> None:
    spare = FaultyUpstream()
    small = Scripted("small", words=("Paris",))
    async with (
        spare.listening(),
        open_house(target(spare, name="spare"), LOCAL, own={"small": small}, timeouts=row.times) as house,
    ):
        break_(house.upstream, row)
        seen = await house.ask(model="auto/quality", stream=True)
    assert (seen.status, seen.code, seen.text, seen.done) == (*row.streamed, False)
    assert (spare.calls, small.requests) == ([], [])
