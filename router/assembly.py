"""The gateway's parts, made for its settings. Where settings are read again, those of the gateway before go on wherever
they still hold; see `succession`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .answer import Answer
from .books import Books, Records
from .cache import open_cache
from .cache.recall import Recall
from .classification.model import ClassifierModel
from .drift import DriftMonitor
from .exploring import Lot, Lots
from .feedback import Feedback
from .health import ModelHealth
from .journey import Journey
from .ledger import Ledger
from .metrics import Gauges, Metrics
from .models import make_models
from .models.base import Model
from .models.cloud import CloudModel
from .models.local.memory import MemoryBudget
from .money.billing import Billing
from .money.counterfactual import Counterfactual
from .money.expected import ExpectedCost
from .money.prices import PriceList
from .privacy.door import doors
from .privacy.screening import screener_of
from .reuse import Reuse
from .risk import Budgets
from .routing import Routing
from .running import Runner
from .scoring import Scorer
from .semantic.equivalence import Equivalence
from .semantic.volatility import Volatility
from .serving import Serving
from .settings import Breaker, CloudModelSettings, Settings
from .shadow import Shadow
from .succession import models_still_good, same_store
from .telemetry.context import Telemetry
from .telemetry.exporting import telemetry_of

if TYPE_CHECKING:
    from .models.local.sharing import Engines

Again = Callable[[Journey], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Given:
    """What the gateway's maker brings along, in place of what the settings ask for; see `Gateway`."""

    models: Mapping[str, Model] | None = None
    drift: DriftMonitor | None = None
    telemetry: Telemetry | None = None
    lot: Lot | None = None


@dataclass(frozen=True, slots=True)
class Lasting:
    """Parts that go on whatever is different in other settings: what they were made of needs a restart to change, or
    they are told of it (`Gateway.take_over`).

    Attributes:
        given_models: By name; they replace configured ones.
    """

    health: ModelHealth
    memory: MemoryBudget
    given_models: Mapping[str, Model]
    scorer: Scorer
    ledger: Ledger
    metrics: Metrics
    telemetry: Telemetry | None
    lot: Lot


@dataclass(frozen=True, slots=True)
class Parts:
    """What a gateway is made of; the one that follows it takes its own from here.

    Attributes:
        settings: What they were made for.
        own_models: Those that were made, by name: whoever has the parts closes them.
        models: These and the given ones.
        reuse: None where the cache is off.
    """

    settings: Settings
    lasting: Lasting
    prices: PriceList
    own_models: dict[str, Model]
    models: dict[str, Model]
    budgets: Budgets
    drift: DriftMonitor
    expected: ExpectedCost
    routing: Routing
    ratings: Feedback
    reuse: Reuse | None


def assemble(
    settings: Settings,
    given: Given,
    before: Parts | None,
    *,
    engines: Engines | None,
    again: Again,
    gauges: Gauges,
) -> Parts:
    """Return the parts for settings. Nothing is started, and those before go on as they are.

    Args:
        settings: To be in force.
        given: What is not to be made.
        before: Of the gateway that this one follows; None: it is the first.
        engines: Where local models' processes come from; None: each starts its own.
        again: Runs a request afresh; see `Reuse`.
        gauges: What metrics read; see `Metrics`.

    Raises:
        SettingsError: A file that the settings name cannot be used, or an extra is not installed.
    """
    lasting = _lasting(settings, given, before, gauges)
    prices = PriceList()
    own_models = _own_models(settings, lasting, before, engines)
    models = {**own_models, **lasting.given_models}
    budgets = Budgets.load(settings, lasting.scorer, prices.price)
    drift = given.drift or _drift(settings, budgets, before)
    expected = _expected(settings, prices, before)
    return Parts(
        settings=settings,
        lasting=lasting,
        prices=prices,
        own_models=own_models,
        models=models,
        budgets=budgets,
        drift=drift,
        expected=expected,
        routing=Routing(
            settings,
            lasting.scorer,
            lasting.health,
            budgets=budgets,
            expected=expected,
            specialists={m.name: m.certainty for m in models.values() if isinstance(m, ClassifierModel)},
            tightened=drift.tightened,
        ),
        ratings=_ratings(settings, lasting.ledger, drift, before),
        reuse=_reuse(settings, lasting.scorer, drift, again, before),
    )


def serving_of(parts: Parts) -> Serving:
    """Join parts to what runs requests and writes them down."""
    settings, lasting, models = parts.settings, parts.lasting, parts.models
    screener = screener_of(settings)
    asked = models
    if screener.needed:
        asked = doors(models, {m.name for m in settings.models if m.tier == "cloud"})
    billing = Billing(
        settings, parts.prices, parts.routing.count_tokens, expected=parts.expected.output_tokens
    )
    counterfactual = Counterfactual(settings, parts.prices, parts.expected)
    records = Records(lasting.ledger, lasting.metrics, lasting.telemetry)
    budgets = {name: m.budget for name, m in models.items() if isinstance(m, CloudModel)}
    return Serving(
        routing=parts.routing,
        screener=screener,
        reuse=parts.reuse,
        runner=Runner(asked, lasting.health, billing, budgets),
        billing=billing,
        counterfactual=counterfactual,
        shadow=Shadow(
            settings,
            asked,
            parts.drift,
            billing=billing,
            available=lasting.health.available,
            keep=records.keep,
            paired=counterfactual.paired,
        ),
        books=Books(
            records, settings.baseline_model, counterfactual, parts.reuse, parts.ratings, parts.drift
        ),
        lot=lasting.lot,
    )


def breakers(settings: Settings) -> dict[str, Breaker]:
    """Return when models rest after failures, by name: for `ModelHealth`."""
    return {model.name: model.breaker for model in settings.models if isinstance(model, CloudModelSettings)}


# --- each as before, or new -----------------------------------------------------------------------------------


def _lasting(settings: Settings, given: Given, before: Parts | None, gauges: Gauges) -> Lasting:
    if before is not None:
        last = before.lasting
        return replace(last, telemetry=given.telemetry or last.telemetry, lot=given.lot or last.lot)
    return Lasting(
        health=ModelHealth(breakers(settings)),
        memory=MemoryBudget(settings.models_memory),
        given_models=dict(given.models or {}),
        scorer=Scorer.load(),
        ledger=Ledger(settings.ledger),
        metrics=Metrics(gauges),
        telemetry=given.telemetry or telemetry_of(settings),
        lot=given.lot or Lots(),
    )


def _own_models(
    settings: Settings, lasting: Lasting, before: Parts | None, engines: Engines | None
) -> dict[str, Model]:
    kept = {} if before is None else models_still_good(before, settings)
    without = {*lasting.given_models, *kept}
    return {**kept, **make_models(settings, without=without, budget=lasting.memory, engines=engines)}


def _drift(settings: Settings, budgets: Budgets, before: Parts | None) -> DriftMonitor:
    # Evidence is of these budgets and models; with others it begins anew.
    if before is not None and _watched(before.settings) == _watched(settings):
        return before.drift
    known = budgets.reference
    local = _local(settings)
    if budgets.reference_of is not None:
        # Other models' scores are not what the reference holds.
        local = [budgets.reference_of]
    return DriftMonitor(
        settings.drift,
        budgets=settings.risk_budgets,
        local=local,
        references=None if known is None else dict.fromkeys(settings.risk_budgets, known),
    )


def _watched(settings: Settings) -> tuple[object, ...]:
    return settings.drift, settings.risk_budgets, _local(settings), settings.calibrations


def _local(settings: Settings) -> list[str]:
    return [model.name for model in settings.models if model.tier == "local"]


def _expected(settings: Settings, prices: PriceList, before: Parts | None) -> ExpectedCost:
    if before is not None and before.settings.models == settings.models:
        return before.expected
    return ExpectedCost(settings.models, prices.price)


def _ratings(settings: Settings, ledger: Ledger, drift: DriftMonitor, before: Parts | None) -> Feedback:
    if before is not None and before.drift is drift:
        return before.ratings
    elsewhere = 2 * settings.ledger.flush_interval if settings.server.workers > 1 else 0.0
    return Feedback(ledger, drift, settings.drift, elsewhere=elsewhere)


def _reuse(
    settings: Settings, scorer: Scorer, drift: DriftMonitor, again: Again, before: Parts | None
) -> Reuse | None:
    if before is not None and settings.cache == before.settings.cache:
        return before.reuse
    if before is not None and same_store(before.settings, settings):
        cache = None if before.reuse is None else before.reuse.recall.cache
    else:
        cache = open_cache(settings.cache)
    if cache is None:
        return None
    recall = Recall(
        cache,
        settings.cache,
        equivalence=Equivalence.load(scorer.embedding),
        volatility=Volatility.load(scorer.embedding),
    )
    return Reuse(recall, settings.cache, tightened=drift.tightened, again=again)
