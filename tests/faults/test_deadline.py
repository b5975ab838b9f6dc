"""`x-request-timeout`: a caller says how long a request may take, and every step keeps to what is left of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from fixtures.faulty_upstream import Call, FaultyUpstream, OpenHouse, Seen, chunk, healthy, target
from fixtures.scripted_model import Scripted

from smallfirst.policies import load_preset
from smallfirst.router.settings import LocalModelSettings

LONG = {"connect": 5.0, "first_byte": 30.0, "between_bytes": 30.0, "total": 60.0}
USER = {"role": "user", "content": "Hi"}


async def hangs(call: Call) -> bool:
    await asyncio.sleep(60)
    return False


async def hangs_in_the_stream(call: Call) -> bool:
    await call.begin_stream()
    await call.event(chunk("Paris"))
    return await hangs(call)


async def fails(call: Call) -> bool:
    return await call.json({"error": {"message": "oh", "type": "t", "code": "oh"}}, 500)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_the_time_is_over_for_the_whole_request(open_house: OpenHouse, stream: bool) -> None:
    async with open_house(timeouts=LONG, breaker={"failures": 1}) as house:
        house.upstream.fault = hangs
        seen = await house.ask(stream=stream, headers={"x-request-timeout": "0.2"})
        assert (seen.status, seen.code) == (504, "deadline_exceeded")
        # It was the caller who had no time: the model is as good as before.
        assert house.gateway.health.available("big")
        house.upstream.fault = healthy
        assert (await house.ask()).status == 200
        late, _ = await house.entries(2)
    assert (late.status, late.error_code, late.http_status) == ("error", "deadline_exceeded", 504)
    assert [attempt.outcome for attempt in late.attempts] == ["timeout"]
    assert late.cost_usd is not None
    assert late.cost_usd > 0


async def test_a_stream_that_has_begun_ends_with_an_error_event(open_house: OpenHouse) -> None:
    async with open_house(timeouts=LONG) as house:
        house.upstream.fault = hangs_in_the_stream
        seen = await house.ask(stream=True, headers={"x-request-timeout": "0.3"})
        assert seen == Seen(200, "deadline_exceeded", "Paris", done=False)
        house.upstream.fault = healthy
        assert (await house.ask()).status == 200
        late, _ = await house.entries(2)
    assert (late.status, late.error_code) == ("error", "deadline_exceeded")


async def test_what_is_left_is_sent_on(open_house: OpenHouse) -> None:
    async with open_house() as house:
        await house.ask(headers={"x-request-timeout": "5"})
        await house.ask()
    told, untold = house.upstream.calls
    assert 0 < float(told.headers["x-request-timeout"]) <= 5
    assert "x-request-timeout" not in untold.headers


async def test_each_retry_is_told_that_less_is_left_and_none_begins_too_late(open_house: OpenHouse) -> None:
    retries = {"max": 10, "base_delay": 0.1, "max_delay": 5.0}
    async with open_house(timeouts=LONG, retries=retries) as house:

        async def asks_to_wait(call: Call) -> bool:
            error = {"error": {"message": "busy", "type": "t", "code": "busy"}}
            return await call.json(error, 429, retry_after="0.3")

        house.upstream.fault = asks_to_wait
        seen = await house.ask(headers={"x-request-timeout": "1"})
        # The upstream's own words, at once: waiting for the end of the time would help nobody.
        assert (seen.status, seen.code) == (429, "busy")
        (entry,) = await house.entries(1)
    left = [float(call.headers["x-request-timeout"]) for call in house.upstream.calls]
    assert 1 <= len(left) <= 4
    assert left == sorted(left, reverse=True)
    assert sum(attempt.retries for attempt in entry.attempts) == len(left) - 1


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", ""])
async def test_a_time_that_cannot_be_read_is_refused(open_house: OpenHouse, value: str) -> None:
    async with open_house() as house:
        response = await house.client.post(
            "/chat/completions",
            json={"model": "big", "messages": [USER]},
            headers={"x-request-timeout": value},
        )
        assert house.upstream.calls == []
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-request-timeout"


@pytest.mark.parametrize(
    ("path", "body", "type_"),
    [
        ("/messages", {"max_tokens": 9}, ("error", "timeout_error")),
        ("/responses", {"input": "Hi"}, (None, "upstream_error")),
        ("/moderations", {"input": "Hi"}, (None, "upstream_error")),
        ("/completions", {"prompt": ["Hi", "Ho"]}, (None, "upstream_error")),
        ("/classify", {"text": ["Hi", "Ho"], "labels": ["yes", "no"]}, (None, "upstream_error")),
    ],
)
async def test_every_wire_says_it_in_its_own_form(
    open_house: OpenHouse, path: str, body: dict[str, object], type_: tuple[str | None, str]
) -> None:
    asked = {} if body.keys() & {"input", "prompt", "text"} else {"messages": [USER]}
    filled = {"model": "big", **asked, **body}
    async with open_house(timeouts=LONG) as house:
        house.upstream.fault = hangs
        response = await house.client.post(path, json=filled, headers={"x-request-timeout": "0.2"})
    assert response.status_code == 504
    found = response.json()
    assert (found.get("type"), found["error"]["type"]) == type_


async def test_a_model_in_the_house_is_bound_by_it_too(open_house: OpenHouse) -> None:
    slow = Scripted("big", wait_before={0: asyncio.Event()})
    async with open_house(own={"big": slow}) as house:
        seen = await house.ask(headers={"x-request-timeout": "0.2"})
    assert (seen.status, seen.code) == (504, "deadline_exceeded")
    assert slow.stopped == 1


class SlowEmbedder(Scripted):
    """Embeds, once it is let."""

    async def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        self.asked.set()
        try:
            await self.wait_before[0].wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return [[1.0]] * len(texts), len(texts)


async def test_embeddings_are_bound_by_it(open_house: OpenHouse) -> None:
    let = asyncio.Event()
    local = LocalModelSettings(name="small", kind="llama", source="file:/nowhere.gguf", embeddings=True)
    small = SlowEmbedder("small", wait_before={0: let})
    async with open_house(local, own={"small": small}) as house:
        body = {"model": "small", "input": ["Hi", "Ho"]}
        late = await house.client.post("/embeddings", json=body, headers={"x-request-timeout": "0.2"})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert small.stopped == 1
        wrong = await house.client.post("/embeddings", json=body, headers={"x-request-timeout": "soon"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-request-timeout")
        let.set()
        assert (await house.client.post("/embeddings", json=body)).status_code == 200


async def test_the_next_target_gets_what_is_left(open_house: OpenHouse) -> None:
    spare = FaultyUpstream()
    async with spare.listening(), open_house(target(spare, name="spare"), timeouts=LONG) as house:
        house.upstream.fault = fails
        seen = await house.ask(model="auto", headers={"x-request-timeout": "5"})
        assert (seen.status, seen.text) == (200, "Paris is the answer.")
    (first,), (second,) = house.upstream.calls, spare.calls
    assert float(second.headers["x-request-timeout"]) <= float(first.headers["x-request-timeout"])


async def test_no_target_is_asked_when_the_time_is_over(open_house: OpenHouse) -> None:
    spare = FaultyUpstream()
    async with spare.listening(), open_house(target(spare, name="spare"), timeouts=LONG) as house:
        house.upstream.fault = hangs
        seen = await house.ask(model="auto", headers={"x-request-timeout": "0.2"})
        assert (seen.status, seen.code) == (504, "deadline_exceeded")
    assert spare.calls == []


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_unsure_answer_is_better_than_none_when_the_time_is_over(
    open_house: OpenHouse, stream: bool
) -> None:
    checks = {"name": "first", "cascade": "always", "min_confidence": 0.5}
    first = load_preset("balanced").model_copy(update=checks)
    local = LocalModelSettings(name="small", kind="llama", source="file:/nowhere.gguf")
    small = Scripted("small", words=("Paris",), probabilities=(0.1,))
    async with open_house(local, own={"small": small}, policies={"first": first}, timeouts=LONG) as house:
        house.upstream.fault = hangs
        seen = await house.ask(model="auto/first", stream=stream, headers={"x-request-timeout": "0.4"})
        assert (seen.status, seen.code, seen.text.strip()) == (200, None, "Paris")
        (entry,) = await house.entries(1)
    assert [(a.model, a.outcome) for a in entry.attempts] == [("small", "ok"), ("big", "timeout")]
