"""The gateway: its parts, and what callers use of it. The server and the SDK are both thin over this."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from smallfirst.policies import Decision

from .answer import Answer, AnswerStream, Receipt
from .books import Books, Records
from .cache import Cache, open_cache
from .cache.recall import Recall
from .classification.model import ClassifierModel
from .classification.request import chat_body, result_of
from .classification.request import parse as parse_classify
from .drift import DriftMonitor
from .errors import ModelNotFound, SmallfirstError
from .exploring import Lot, Lots
from .feedback import Feedback
from .health import ModelHealth
from .hints import read_hints
from .journey import Journey
from .ledger import Ledger
from .ledger.report import Report, report_of
from .metrics import Metrics
from .models import make_models
from .models.base import Embedder, Model
from .models.cloud import CloudModel
from .models.local.memory import MemoryBudget
from .models.local.model import LocalModel
from .money.billing import Billing
from .money.counterfactual import Counterfactual
from .money.expected import ExpectedCost
from .money.prices import PriceList
from .privacy.door import doors
from .privacy.screening import screener_of
from .reuse import Reuse
from .risk import Budgets
from .routing import AUTO, Routing
from .running import Runner
from .scoring import Scorer
from .semantic.equivalence import Equivalence
from .semantic.volatility import Volatility
from .serving import Serving
from .settings import Breaker, CloudModelSettings, LocalModelSettings, Settings
from .settings.file import find_settings_file, load_settings
from .shadow import Shadow
from .status import gauges
from .succession import models_still_good, same_store
from .telemetry.context import Telemetry
from .telemetry.exporting import telemetry_of
from .telemetry.otel import OpenTelemetry
from .wire import ChatRequest

if TYPE_CHECKING:
    from .access.gate import AccessHealth
    from .models.local.sharing import Engines
    from .server.bounds import Load
    from .sync import SyncGateway


log = logging.getLogger("smallfirst")

Admitted = Callable[[ChatRequest], AbstractAsyncContextManager[ChatRequest]]


class Gateway:
    """Routes requests: small model first, the cloud when it must.

    Use it as an async context manager, or call `aclose()` at the end: that flushes the ledger.

    Args:
        settings: By default read as `smallfirst serve` does: `SMALLFIRST_CONFIG`, else `smallfirst.yaml` in the
            working folder, else the built-in defaults and the environment.
        models: Replaces configured models by name; meant for tests and for models of one's own. They stay open when
            the gateway is closed.
        drift: Replaces the monitor of risk budgets; default: one of the budgets in the settings.
        lot: Draws the numbers by which policies explore; default: by a hash of session and turn.
        telemetry: Takes traces; default: what the settings ask for.
        predecessor: The gateway that this one follows with other settings; see `succession`.
        base_url: A running proxy, with `/v1`: what is made is then a `RemoteGateway`, whose `route` is to be awaited.
        api_key: The proxy's key, where it asks for one.

    Raises:
        SettingsError: The settings file cannot be used.
    """

    def __new__(
        cls,
        settings: Settings | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        **own: object,
    ) -> Self:
        """Make a gateway in this process, or the face of a running proxy."""
        if base_url is None:
            return super().__new__(cls)
        from .remote.gateway import RemoteGateway

        if settings is not None or any(value is not None for value in own.values()):
            raise TypeError("a proxy has settings and models of its own: give either a base_url or these")
        return RemoteGateway(base_url, api_key=api_key)  # type: ignore[return-value]

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        models: Mapping[str, Model] | None = None,
        drift: DriftMonitor | None = None,
        telemetry: Telemetry | None = None,
        lot: Lot | None = None,
        predecessor: Gateway | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self._engines: Engines | None = None if predecessor is None else predecessor._engines
        self.settings = settings or _settings_from_environment()
        before = predecessor
        self.health: ModelHealth = ModelHealth(_breakers(self.settings)) if before is None else before.health
        self.prices = PriceList()
        self._hold_models(models, before)
        self._judge(drift, before)
        self.reuse = self._open_cache(before)
        self.ledger: Ledger = Ledger(self.settings.ledger) if before is None else before.ledger
        self.metrics: Metrics = Metrics(lambda: gauges(self)) if before is None else before.metrics
        self.telemetry: Telemetry | None = telemetry or (
            telemetry_of(self.settings) if before is None else before.telemetry
        )
        self._serve(lot, before)
        # Set by a server: what readiness and metrics say of its keys and limits.
        self.access: Callable[[], AccessHealth] | None = None if before is None else before.access
        # Likewise: what metrics say of its load.
        self.load: Callable[[], Load] | None = None if before is None else before.load
        self._started = False
        self.model_states = dict.fromkeys(self.models, "not loaded")
        # Whose states these are.
        self._states_of: dict[str, Model] = dict(self.models)

    def _hold_models(self, given: Mapping[str, Model] | None, before: Gateway | None) -> None:
        self._memory: MemoryBudget = (
            MemoryBudget(self.settings.models_memory) if before is None else before._memory
        )
        self._given: dict[str, Model] = dict(given or {}) if before is None else before._given
        kept = {} if before is None else models_still_good(before, self.settings)
        made = make_models(
            self.settings, without={*self._given, *kept}, budget=self._memory, engines=self._engines
        )
        self.own_models: dict[str, Model] = {**kept, **made}
        self.models: dict[str, Model] = {**self.own_models, **self._given}

    def _judge(self, drift: DriftMonitor | None, before: Gateway | None) -> None:
        """Make what decides who answers."""
        settings = self.settings
        self._scorer: Scorer = Scorer.load() if before is None else before._scorer
        self.budgets = Budgets.load(settings, self._scorer, self.prices.price)
        self.drift: DriftMonitor = drift or self._watch(before)
        same = before is not None and before.settings.models == settings.models
        self.expected: ExpectedCost = (
            before.expected if before and same else ExpectedCost(settings.models, self.prices.price)
        )
        self.routing = Routing(
            settings,
            self._scorer,
            self.health,
            budgets=self.budgets,
            expected=self.expected,
            specialists={m.name: m.certainty for m in self.models.values() if isinstance(m, ClassifierModel)},
            tightened=self.drift.tightened,
        )

    def _serve(self, lot: Lot | None, before: Gateway | None) -> None:
        """Make what runs requests and writes them down."""
        settings = self.settings
        self.screener = screener_of(settings)
        asked = self.models
        if self.screener.needed:
            asked = doors(self.models, {m.name for m in settings.models if m.tier == "cloud"})
        self.billing = Billing(
            settings, self.prices, self.routing.count_tokens, expected=self.expected.output_tokens
        )
        self.counterfactual = Counterfactual(settings, self.prices, self.expected)
        self._remembers = before is not None and before.expected is self.expected
        self.ratings: Feedback = (
            before.ratings
            if before is not None and before.drift is self.drift
            else Feedback(
                self.ledger,
                self.drift,
                settings.drift,
                elsewhere=2 * settings.ledger.flush_interval if settings.server.workers > 1 else 0.0,
            )
        )
        records = Records(self.ledger, self.metrics, self.telemetry)
        self.shadow = Shadow(
            settings,
            asked,
            self.drift,
            billing=self.billing,
            available=self.health.available,
            keep=records.keep,
            paired=self.counterfactual.paired,
        )
        budgets = {name: m.budget for name, m in self.models.items() if isinstance(m, CloudModel)}
        self.serving: Serving = Serving(
            routing=self.routing,
            screener=self.screener,
            reuse=self.reuse,
            runner=Runner(asked, self.health, self.billing, budgets),
            billing=self.billing,
            counterfactual=self.counterfactual,
            shadow=self.shadow,
            books=Books(
                records, settings.baseline_model, self.counterfactual, self.reuse, self.ratings, self.drift
            ),
            lot=lot or (Lots() if before is None else before.serving.lot),
        )

    def share_engines(self, engines: Engines) -> None:
        """Take local models' processes from somewhere else, for good; see `processes`. Call it before one is loaded."""
        self._engines = engines
        for model in self.own_models.values():
            if isinstance(model, LocalModel):
                model.share_engines(engines)

    @property
    def cache(self) -> Cache | None:
        """The cache's store; None where it is switched off."""
        return None if self.reuse is None else self.reuse.recall.cache

    def _open_cache(self, before: Gateway | None) -> Reuse | None:
        settings = self.settings.cache
        if before is not None and settings == before.settings.cache:
            return before.reuse
        goes_on = before is not None and same_store(before.settings, self.settings)
        cache = before.cache if before is not None and goes_on else open_cache(settings)
        if cache is None:
            return None
        embedding = self._scorer.embedding
        recall = Recall(
            cache,
            settings,
            equivalence=Equivalence.load(embedding),
            volatility=Volatility.load(embedding),
        )
        return Reuse(recall, settings, tightened=self.drift.tightened, again=self._again)

    async def _again(self, journey: Journey) -> Answer:
        return await self.serving.ask_again(journey)

    def _watch(self, before: Gateway | None) -> DriftMonitor:
        budgets = self.settings.risk_budgets
        # Evidence is of these budgets and models; with others it begins anew.
        if before is not None and _watched(before.settings) == _watched(self.settings):
            return before.drift
        known = self.budgets.reference
        local = [model.name for model in self.settings.models if model.tier == "local"]
        if self.budgets.reference_of is not None:
            # Other models' scores are not what the reference holds.
            local = [self.budgets.reference_of]
        return DriftMonitor(
            self.settings.drift,
            budgets=budgets,
            local=local,
            references=None if known is None else dict.fromkeys(budgets, known),
        )

    @classmethod
    def sync(
        cls, settings: Settings | None = None, *, base_url: str | None = None, api_key: str | None = None
    ) -> SyncGateway:
        """Return the same gateway with blocking methods, for code without an event loop.

        Args:
            settings: As for `Gateway`.
            base_url: A running proxy, with `/v1`, in place of a gateway in this process.
            api_key: The proxy's key, where it asks for one.
        """
        from .sync import SyncGateway

        return SyncGateway(settings, base_url=base_url, api_key=api_key)

    async def __aenter__(self) -> Gateway:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def start(self) -> None:
        """Open the ledger. Called by itself at the first request; models load when they are first needed."""
        if not self._started:
            self._started = True
            self.ledger.start()
            self._remember()
            if self.telemetry is not None:
                self.telemetry.start()

    def _remember(self) -> None:
        """Learn in the background how long answers were in earlier days, so that a restart forgets nothing."""
        if not self._remembers:
            self._remembers = True
            self.counterfactual.remember(self.ledger.store)

    def take_over(self, before: Gateway, new: Collection[str]) -> None:
        """Go on where the gateway before ends: at once, and not to be undone. It must not begin further requests.

        Args:
            before: The predecessor that was given.
            new: Names of models that it has not, or has otherwise; they are loaded.
        """
        self._started = before._started
        self._remember()
        self.health.follow(_breakers(self.settings))
        for name in new:
            # What is known of the one before says nothing of this one.
            self.health.succeeded(name)
            before.model_states[name] = "ready"
        for name in before.model_states.keys() - self.models.keys():
            del before.model_states[name]
        # The same table: the one before may still be loading what both have, and what only that has.
        self.model_states, self._states_of = before.model_states, before._states_of
        self._states_of.clear()
        self._states_of.update(self.models)
        self.shadow.results = before.shadow.results
        self.metrics.read_from(lambda: gauges(self))
        if isinstance(self.telemetry, OpenTelemetry):
            self.telemetry.serves(self.settings.models)
        if self.ratings is not before.ratings:
            self.ratings.taken = before.ratings.taken
        if self.reuse is not None and before.reuse is not None:
            self.reuse.go_on(before.reuse, tightened=self.drift.tightened, again=self._again)

    async def load_models(self) -> None:
        """Load and connect every model ahead of the first request; a model that fails is tried again when asked."""
        if self.cache is not None:
            await self.cache.start()
        await asyncio.gather(*(self._load(name, model) for name, model in self.models.items()))

    async def _load(self, name: str, model: Model) -> None:
        self.model_states[name] = "loading"
        state = "ready"
        try:
            await model.start()
        except SmallfirstError as exc:
            state = f"failed: {exc}"
            log.error("model %s could not be loaded: %s", name, exc)
        # Meanwhile the settings may have been read again, without it or with another of its name.
        if self._states_of.get(name) is model:
            self.model_states[name] = state

    async def aclose(self) -> None:
        """Finish cache writes, free models and flush the ledger. Safe to call twice; a later request opens it again."""
        await self.shadow.aclose()
        await asyncio.to_thread(self.counterfactual.close)
        if self.reuse is not None:
            await self.reuse.aclose()
        await asyncio.gather(*(model.aclose() for model in self.own_models.values()))
        await asyncio.to_thread(self.ledger.close)
        if self.telemetry is not None:
            await asyncio.to_thread(self.telemetry.close)
        self._started = False

    # --- what callers use -------------------------------------------------------------------------------------

    async def complete(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> Answer:
        """Answer in one piece.

        Args:
            request: A chat completion body, or just the user's message.
            fields: More fields of the body, e.g. `model="auto/thrifty"`, `max_tokens=50`.

        Raises:
            RequestError: One of its kinds; `errors` has the tree.
        """
        self.start()
        return await self.serving.complete(ChatRequest.of(request, fields, stream=False))

    async def stream(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> AnswerStream:
        """Answer in pieces. Errors before the first piece are raised here; later ones while iterating.

        Args and errors are those of `complete`.
        """
        self.start()
        return await self.serving.stream(ChatRequest.of(request, fields, stream=True))

    def route(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> Decision:
        """Return the decision alone; nothing is run.

        Raises:
            RequestError: As `complete` would, where it fails before a model is asked.
        """
        parsed = ChatRequest.of(request, fields, stream=None)
        target = self.serving.target(parsed)
        screened = self.screener.screened(parsed, target.policy)
        return self.routing.plan(screened, read_hints(parsed), target).decision

    def count_tokens(self, request: ChatRequest | Mapping[str, Any] | str) -> int:
        """Return an estimate of a prompt's tokens, tools and schema included; nothing is run."""
        return self.routing.input_tokens(ChatRequest.of(request, {}, stream=None))

    async def classify(
        self,
        text: str | Sequence[str],
        labels: Sequence[str],
        *,
        tenant: str = "default",
        headers: Mapping[str, str] | None = None,
        admitted: Admitted | None = None,
        **fields: Any,
    ) -> list[tuple[dict[str, Any], Receipt]]:
        """Label texts.

        Args:
            text: One text or several.
            labels: Two or more, all different.
            tenant: Whose request it is.
            headers: Request headers that carry hints.
            admitted: What each text's request passes before it is asked: a server's limits; default: nothing.
            fields: `model`, `instructions`, `metadata`, `cache`; see `classification.request`.

        Returns:
            For each text `label`, `probabilities` by label (likeliest first; None where a cloud model answered),
            `method` (`classifier`, `model` or `cloud`) and `model`, with its receipt.

        Raises:
            RequestError: As `complete`; a field is named.
        """
        texts = text if isinstance(text, str) else list(text)
        wanted = parse_classify({"text": texts, "labels": list(labels), **fields})
        model = wanted.model or self.classifying_model(wanted.labels)
        requests = [
            ChatRequest.parse(chat_body(wanted, one, model), tenant=tenant, headers=headers)
            for one in wanted.texts
        ]

        async with AsyncExitStack() as granted:
            if admitted is not None:
                requests = [await granted.enter_async_context(admitted(request)) for request in requests]
            answers = await self.complete_all(requests)
        return [(result_of(answer), answer.receipt) for answer in answers]

    async def complete_all(self, requests: Sequence[ChatRequest]) -> list[Answer]:
        """Answer several at once, each in one piece; when one fails, the others are not wanted any more.

        Raises:
            RequestError: As `complete`.
        """
        asked = [asyncio.ensure_future(self.complete(request)) for request in requests]
        try:
            return await asyncio.gather(*asked)
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def feedback(
        self,
        request_id: str,
        score: float | str | bool,
        *,
        tenant: str = "default",
        comment: str | None = None,
    ) -> float:
        """Say what an answer was worth; of several times the last one is kept. See docs/drift.md.

        Args:
            request_id: The receipt's.
            score: 0 (wrong) to 1 (right), `good`, `bad`, True or False.
            tenant: Whose request it was.
            comment: In words; kept only where the settings say so.

        Returns:
            The score in 0..1.

        Raises:
            RequestNotFound: The tenant has no request of that id.
            InvalidRequest: The score is none.
            LedgerUnavailable: The request is not a recent one, and the ledger cannot be read.
        """
        self.start()
        number = await self.ratings.take(request_id, score, tenant=tenant, comment=comment)
        if self.reuse is not None:
            self.reuse.rated(tenant, request_id, number)
        return number

    async def forget(self, *, tenant: str = "default", namespace: str | None = None) -> int:
        """Forget a tenant's cached answers, or those of one namespace; returns how many there were.

        Raises:
            CacheUnavailable: The store does not answer, so that they may still be there.
        """
        return 0 if self.reuse is None else await self.reuse.forget(tenant, namespace)

    async def report(
        self,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        by: Sequence[str] = ("model", "route"),
        tenant: str | None = None,
    ) -> Report:
        """Add the ledger up: who used what, what it cost, and what all-cloud would have cost.

        Args:
            since: From when on: a time, or as `smallfirst report` takes it (`24h`, `7d`, a date); None: all.
            until: Until when; None: now.
            by: Groups: `day`, `model`, `route`, `agent`, `tenant`, `policy`, `task`, `tag`.
            tenant: Whose requests; None: all.

        Returns:
            `rows`, one a group, and `total`; money in US dollars, times in milliseconds, shares in 0..1.

        Raises:
            LedgerError: Nothing is recorded yet, or the ledger cannot be read.
            ValueError: A time cannot be read, or a group is none of these.
        """
        return await asyncio.to_thread(report_of, self.ledger, since, until, by, self.prices.source, tenant)

    async def embed(self, model: str, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector of length 1 for each text, and how many tokens they have together.

        Raises:
            ModelNotFound: No model of that name is configured with `embeddings: true`.
            RequestError: A text is empty or too long, or the model is not available.
        """
        spec = next((spec for spec in self.settings.models if spec.name == model), None)
        found = self.models.get(model)
        if not isinstance(spec, LocalModelSettings) or not spec.embeddings or not isinstance(found, Embedder):
            able = [
                m.name for m in self.settings.models if isinstance(m, LocalModelSettings) and m.embeddings
            ]
            known = (
                f"Available: {', '.join(able)}"
                if able
                else "None is; set 'embeddings: true' on a local model"
            )
            raise ModelNotFound(
                f"No model '{model[:100]}' is configured for embeddings. {known}.", param="model"
            )
        return await found.embed(texts)

    def classifying_model(self, labels: Collection[str], *, may: Callable[[str], bool] | None = None) -> str:
        """Return who classifies where the caller names nobody: who was trained for it, else who has probabilities.

        Args:
            labels: That there are to choose from.
            may: Whether the caller may ask a model; default: every one.
        """
        trained = [
            model.name
            for model in self.models.values()
            if isinstance(model, ClassifierModel) and set(model.labels) == set(labels)
        ]
        local = [model.name for model in self.settings.models if isinstance(model, LocalModelSettings)]
        return next((name for name in (*trained, *local) if may is None or may(name)), AUTO)


def _watched(settings: Settings) -> tuple[object, ...]:
    local = [model.name for model in settings.models if model.tier == "local"]
    return settings.drift, settings.risk_budgets, local, settings.calibrations


def _breakers(settings: Settings) -> dict[str, Breaker]:
    return {model.name: model.breaker for model in settings.models if isinstance(model, CloudModelSettings)}


def _settings_from_environment() -> Settings:
    return load_settings(find_settings_file(None, os.environ, Path.cwd()), os.environ).settings
