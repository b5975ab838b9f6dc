"""A local answer first, checked, then the cloud's, perhaps early; by scripted models, so that times are events."""

import asyncio
import json
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fixtures.scripted_model import PROMPT_TOKENS, Scripted
from fixtures.serving import CLOUD, LOCAL
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from smallfirst.policies import Attempt, Decision, load_preset
from smallfirst.router.answer import AnswerStream, Receipt
from smallfirst.router.errors import ModelTimeout, ModelUnavailable, RequestError, UpstreamError
from smallfirst.router.escalation import HELD_TOKENS, Streamed
from smallfirst.router.gateway import Gateway
from smallfirst.router.health import ModelHealth
from smallfirst.router.hints import read_hints
from smallfirst.router.journey import Journey
from smallfirst.router.money.billing import Billing
from smallfirst.router.money.prices import PriceList
from smallfirst.router.routing import Plan, Target
from smallfirst.router.running import EARLY_TOKENS, Runner
from smallfirst.router.server.chat import decision_body
from smallfirst.router.settings import (
    CacheSettings,
    CloudModelSettings,
    LedgerSettings,
    Settings,
    default_local_model,
)
from smallfirst.router.wire import ChatRequest

# gpt-4.1's prices in US dollars a token.
INPUT, OUTPUT = 2e-6, 8e-6
PROMPT = "Name a city."
SHORT, LONG = HELD_TOKENS - 4, HELD_TOKENS + 10

Open = Callable[..., Gateway]


def cascade(**fields: Any) -> dict[str, Any]:
    """Settings that ask the local model first, and check its answer."""
    checks = {"name": "first", "cascade": "always", "min_confidence": 0.5, **fields}
    own = load_preset("balanced").model_copy(update=checks)
    return {"policies": {"first": own}, "policy": "first"}


def words(letter: str, count: int) -> list[str]:
    return [f"{letter}{at}" for at in range(count)]


@pytest.fixture(autouse=True)
async def nothing_hangs_and_nothing_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    async with asyncio.timeout(20):
        yield
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


def make_settings(path: Path, **fields: Any) -> Settings:
    big = CloudModelSettings(name=CLOUD, kind="openai", base_url="http://127.0.0.1:9/v1")
    return Settings(
        models=(default_local_model(), big),
        cache=CacheSettings(enabled=False),
        ledger=LedgerSettings(path=path / "ledger.db", flush_interval=0.05),
        **fields,
    )


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Gateway]]:
    """One gateway a policy: making one reads the classifier, and that takes a while."""
    made: dict[str, Gateway] = {}
    yield made
    for gateway in made.values():
        asyncio.run(gateway.aclose())


@pytest.fixture
def opened(gateways: dict[str, Gateway], tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Gives gateways of a local and a cloud model, scripted both, with a ledger from which nothing was read yet."""

    def make(local: Scripted, cloud: Scripted, **fields: Any) -> Gateway:
        key = repr(fields)
        if key not in gateways:
            own = make_settings(tmp_path_factory.mktemp("ledger"), **cascade(**fields))
            gateways[key] = Gateway(own, models={LOCAL: local, CLOUD: cloud})
        gateway = gateways[key]
        gateway.models.update({LOCAL: local, CLOUD: cloud})
        for name in gateway.models:
            gateway.health.succeeded(name)
        entries(gateway)
        return gateway

    return make


def entries(gateway: Gateway) -> list[dict[str, Any]]:
    """Take what the ledger holds."""
    gateway.start()
    gateway.ledger.flush()
    with sqlite3.connect(gateway.ledger.path) as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute("SELECT * FROM entries")]
        connection.execute("DELETE FROM entries")
    connection.close()
    return [{**one, "attempts": json.loads(one["attempts"])} for one in found]


def booked(gateway: Gateway) -> dict[str, Any]:
    """The one entry of the ledger."""
    (entry,) = entries(gateway)
    return entry


def metric(gateway: Gateway, name: str, **labels: str) -> float:
    """A counter's value; 0 where it was never counted."""
    families = text_string_to_metric_families(gateway.metrics.render().decode())
    samples = (sample for family in families for sample in family.samples)
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


BILLING = Billing(make_settings(Path("unused")), PriceList(), len)


def outcomes(entry: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((attempt["model"], attempt["outcome"]) for attempt in entry["attempts"])


def check_the_bill(entry: dict[str, Any], receipt: Receipt) -> None:
    """The entry's cost is the sum of its attempts', each by its tokens, and what the caller was told."""
    for attempt in entry["attempts"]:
        free = attempt["model"] == LOCAL
        cost = 0 if free else attempt["input_tokens"] * INPUT + attempt["output_tokens"] * OUTPUT
        assert attempt["cost_usd"] == pytest.approx(cost)
    assert entry["cost_usd"] == pytest.approx(math.fsum(a["cost_usd"] for a in entry["attempts"]))
    assert receipt.cost_usd == pytest.approx(entry["cost_usd"])
    assert receipt.attempts == len(entry["attempts"])


async def text_of(stream: AnswerStream) -> str:
    chunks = [json.loads(chunk) async for chunk in stream]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def ask(gateway: Gateway, *, streamed: bool, **fields: Any) -> tuple[str, Receipt]:
    if not streamed:
        answer = await gateway.complete(PROMPT, **fields)
        return answer.text, answer.receipt
    stream = await gateway.stream(PROMPT, **fields)
    return await text_of(stream), stream.receipt


both_ways = pytest.mark.parametrize("streamed", [False, True])

# --- sure or not ----------------------------------------------------------------------------------------------------


@both_ways
async def test_a_sure_local_answer_is_shown_and_the_cloud_not_asked(opened: Open, streamed: bool) -> None:
    local = Scripted(LOCAL, words("L", LONG), [0.9] * LONG)
    cloud = Scripted(CLOUD, words("C", 3))
    gateway = opened(local, cloud, early_cloud=0.4)
    text, receipt = await ask(gateway, streamed=streamed)
    assert text == " ".join(words("L", LONG))
    assert not cloud.asked.is_set()
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    assert (entry["reason_code"], entry["route"]) == ("local_first", "local")


@both_ways
@pytest.mark.parametrize("length", [SHORT, LONG])
async def test_an_unsure_local_answer_is_booked_and_the_clouds_is_shown(
    opened: Open, streamed: bool, length: int
) -> None:
    local = Scripted(LOCAL, words("L", length), [0.3] * length)
    cloud = Scripted(CLOUD, words("C", 3))
    gateway = opened(local, cloud)
    text, receipt = await ask(gateway, streamed=streamed)
    assert text == "C0 C1 C2"
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    assert outcomes(entry) == [(CLOUD, "ok"), (LOCAL, "discarded")]
    assert (entry["reason_code"], entry["attempts"][0]["error_code"]) == ("escalated", "unsure")
    assert entry["reason"] == f"{LOCAL} was unsure (0.30, under 0.50); {CLOUD} answers"
    seen = length if not streamed else min(length, HELD_TOKENS)
    assert entry["attempts"][0]["output_tokens"] == seen
    assert entry["attempts"][0]["input_tokens"] > 0


async def test_after_the_first_shown_word_there_is_no_switch(opened: Open) -> None:
    local = Scripted(LOCAL, words("L", 40), [0.9] * HELD_TOKENS + [0.01] * 24)
    cloud = Scripted(CLOUD)
    text, receipt = await ask(opened(local, cloud, early_cloud=0.9), streamed=True)
    assert text == " ".join(words("L", 40))
    assert receipt.route == "local"


# --- early ----------------------------------------------------------------------------------------------------------


@both_ways
async def test_the_cloud_is_asked_while_the_local_model_still_answers(opened: Open, streamed: bool) -> None:
    cloud = Scripted(CLOUD, words("C", 3))
    # The local model goes on only once the cloud was asked.
    local = Scripted(LOCAL, words("L", LONG), [0.3] * LONG, wait_before={EARLY_TOKENS + 1: cloud.asked})
    gateway = opened(local, cloud, early_cloud=0.4)
    before = metric(gateway, "smallfirst_early_starts_total", outcome="ok")
    text, receipt = await ask(gateway, streamed=streamed)
    assert text == "C0 C1 C2"
    assert len(cloud.requests) == 1
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    assert outcomes(entry) == [(CLOUD, "ok"), (LOCAL, "discarded")]
    assert [attempt["early"] for attempt in entry["attempts"]] == [False, True]
    assert metric(gateway, "smallfirst_early_starts_total", outcome="ok", model=CLOUD) == before + 1


@both_ways
async def test_an_early_call_that_is_not_needed_is_stopped_and_paid_for(opened: Open, streamed: bool) -> None:
    cloud = Scripted(CLOUD, words("C", 3), wait_before={-1: asyncio.Event()})
    sure = [0.3] * EARLY_TOKENS + [0.999] * (HELD_TOKENS + 6)
    local = Scripted(LOCAL, words("L", len(sure)), sure, wait_before={EARLY_TOKENS + 1: cloud.asked})
    gateway = opened(local, cloud, early_cloud=0.4)
    counts = "smallfirst_early_starts_total", "smallfirst_model_failures_total"
    before = [metric(gateway, name, model=CLOUD) for name in counts]
    text, receipt = await ask(gateway, streamed=streamed)
    assert text == " ".join(words("L", len(sure)))
    assert cloud.stopped == 1
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    assert outcomes(entry) == [(CLOUD, "unused"), (LOCAL, "ok")]
    assert (entry["route"], entry["model"], entry["status"]) == ("local", LOCAL, "ok")
    assert entry["cost_usd"] > 0
    assert receipt.attempts == 2
    after = [metric(gateway, name, model=CLOUD) for name in counts]
    assert after == [before[0] + 1, before[1]]


@both_ways
async def test_an_early_answer_that_came_in_vain_is_paid_for_too(opened: Open, streamed: bool) -> None:
    finished = asyncio.Event()

    class Noticed(Scripted):
        async def _say(self, at: int, meter: Any) -> None:
            await super()._say(at, meter)
            if at == len(self.words) - 1:
                asyncio.get_running_loop().call_soon(finished.set)

    cloud = Noticed(CLOUD, words("C", 3))
    sure = [0.3] * EARLY_TOKENS + [0.999] * HELD_TOKENS
    gate = cloud.asked if streamed else finished
    local = Scripted(LOCAL, words("L", len(sure)), sure, wait_before={EARLY_TOKENS + 1: gate})
    gateway = opened(local, cloud, early_cloud=0.4)
    text, receipt = await ask(gateway, streamed=streamed)
    assert text.startswith("L0 ")
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    (unused,) = (attempt for attempt in entry["attempts"] if attempt["outcome"] == "unused")
    if streamed:
        assert cloud.stopped == 1  # opened, and closed unread
        assert unused["output_tokens"] == 0
    else:
        assert (unused["input_tokens"], unused["output_tokens"]) == (PROMPT_TOKENS, 3)


@both_ways
async def test_an_early_call_that_fails_does_not_matter_if_the_local_answer_is_sure(
    opened: Open, streamed: bool
) -> None:
    cloud = Scripted(CLOUD, error=ModelUnavailable("down"))
    sure = [0.3] * EARLY_TOKENS + [0.999] * HELD_TOKENS
    local = Scripted(LOCAL, words("L", len(sure)), sure, wait_before={EARLY_TOKENS + 1: cloud.asked})
    gateway = opened(local, cloud, early_cloud=0.4)
    text, receipt = await ask(gateway, streamed=streamed)
    assert text.startswith("L0 ")
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    assert outcomes(entry) == [(CLOUD, "error"), (LOCAL, "ok")]
    assert (entry["status"], entry["reason_code"]) == ("ok", "local_first")


@both_ways
async def test_an_early_call_that_fails_leaves_the_unsure_answer(opened: Open, streamed: bool) -> None:
    cloud = Scripted(CLOUD, error=ModelUnavailable("down"))
    local = Scripted(LOCAL, words("L", SHORT), [0.3] * SHORT, wait_before={EARLY_TOKENS + 1: cloud.asked})
    gateway = opened(local, cloud, early_cloud=0.4)
    text, receipt = await ask(gateway, streamed=streamed)
    assert text == " ".join(words("L", SHORT))
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    assert outcomes(entry) == [(CLOUD, "error"), (LOCAL, "ok")]
    assert entry["reason"] == f"{CLOUD} failed (model_unavailable); {LOCAL} was unsure, but answers"


@both_ways
async def test_a_local_model_that_fails_hands_over_to_the_call_that_runs_already(
    opened: Open, streamed: bool
) -> None:
    cloud = Scripted(CLOUD, words("C", 3))

    class Breaking(Scripted):
        async def _say(self, at: int, meter: Any) -> None:
            if at == SHORT - 1:
                raise ModelTimeout("too slow")
            await super()._say(at, meter)

    local = Breaking(LOCAL, words("L", SHORT), [0.3] * SHORT, wait_before={EARLY_TOKENS + 1: cloud.asked})
    gateway = opened(local, cloud, early_cloud=0.4)
    text, receipt = await ask(gateway, streamed=streamed)
    assert text == "C0 C1 C2"
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    assert outcomes(entry) == [(CLOUD, "ok"), (LOCAL, "timeout")]
    assert entry["reason_code"] == "fallback"


@both_ways
async def test_if_nobody_can_answer_the_first_failure_is_reported(opened: Open, streamed: bool) -> None:
    cloud = Scripted(CLOUD, error=UpstreamError("no", status=500))
    local = Scripted(LOCAL, error=ModelUnavailable("not loaded"))
    gateway = opened(local, cloud, early_cloud=0.4)
    with pytest.raises(ModelUnavailable, match="not loaded"):
        await ask(gateway, streamed=streamed)
    entry = booked(gateway)
    assert outcomes(entry) == [(CLOUD, "error"), (LOCAL, "error")]
    assert (entry["status"], entry["route"]) == ("error", "none")


async def test_the_clouds_own_no_is_final_and_stops_nothing_twice(opened: Open) -> None:
    cloud = Scripted(CLOUD, error=UpstreamError("bad", status=400))
    local = Scripted(LOCAL, words("L", SHORT), [0.3] * SHORT, wait_before={EARLY_TOKENS + 1: cloud.asked})
    gateway = opened(local, cloud, early_cloud=0.4)
    with pytest.raises(UpstreamError):
        await ask(gateway, streamed=True)
    assert outcomes(booked(gateway)) == [(CLOUD, "error"), (LOCAL, "discarded")]


@both_ways
async def test_a_caller_who_leaves_while_both_run_stops_both(opened: Open, streamed: bool) -> None:
    cloud = Scripted(CLOUD, wait_before={-1: asyncio.Event()})
    local = Scripted(LOCAL, words("L", LONG), [0.3] * LONG, wait_before={EARLY_TOKENS + 1: asyncio.Event()})
    gateway = opened(local, cloud, early_cloud=0.4)
    call = asyncio.create_task(ask(gateway, streamed=streamed))
    await cloud.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (local.stopped, cloud.stopped) == (1, 1)
    entry = booked(gateway)
    assert outcomes(entry) == [(CLOUD, "cancelled"), (LOCAL, "cancelled")]
    assert (entry["status"], entry["http_status"], entry["route"]) == ("cancelled", 499, "local")
    hung_up = next(attempt for attempt in entry["attempts"] if attempt["model"] == CLOUD)
    # A whole answer is made, and billed, though nobody listens any more.
    assert (hung_up["output_tokens"] > 0, hung_up["estimated"]) == (not streamed, True)
    assert entry["cost_usd"] == pytest.approx(
        hung_up["input_tokens"] * INPUT + hung_up["output_tokens"] * OUTPUT
    )


@both_ways
async def test_a_caller_who_leaves_while_the_early_call_is_waited_for_stops_it(
    opened: Open, streamed: bool
) -> None:
    cloud = Scripted(CLOUD, wait_before={-1: asyncio.Event()})
    local = Scripted(LOCAL, words("L", SHORT), [0.3] * SHORT, wait_before={EARLY_TOKENS + 1: cloud.asked})
    gateway = opened(local, cloud, early_cloud=0.4)
    call = asyncio.create_task(ask(gateway, streamed=streamed))
    await cloud.asked.wait()
    for _ in range(100):  # long enough for the local answer to end: it waits for nothing any more
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert cloud.stopped == 1
    entry = booked(gateway)
    assert outcomes(entry) == [(CLOUD, "cancelled"), (LOCAL, "discarded")]
    assert entry["status"] == "cancelled"


async def test_a_caller_who_leaves_in_the_moment_the_early_stream_opens_closes_it(opened: Open) -> None:
    class Leaving(Scripted):
        async def _accept(self, request: Any) -> Any:
            said = await super()._accept(request)
            asyncio.get_running_loop().call_soon(call.cancel)
            return said

    let = asyncio.Event()
    cloud = Leaving(CLOUD, words("C", 3), wait_before={-1: let})
    local = Scripted(LOCAL, words("L", SHORT), [0.3] * SHORT, wait_before={EARLY_TOKENS + 1: cloud.asked})
    gateway = opened(local, cloud, early_cloud=0.4)
    call = asyncio.create_task(ask(gateway, streamed=True))
    await cloud.asked.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    let.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert cloud.stopped == 1
    assert outcomes(booked(gateway)) == [(CLOUD, "cancelled"), (LOCAL, "discarded")]


async def test_time_that_two_models_ran_at_once_counts_once(opened: Open) -> None:
    cloud = Scripted(CLOUD, words("C", 3))
    slow = asyncio.Event()
    local = Scripted(LOCAL, words("L", SHORT), [0.3] * SHORT, wait_before={EARLY_TOKENS + 1: slow})
    gateway = opened(local, cloud, early_cloud=0.4)
    call = asyncio.create_task(gateway.complete(PROMPT))
    await cloud.asked.wait()
    await asyncio.sleep(0.05)
    slow.set()
    answer = await call
    # Counted twice, what both took together would leave less than nothing.
    assert answer.receipt.overhead_ms > 0


@both_ways
async def test_without_early_cloud_no_task_is_made(opened: Open, streamed: bool) -> None:
    seen: list[int] = []

    class Counting(Scripted):
        async def _say(self, at: int, meter: Any) -> None:
            seen.append(len(asyncio.all_tasks()))
            await super()._say(at, meter)

    gateway = opened(Counting(LOCAL, words("L", LONG), [0.6] * LONG), Scripted(CLOUD))
    before = len(asyncio.all_tasks())
    await ask(gateway, streamed=streamed)
    assert set(seen) == {before}


@given(
    probabilities=st.lists(st.floats(0.05, 1), min_size=1, max_size=2 * HELD_TOKENS),
    least=st.floats(0.1, 0.9),
    early=st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_a_stream_shows_one_models_words_and_no_other(
    probabilities: list[float], least: float, early: float
) -> None:
    local = Scripted(LOCAL, words("L", len(probabilities)), probabilities)
    cloud = Scripted(CLOUD, words("C", 3))
    attempts = Attempt(LOCAL, "local", min_confidence=least, early=early), Attempt(CLOUD, "cloud")

    async def run() -> str:
        request = ChatRequest.of(PROMPT, {}, stream=True)
        target = Target(load_preset("balanced"), None, "")
        plan = Plan(Decision(attempts, "a test", "test", "balanced"), PROMPT_TOKENS)
        journey = Journey(request, read_hints(request), target, plan=plan)
        runner = Runner({LOCAL: local, CLOUD: cloud}, ModelHealth(), BILLING)
        answered = await runner.run(journey, Streamed())
        chunks = [json.loads(chunk) async for chunk in answered.result]
        assert len(journey.attempts) == len(local.requests) + len(cloud.requests) - 1
        return "".join(choice["delta"].get("content") or "" for one in chunks for choice in one["choices"])

    window = [math.log(one) for one in probabilities[:HELD_TOKENS]]
    sure = math.exp(math.fsum(window) / len(window))
    if abs(sure - least) < 1e-9:
        return
    expected = words("L", len(probabilities)) if sure >= least else words("C", 3)
    assert asyncio.run(run()) == " ".join(expected)


# --- self-consistency -----------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        (["Paris.", "paris", "Paris"], "Paris."),
        (["Rome", "Paris", "paris!"], "Paris"),
        (['{"city": "Paris", "n": 1}', '{"n": 1, "city": "Paris"}', "{}"], '{"city": "Paris", "n": 1}'),
    ],
)
async def test_what_most_samples_say_is_shown(
    opened: Open, streamed: bool, answers: Sequence[str], shown: str
) -> None:
    local = Scripted(LOCAL, [[answer] for answer in answers])
    gateway = opened(local, Scripted(CLOUD, ["cloud"]), self_consistency=3)
    text, receipt = await ask(gateway, streamed=streamed)
    assert text == shown
    assert (receipt.route, receipt.attempts) == ("local", 1)
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    # Every sample is paid for; what the baseline would have cost is one answer.
    assert entry["attempts"][0]["input_tokens"] == 3 * PROMPT_TOKENS
    assert (entry["input_tokens"], entry["output_tokens"]) == (PROMPT_TOKENS, 1)
    assert entry["baseline_cost_usd"] == pytest.approx(PROMPT_TOKENS * INPUT + OUTPUT)
    varied = [request.body for request in local.requests[1:]]
    assert all(body["temperature"] > 0 for body in varied)
    assert len({body["seed"] for body in varied}) == 2


@both_ways
async def test_samples_that_disagree_are_booked_and_the_cloud_answers(opened: Open, streamed: bool) -> None:
    local = Scripted(LOCAL, [["Rome"], ["Paris"], ["Oslo"], ["Rome"]])
    gateway = opened(local, Scripted(CLOUD, ["cloud"]), self_consistency=4)
    before = metric(gateway, "smallfirst_escalations_total", cause="disagreed")
    fields = {"stream_options": {"include_usage": True}} if streamed else {}
    text, receipt = await ask(gateway, streamed=streamed, **fields)
    assert text == "cloud"
    assert all("stream_options" not in request.body for request in local.requests)
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    first = entry["attempts"][0]
    assert (first["outcome"], first["error_code"]) == ("discarded", "disagreed")
    assert (first["input_tokens"], first["output_tokens"]) == (4 * PROMPT_TOKENS, 4)
    assert entry["reason"] == f"{LOCAL} disagreed with itself (2 of 4 answers alike); {CLOUD} answers"
    assert metric(gateway, "smallfirst_escalations_total", model=LOCAL, cause="disagreed") == before + 1


@both_ways
async def test_samples_that_disagree_are_better_than_nothing(opened: Open, streamed: bool) -> None:
    local = Scripted(LOCAL, [["Rome"], ["Paris"], ["Oslo"]])
    gateway = opened(local, Scripted(CLOUD, error=ModelUnavailable("down")), self_consistency=3)
    text, receipt = await ask(gateway, streamed=streamed)
    assert text == "Rome"
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    assert outcomes(entry) == [(CLOUD, "error"), (LOCAL, "ok")]
    (kept,) = (attempt for attempt in entry["attempts"] if attempt["outcome"] == "ok")
    assert kept["input_tokens"] == 3 * PROMPT_TOKENS


async def test_an_answer_that_is_unsure_already_is_not_sampled(opened: Open) -> None:
    local = Scripted(LOCAL, ["Rome"], [0.2])
    text, _ = await ask(opened(local, Scripted(CLOUD, ["cloud"]), self_consistency=3), streamed=False)
    assert (text, len(local.requests)) == ("cloud", 1)


async def test_a_long_answer_is_not_sampled(opened: Open) -> None:
    local = Scripted(LOCAL, words("L", 30), [0.9] * 30)
    text, receipt = await ask(opened(local, Scripted(CLOUD), self_consistency=3), streamed=False)
    assert (text, receipt.route, len(local.requests)) == (" ".join(words("L", 30)), "local", 1)


async def test_a_sample_that_fails_agrees_with_no_other(opened: Open) -> None:
    class Failing(Scripted):
        async def _accept(self, request: Any) -> Any:
            said = await super()._accept(request)
            if len(self.requests) > 1:
                raise ModelUnavailable("busy", code="queue_full")
            return said

    text, _ = await ask(
        opened(Failing(LOCAL, ["Rome"]), Scripted(CLOUD, ["cloud"]), self_consistency=2), streamed=False
    )
    assert text == "cloud"


async def test_a_caller_who_leaves_stops_every_sample(opened: Open) -> None:
    class Slow(Scripted):
        async def _say(self, at: int, meter: Any) -> None:
            if len(self.requests) > 1:
                await asyncio.Event().wait()

    local = Slow(LOCAL, ["Rome"])
    gateway = opened(local, Scripted(CLOUD), self_consistency=3)
    call = asyncio.create_task(ask(gateway, streamed=False))
    while len(local.requests) < 3:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert local.stopped == 2
    assert outcomes(booked(gateway)) == [(LOCAL, "cancelled")]


# --- form -----------------------------------------------------------------------------------------------------------

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
AS_CITY = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}


@both_ways
@pytest.mark.parametrize(
    ("answer", "finish", "flaw"),
    [
        ("Paris", "stop", "its JSON is not valid"),
        ('{"town": "Paris"}', "stop", "its JSON does not follow the schema"),
        ('{"city": "Paris"}', "length", "its answer is cut off"),
    ],
)
async def test_json_that_is_useless_is_not_shown(
    opened: Open, streamed: bool, answer: str, finish: str, flaw: str
) -> None:
    # No confidence: as of a server in the house that is not llama.cpp in this process.
    local = Scripted(LOCAL, [answer], finish_reason=finish)
    gateway = opened(local, Scripted(CLOUD, ["cloud"]), min_confidence=0.0)
    text, receipt = await ask(gateway, streamed=streamed, response_format=AS_CITY)
    assert text == "cloud"
    entry = booked(gateway)
    check_the_bill(entry, receipt)
    assert entry["attempts"][0]["error_code"] == "invalid"
    assert entry["reason"] == f"{LOCAL} gave no valid answer ({flaw}); {CLOUD} answers"


@both_ways
async def test_a_useless_answer_is_not_given_for_want_of_a_better_one(opened: Open, streamed: bool) -> None:
    gateway = opened(Scripted(LOCAL, ["Paris"]), Scripted(CLOUD, error=ModelUnavailable("down")))
    with pytest.raises(RequestError, match="down"):
        await ask(gateway, streamed=streamed, response_format=AS_CITY)


async def test_words_of_a_model_that_tells_no_confidence_are_not_held(opened: Open) -> None:
    never = asyncio.Event()
    local = Scripted(LOCAL, words("L", 5), wait_before={2: never})
    stream = await opened(local, Scripted(CLOUD)).stream(PROMPT)
    async with stream:
        assert json.loads(await anext(aiter(stream)))["choices"][0]["delta"]["content"] == "L0"


# --- what is decided ------------------------------------------------------------------------------------------------


async def test_route_shows_how_answers_are_checked(opened: Open) -> None:
    gateway = opened(Scripted(LOCAL), Scripted(CLOUD), early_cloud=0.4, self_consistency=2)
    body = decision_body(gateway.route(PROMPT))
    assert body["mode"] == "cascade"
    assert body["attempts"] == [
        {
            "model": LOCAL,
            "tier": "local",
            "min_confidence": 0.5,
            "samples": 2,
            "valid": True,
            "sure": False,
            "early": 0.4,
            "hedge": 0.0,
        },
        {
            "model": CLOUD,
            "tier": "cloud",
            "min_confidence": 0.0,
            "samples": 1,
            "valid": False,
            "sure": False,
            "early": 0.0,
            "hedge": 0.0,
        },
    ]
    assert decision_body(gateway.route(PROMPT, model="auto/balanced"))["mode"] == "route"
