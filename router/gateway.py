"""The gateway: what callers use of the parts that `assembly` makes. The server and the SDK are both thin over this."""

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
from .assembly import Given, Parts, assemble, breakers, serving_of
from .cache import Cache
from .classification.model import ClassifierModel
from .classification.request import chat_body, result_of
from .classification.request import parse as parse_classify
from .drift import DriftMonitor
from .embeddings import embedder_of
from .errors import SmallfirstError
from .exploring import Lot
from .hints import read_hints
from .journey import Journey
from .ledger.report import Report, report_of
from .models.base import Model
from .models.local.model import LocalModel
from .routing import AUTO
from .settings import LocalModelSettings, Settings
from .settings.file import find_settings_file, load_settings
from .status import gauges
from .telemetry.context import Telemetry
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
        before = predecessor
        self.settings = settings or _settings_from_environment()
        self._engines: Engines | None = None if before is None else before._engines
        self._parts: Parts = assemble(
            self.settings,
            Given(models, drift, telemetry, lot),
            None if before is None else before._parts,
            engines=self._engines,
            again=self._again,
            gauges=lambda: gauges(self),
        )
        parts, lasting = self._parts, self._parts.lasting
        self.health, self.ledger, self.metrics = lasting.health, lasting.ledger, lasting.metrics
        self.telemetry = lasting.telemetry
        self.prices = parts.prices
        self.own_models, self.models = parts.own_models, parts.models
        self.budgets, self.drift, self.ratings = parts.budgets, parts.drift, parts.ratings
        self.expected, self.routing = parts.expected, parts.routing
        self.reuse = parts.reuse
        self.serving = serving_of(parts)
        self.screener, self.shadow = self.serving.screener, self.serving.shadow
        self.billing, self.counterfactual = self.serving.billing, self.serving.counterfactual
        # With the same models it knows already what the ledger would tell.
        self._remembers = before is not None and before._parts.expected is parts.expected
        # Set by a server: what readiness and metrics say of its keys and limits.
        self.access: Callable[[], AccessHealth] | None = None if before is None else before.access
        # Likewise: what metrics say of its load.
        self.load: Callable[[], Load] | None = None if before is None else before.load
        self._started = False
        self.model_states = dict.fromkeys(parts.models, "not loaded")
        # Whose states these are.
        self._states_of: dict[str, Model] = dict(parts.models)

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

    async def _again(self, journey: Journey) -> Answer:
        return await self.serving.ask_again(journey)

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
        self.health.follow(breakers(self.settings))
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
        return await embedder_of(self.settings.models, self.models, model).embed(texts)

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


def _settings_from_environment() -> Settings:
    return load_settings(find_settings_file(None, os.environ, Path.cwd()), os.environ).settings
