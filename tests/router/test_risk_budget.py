"""The whole gateway under a risk budget, with calibrations of simulated models."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.calibrations import MODEL, simulated
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.scripted_model import Scripted
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeSettings, Served

from smallfirst.policies import load_preset
from smallfirst.router.errors import ModelUnavailable, SettingsError
from smallfirst.router.gateway import Gateway
from smallfirst.router.risk import Calibration
from smallfirst.router.risk.calibration import calibration_path
from smallfirst.router.settings import CacheSettings, CloudModelSettings, Price, Settings, default_local_model

Open = Callable[..., Gateway]
WORDS = [f"w{at}" for at in range(20)]
BUDGET = 0.05


@pytest.fixture
def budgeted(tmp_path: Path, make_settings: MakeSettings) -> Callable[..., Settings]:
    """Makes settings whose default policy has a risk budget, with a calibration of the local model if one is given."""

    def make(calibration: Calibration | None = None, *, loss: float = BUDGET, **fields: Any) -> Settings:
        if calibration is not None:
            calibration.save(calibration_path(tmp_path / "calibrations", calibration.model))
        tight = load_preset("balanced").model_copy(update={"name": "tight", "max_quality_loss": loss})
        given = {"policies": {"tight": tight}, "policy": "tight", "calibrations": tmp_path / "calibrations"}
        return make_settings(**{**given, "cache": CacheSettings(enabled=False), **fields})

    return make


@pytest.fixture
async def opened(budgeted: Callable[..., Settings]) -> AsyncIterator[Open]:
    """Makes gateways of scripted models under a risk budget."""
    made: list[Gateway] = []

    def make(
        calibration: Calibration | None,
        local: Scripted | None = None,
        cloud: Scripted | None = None,
        **fields: Any,
    ) -> Gateway:
        models = {LOCAL: local or Scripted(LOCAL, ["local"]), CLOUD: cloud or Scripted(CLOUD, ["cloud"])}
        made.append(Gateway(budgeted(calibration, **fields), models=models))
        return made[-1]

    async with asyncio.timeout(60):
        yield make
    for gateway in made:
        await gateway.aclose()


async def ask(gateway: Gateway, prompt: str, *, streamed: bool) -> tuple[str, str]:
    """Return the answer and the reason."""
    if not streamed:
        answer = await gateway.complete(prompt)
        return answer.text, answer.receipt.reason
    stream = await gateway.stream(prompt)
    chunks = [json.loads(chunk) async for chunk in stream]
    said = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    return "".join(said), stream.receipt.reason


both_ways = pytest.mark.parametrize("streamed", [False, True])


@both_ways
async def test_what_the_budget_allows_is_answered_locally_and_the_rest_by_the_cloud(
    opened: Open, streamed: bool
) -> None:
    # It was routed without confidences, so that no answer is checked.
    gateway = opened(simulated(told=False))
    text, reason = await ask(gateway, EASY, streamed=streamed)
    assert text == "local"
    assert f"under a quality loss of at most {BUDGET}" in reason
    assert (await ask(gateway, HARD, streamed=streamed))[0] == "cloud"
    assert [gateway.route(prompt).code for prompt in (EASY, HARD)] == ["within_budget", "over_budget"]


@both_ways
async def test_a_sure_answer_is_kept_under_a_cascade(opened: Open, streamed: bool) -> None:
    local = Scripted(LOCAL, WORDS, [0.99] * 20)
    gateway = opened(simulated(), local)
    assert gateway.route(EASY).code == "within_budget_checked"
    assert (await ask(gateway, EASY, streamed=streamed))[0] == " ".join(WORDS)


@both_ways
async def test_an_answer_that_grows_unsure_at_its_end_is_not_shown(opened: Open, streamed: bool) -> None:
    # Its first words are past the window after which words are shown without a budget.
    local = Scripted(LOCAL, [*WORDS, "end"], [0.99] * 20 + [1e-6])
    gateway = opened(simulated(), local)
    text, reason = await ask(gateway, EASY, streamed=streamed)
    assert text == "cloud"
    assert f"{LOCAL} was unsure" in reason


@both_ways
async def test_a_cascade_escalates_where_the_model_tells_no_confidence(opened: Open, streamed: bool) -> None:
    text, reason = await ask(opened(simulated()), EASY, streamed=streamed)
    assert text == "cloud"
    assert reason == f"{LOCAL} told no confidence; {CLOUD} answers"


async def test_an_answer_turned_down_is_given_where_the_cloud_fails(opened: Open) -> None:
    gateway = opened(simulated(), cloud=Scripted(CLOUD, error=ModelUnavailable("down")))
    text, reason = await ask(gateway, EASY, streamed=False)
    assert text == "local"
    assert f"{CLOUD} failed" in reason


async def test_without_a_calibration_everything_goes_to_the_cloud(opened: Open) -> None:
    gateway = opened(None)
    assert (await ask(gateway, EASY, streamed=False))[0] == "cloud"
    assert gateway.route(EASY).code == "budget_not_met"


async def test_a_budget_too_small_to_be_shown_sends_everything_to_the_cloud(opened: Open) -> None:
    gateway = opened(simulated(100), loss=0.01)
    assert gateway.route(EASY).code == "budget_not_met"
    # Its ability is there all the same, and other policies use it.
    assert gateway.budgets.abilities[MODEL].rows == 100


async def test_a_calibrated_model_is_scored_by_its_own_outcomes(opened: Open, tmp_path: Path) -> None:
    plain = opened(None, calibrations=tmp_path / "none").route(EASY).score
    bad = opened(simulated(600, middle=0.99)).route(EASY).score
    assert plain is not None
    assert bad is not None
    assert bad.success[MODEL] < plain.success[MODEL] - 0.2
    assert bad.success[CLOUD] == plain.success[CLOUD]


async def test_answers_cached_under_other_thresholds_are_not_given(opened: Open, tmp_path: Path) -> None:
    first, again, other, none = (
        opened(made, calibrations=folder).routing.target("auto").fingerprint
        for made, folder in (
            (simulated(), tmp_path / "calibrations"),
            (None, tmp_path / "calibrations"),
            (simulated(seed=1, middle=0.6), tmp_path / "calibrations"),
            (None, tmp_path / "none"),
        )
    )
    assert first == again
    assert len({first, other, none}) == 3


async def test_the_monitor_watches_the_budget(opened: Open) -> None:
    gateway = opened(simulated(600))
    assert gateway.settings.risk_budgets == {"tight": BUDGET}
    assert gateway.budgets.reference is not None


def test_route_and_headers_show_what_the_budget_decided(
    serve: Callable[[Gateway], Served], budgeted: Callable[..., Settings]
) -> None:
    models = {LOCAL: Scripted(LOCAL, ["Paris"]), CLOUD: Scripted(CLOUD, ["cloud"])}
    served = serve(Gateway(budgeted(simulated()), models=models))

    def post(path: str, prompt: str) -> httpx.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        return httpx.post(served.base_url + path, json=body, timeout=30)

    shown = post("/route", EASY).json()
    assert (shown["reason_code"], shown["mode"], shown["policy"]) == (
        "within_budget_checked",
        "cascade",
        "tight",
    )
    first = shown["attempts"][0]
    assert (first["model"], first["sure"], first["valid"]) == (LOCAL, True, True)
    assert 0 < first["min_confidence"] <= 1
    assert post("/route", UNLIKE).json()["reason_code"] == "uncertain_cloud"
    headers = post("/chat/completions", EASY).headers
    assert (headers["x-smallfirst-route"], headers["x-smallfirst-attempts"]) == ("cloud", "2")
    assert headers["x-smallfirst-reason"] == f"{LOCAL} told no confidence; {CLOUD} answers"
    headers = post("/chat/completions", UNLIKE).headers
    assert (headers["x-smallfirst-route"], headers["x-smallfirst-attempts"]) == ("cloud", "1")
    assert f"and a quality loss of at most {BUDGET} is asked for" in headers["x-smallfirst-reason"]


def test_an_ability_that_nobody_measured_stops_the_start(budgeted: Callable[..., Settings]) -> None:
    odd = default_local_model().model_copy(update={"ability": "smollm2-153m"})
    cloud = CloudModelSettings(name=CLOUD, kind="openai")
    with pytest.raises(SettingsError, match=r"nobody measured 'smollm2-153m'. Close to it: smollm2-135m"):
        Gateway(budgeted(models=(odd, cloud)))


# --- costs ----------------------------------------------------------------------------------------------------------

# No words that anybody measured anything on.
UNLIKE = "xq zzkv 9f#2 qwpt lkjh mnbv!!"
LONG = (
    "Here are my notes, keep them in mind. " + "The harbour opens at six and the ferry leaves at nine. " * 150
)
PAPER = {"role": "user", "content": LONG}


def two_clouds(cloud: LoopbackCloud, *, second: str = "gpt-4o-mini") -> dict[str, Any]:
    """A dear baseline and a cheap model, and a policy that takes the cheaper one, however much worse."""
    dear = CloudModelSettings(
        name=CLOUD,
        kind="openai",
        base_url=cloud.base_url,
        price=Price(input=10, cached_input=1, output=10),
        ability="gpt-4o-2024-08-06",
    )
    cheap = CloudModelSettings(
        name=second,
        kind="openai",
        base_url=cloud.base_url,
        price=Price(input=2, cached_input=1, output=2),
        ability="gpt-4o-mini-2024-07-18" if second == "gpt-4o-mini" else None,
    )
    lax = load_preset("balanced").model_copy(
        update={"name": "lax", "max_cloud_gap": 1.0, "max_quality_loss": None}
    )
    return {"models": (dear, cheap), "policies": {"lax": lax}, "policy": "lax"}


async def test_a_session_stays_with_the_model_that_has_its_prefix(
    budgeted: Callable[..., Settings], cloud: LoopbackCloud
) -> None:
    cloud.usage = {"prompt_tokens": 2000, "completion_tokens": 5, "total_tokens": 2005}
    asked = {"messages": [PAPER], "max_tokens": 5}

    def taken(session: str) -> str:
        return gateway.route({**asked, "metadata": {"session": session}}).attempts[0].model

    async with Gateway(budgeted(None, **two_clouds(cloud))) as gateway:
        assert taken("a") == "gpt-4o-mini"
        await gateway.complete({**asked, "model": CLOUD, "metadata": {"session": "a"}})
        assert (taken("a"), taken("b")) == (CLOUD, "gpt-4o-mini")


@pytest.mark.parametrize("name", ["strong", "weak", "my-own-model"])
async def test_a_model_that_nobody_measured_does_not_take_the_firsts_place(
    opened: Open, cloud: LoopbackCloud, name: str
) -> None:
    gateway = opened(None, **two_clouds(cloud, second=name))
    assert gateway.route(HARD).attempts[0].model == CLOUD
