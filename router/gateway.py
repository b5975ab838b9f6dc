"""The way of a request: recall, score, decide, run, record. The server and the SDK are both thin over this."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from smallfirst.policies import Attempt, Decision

from .answer import Answer, AnswerStream, Receipt
from .cache import Cache, CachedReply, cache_key, entry_ttl, may_read, may_store, open_cache, replay
from .classification.model import ClassifierModel
from .classification.request import ClassifyFields, chat_body, result_of
from .classification.request import parse as parse_classify
from .errors import (
    InvalidRequest,
    ModelError,
    ModelNotFound,
    ModelTimeout,
    ModelUnavailable,
    RequestError,
    SmallfirstError,
    StreamBroken,
    UpstreamError,
)
from .escalation import Unsure, check, hold
from .health import ModelHealth
from .hints import read_hints
from .journey import Journey, Status
from .ledger import Ledger
from .metrics import Metrics
from .models import make_models
from .models.base import Embedder, Model
from .prices import PriceList
from .relay import Relay
from .routing import AUTO, Routing
from .scoring import Scorer
from .settings import LocalModelSettings, Settings
from .settings_file import find_settings_file, load_settings
from .status import gauges
from .wire import ChatRequest, Reply, ReplyStream, Usage

if TYPE_CHECKING:
    from .sync import SyncGateway

T = TypeVar("T")

log = logging.getLogger("smallfirst")

# Statuses by which a cloud says that our account or settings are wrong: another model may still answer.
_NOT_THE_CALLERS_FAULT = frozenset({401, 402, 403, 404})

# Decisions made because a model was down; their answers are not kept, so that the cloud is asked again once it heals.
_DEGRADED = frozenset({"cloud_down", "local_down"})


class Gateway:
    """Routes requests: small model first, the cloud when it must.

    Use it as an async context manager, or call `aclose()` at the end: that flushes the ledger.

    Args:
        settings: By default read as `smallfirst serve` does: `SMALLFIRST_CONFIG`, else `smallfirst.yaml` in the
            working folder, else the built-in defaults and the environment.
        models: Replaces configured models by name; meant for tests and for models of one's own. They stay open when
            the gateway is closed.

    Raises:
        SettingsError: The settings file cannot be used.
    """

    def __init__(
        self, settings: Settings | None = None, *, models: Mapping[str, Model] | None = None
    ) -> None:
        self.settings = settings or _settings_from_environment()
        self.health = ModelHealth()
        self.prices = PriceList()
        self._own_models = make_models(self.settings, without=models or ())
        self.models: dict[str, Model] = {**self._own_models, **(models or {})}
        specialists = {m.name: m.certainty for m in self.models.values() if isinstance(m, ClassifierModel)}
        self.routing = Routing(self.settings, Scorer.load(), self.health, specialists)
        self.cache: Cache | None = open_cache(self.settings.cache)
        self.ledger = Ledger(self.settings.ledger)
        self.metrics = Metrics(lambda: gauges(self))
        self._specs = {model.name: model for model in self.settings.models}
        self._started = False
        self.model_states = dict.fromkeys(self.models, "not loaded")
        # Cache writes that go on after the answer was given; kept here so that they are not collected midway.
        self._background: set[asyncio.Task[None]] = set()

    @classmethod
    def sync(cls, settings: Settings | None = None) -> SyncGateway:
        """Return the same gateway with blocking methods, for code without an event loop."""
        from .sync import SyncGateway

        return SyncGateway(settings)

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

    async def load_models(self) -> None:
        """Load and connect every model ahead of the first request; a model that fails is tried again when asked."""
        await asyncio.gather(*(self._load(name, model) for name, model in self.models.items()))

    async def _load(self, name: str, model: Model) -> None:
        self.model_states[name] = "loading"
        try:
            await model.start()
        except SmallfirstError as exc:
            self.model_states[name] = f"failed: {exc}"
            log.error("model %s could not be loaded: %s", name, exc)
        else:
            self.model_states[name] = "ready"

    async def aclose(self) -> None:
        """Finish cache writes, free models and flush the ledger. Safe to call twice; a later request opens it again."""
        if self._background:
            await asyncio.wait(self._background, timeout=1.0)
        await asyncio.gather(*(model.aclose() for model in self._own_models.values()))
        if self.cache is not None:
            await self.cache.aclose()
        await asyncio.to_thread(self.ledger.close)
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
        journey = self._begin(ChatRequest.of(request, fields, stream=False))
        try:
            cached = await self._recall(journey)
            if cached is not None:
                return self._answer_from_cache(journey, cached)
            reply, attempt, begun = await self._run(journey, partial(_complete, journey.request))
            return self._answer(journey, attempt, reply, begun)
        except RequestError as exc:
            self._record(journey, "error", exc)
            raise
        except asyncio.CancelledError:
            self._record(journey, "cancelled")
            raise

    async def stream(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> AnswerStream:
        """Answer in pieces. Errors before the first piece are raised here; later ones while iterating.

        Args and errors are those of `complete`.
        """
        journey = self._begin(ChatRequest.of(request, fields, stream=True))
        try:
            cached = await self._recall(journey)
            if cached is not None:
                return self._stream_from_cache(journey, cached)
            stream, attempt, begun = await self._run(journey, partial(_stream, journey.request))
        except RequestError as exc:
            self._record(journey, "error", exc)
            raise
        except asyncio.CancelledError:
            self._record(journey, "cancelled")
            raise
        journey.answered_by = attempt
        receipt = journey.receipt(attempt.tier, attempt.model, running=True)
        return AnswerStream(Relay(self, journey, stream, receipt, attempt=attempt, begun=begun))

    def route(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> Decision:
        """Return the decision alone; nothing is run.

        Raises:
            RequestError: As `complete` would, where it fails before a model is asked.
        """
        parsed = ChatRequest.of(request, fields, stream=None)
        return self.routing.plan(
            parsed, read_hints(parsed), self.routing.target(parsed.fields.model)
        ).decision

    async def classify(
        self,
        text: str | Sequence[str],
        labels: Sequence[str],
        *,
        tenant: str = "default",
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> list[tuple[dict[str, Any], Receipt]]:
        """Label texts.

        Args:
            text: One text or several.
            labels: Two or more, all different.
            tenant: Whose request it is.
            headers: Request headers that carry hints.
            fields: `model`, `instructions`, `metadata`, `cache`; see `classification.request`.

        Returns:
            For each text `label`, `probabilities` by label (likeliest first; None where a cloud model answered),
            `method` (`classifier`, `model` or `cloud`) and `model`, with its receipt.

        Raises:
            RequestError: As `complete`; a field is named.
        """
        texts = text if isinstance(text, str) else list(text)
        wanted = parse_classify({"text": texts, "labels": list(labels), **fields})
        model = wanted.model or self._classifying_model(wanted)
        requests = [
            ChatRequest.parse(chat_body(wanted, one, model), tenant=tenant, headers=headers)
            for one in wanted.texts
        ]
        answers = await asyncio.gather(*(self.complete(request) for request in requests))
        return [(result_of(answer), answer.receipt) for answer in answers]

    async def embed(self, model: str, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector of length 1 for each text, and how many tokens they have together.

        Raises:
            ModelNotFound: No model of that name is configured with `embeddings: true`.
            RequestError: A text is empty or too long, or the model is not available.
        """
        spec = self._specs.get(model)
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

    def _classifying_model(self, wanted: ClassifyFields) -> str:
        """Return who classifies where the caller names nobody: who was trained for it, else who has probabilities."""
        for model in self.models.values():
            if isinstance(model, ClassifierModel) and set(model.labels) == set(wanted.labels):
                return model.name
        local = (model.name for model in self.settings.models if isinstance(model, LocalModelSettings))
        return next(local, AUTO)

    # --- the steps --------------------------------------------------------------------------------------------

    def _begin(self, request: ChatRequest) -> Journey:
        self.start()
        return Journey(request, read_hints(request), self.routing.target(request.fields.model))

    async def _recall(self, journey: Journey) -> CachedReply | None:
        """Look the request up; sets `journey.cache`."""
        if self.cache is None:
            return None
        if not may_read(journey.request):
            journey.cache = "bypass"
            return None
        stored = await self.cache.get(cache_key(journey.request, target=journey.target.fingerprint))
        cached = CachedReply.decode(stored) if stored is not None else None
        journey.cache = "miss" if cached is None else "exact"
        return cached

    async def _run(
        self, journey: Journey, call: Callable[[Model, float], Coroutine[Any, Any, T]]
    ) -> tuple[T, Attempt, float]:
        """Decide, then ask one model after the other until one answers and is sure of it.

        Args:
            journey: The request's.
            call: Asks a model; raises `Unsure` where its confidence is less than the second argument.

        Returns:
            What the model returned, which attempt it was, and when it began.
        """
        journey.plan = self.routing.plan(journey.request, journey.hints, journey.target)
        attempts = journey.plan.decision.attempts
        first_error: RequestError | None = None
        spare: tuple[T, Attempt, float] | None = None
        for at, attempt in enumerate(attempts, start=1):
            begun = time.perf_counter()
            least = journey.target.policy.min_confidence if at < len(attempts) else 0.0
            try:
                result = await call(self.models[attempt.model], least)
            except Unsure as exc:
                self._discarded(journey, attempt, exc, begun, attempts[at])
                if exc.answer is not None:
                    spare = cast("T", exc.answer), attempt, begun
            except RequestError as exc:
                self._attempt_failed(journey, attempt, exc, begun)
                if not _another_may_do_better(exc):
                    raise
                first_error = first_error or exc
            except asyncio.CancelledError:
                usage = Usage(input_tokens=journey.plan.input_tokens, estimated=True)
                self.attempt_stopped(journey, attempt, None, usage, begun)
                raise
            else:
                journey.model_seconds += time.perf_counter() - begun
                self.health.succeeded(attempt.model)
                if first_error is not None:
                    journey.fallback_reason = (
                        f"{_failure(journey, first_error)}; {attempt.model} answers instead"
                    )
                return result, attempt, begun
        assert first_error is not None, "a plan has at least one attempt"
        if spare is None or not journey.target.policy.fallback_to_local:
            raise first_error
        journey.fallback_reason = (
            f"{_failure(journey, first_error)}; {spare[1].model} was unsure, but answers"
        )
        return spare

    def _discarded(
        self, journey: Journey, attempt: Attempt, unsure: Unsure, begun: float, following: Attempt
    ) -> None:
        """Note an answer that was not kept; it was made and costs what it cost."""
        journey.model_seconds += time.perf_counter() - begun
        self.health.succeeded(attempt.model)
        usage = unsure.usage or Usage()
        journey.discarded(attempt, begun=begun, usage=usage, cost_usd=self.price(attempt.model, usage))
        why = f"{attempt.model} was unsure ({unsure.value:.2f}, under {unsure.least:.2f})"
        journey.escalation = f"{why}; {following.model} answers"

    def _attempt_failed(self, journey: Journey, attempt: Attempt, exc: RequestError, begun: float) -> None:
        journey.model_seconds += time.perf_counter() - begun
        if isinstance(exc, (ModelTimeout, StreamBroken)):
            # It may have read the prompt before it went silent, and that is billed.
            assert journey.plan is not None
            usage = Usage(input_tokens=journey.plan.input_tokens, estimated=True)
            self.attempt_stopped(journey, attempt, exc, usage, begun)
        else:
            journey.failed(attempt, exc, begun=begun)
        if _is_down(exc):
            self.health.failed(attempt.model)

    def attempt_stopped(
        self, journey: Journey, attempt: Attempt, error: RequestError | None, usage: Usage, begun: float
    ) -> None:
        """Note an attempt that ended midway (`error` None: the caller left), with what it used until then."""
        cost = self.prices.price(self._specs[attempt.model], usage)
        journey.failed(attempt, error, begun=begun, usage=usage, cost_usd=cost)

    def _answer(self, journey: Journey, attempt: Attempt, reply: Reply, begun: float) -> Answer:
        usage = reply.usage or self.estimate_usage(journey, _texts(reply.body))
        cost = self.prices.price(self._specs[attempt.model], usage)
        journey.attempted(attempt, begun=begun, usage=usage, cost_usd=cost, retries=reply.retries)
        self.store(journey, attempt, reply.body, cost)
        receipt = journey.receipt(
            attempt.tier, attempt.model, cost_usd=journey.cost_usd, baseline_usd=self._baseline_usd(usage)
        )
        self._record(journey, "ok", overhead_ms=receipt.overhead_ms)
        return Answer(reply.body, receipt)

    def _answer_from_cache(self, journey: Journey, cached: CachedReply) -> Answer:
        return Answer(cached.body, self._receipt_from_cache(journey, cached))

    def _stream_from_cache(self, journey: Journey, cached: CachedReply) -> AnswerStream:
        receipt = self._receipt_from_cache(journey, cached)
        stream = ReplyStream(replay(cached.body))
        return AnswerStream(Relay(self, journey, stream, receipt, attempt=None, begun=journey.begun))

    def _receipt_from_cache(self, journey: Journey, cached: CachedReply) -> Receipt:
        journey.usage = Usage.from_wire(cached.body.get("usage"))
        saved = self._baseline_usd(journey.usage)
        receipt = journey.receipt("cache", cached.model, cost_usd=0.0, baseline_usd=saved)
        self._record(journey, "ok", model=cached.model, overhead_ms=receipt.overhead_ms)
        return receipt

    def store(self, journey: Journey, attempt: Attempt, body: dict[str, Any], cost_usd: float | None) -> None:
        """Keep a whole, successful answer, off the caller's path."""
        assert journey.plan is not None
        plan = journey.plan
        degraded = journey.fallback_reason is not None or plan.decision.code in _DEGRADED
        if self.cache is None or degraded or not may_store(journey.request, body):
            return
        key = cache_key(journey.request, target=journey.target.fingerprint)
        value = CachedReply(body, attempt.model, attempt.tier, cost_usd, time.time()).encode()
        ttl = entry_ttl(journey.request, self.settings.cache.ttl)
        self._in_background(self.cache.set(key, value, ttl=ttl))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def estimate_usage(self, journey: Journey, text: str) -> Usage:
        """Return token counts for an answer whose model sent none."""
        assert journey.plan is not None
        return Usage(
            input_tokens=journey.plan.input_tokens,
            output_tokens=self.routing.count_tokens(text),
            estimated=True,
        )

    def price(self, model: str, usage: Usage) -> float | None:
        """Return what a model's tokens cost in US dollars, or None where its price is unknown."""
        return self.prices.price(self._specs[model], usage)

    def _baseline_usd(self, usage: Usage | None) -> float | None:
        baseline = self.settings.baseline_model
        return None if baseline is None or usage is None else self.prices.price(baseline, usage)

    def finish_stream(
        self, journey: Journey, receipt: Receipt, status: Status, error: RequestError | None
    ) -> Receipt:
        """Record a stream that has ended, in whichever way; returns the receipt with the cost filled in."""
        self._record(journey, status, error, overhead_ms=receipt.overhead_ms)
        cost, baseline = journey.cost_usd, self._baseline_usd(journey.usage)
        saved = None if cost is None or baseline is None else baseline - cost
        return replace(receipt, cost_usd=cost, saved_usd=saved)

    def _record(
        self,
        journey: Journey,
        status: Status,
        error: RequestError | None = None,
        *,
        model: str | None = None,
        overhead_ms: float | None = None,
    ) -> None:
        if overhead_ms is None:
            overhead_ms = max(0.0, time.perf_counter() - journey.begun - journey.model_seconds) * 1000
        entry = journey.entry(
            status=status,
            model=model,
            error=error,
            overhead_ms=overhead_ms,
            prices=self.prices,
            baseline=self.settings.baseline_model,
        )
        self.ledger.record(entry)
        self.metrics.observe(entry)


async def _complete(request: ChatRequest, model: Model, least: float) -> Reply:
    return check(await model.complete(request), least)


async def _stream(request: ChatRequest, model: Model, least: float) -> ReplyStream:
    stream = await model.stream(request)
    if not least or not stream.tells_confidence:
        return stream
    return await hold(stream, least, whole=request.fields.response_format is not None)


def _failure(journey: Journey, error: RequestError) -> str:
    failed = next(a for a in journey.attempts if a.outcome not in ("ok", "discarded"))
    return f"{failed.model} failed ({error.code or error.status})"


def _settings_from_environment() -> Settings:
    return load_settings(find_settings_file(None, os.environ, Path.cwd()), os.environ).settings


def _another_may_do_better(exc: RequestError) -> bool:
    """Whether the next attempt makes sense: not where a cloud found the request itself wrong."""
    if isinstance(exc, UpstreamError):
        return exc.transient or exc.status in _NOT_THE_CALLERS_FAULT
    # A local model refuses what is too long or too odd for it (InvalidRequest); a cloud may take it.
    return isinstance(exc, (ModelError, InvalidRequest))


def _is_down(exc: RequestError) -> bool:
    if isinstance(exc, UpstreamError):
        return exc.status >= 500
    if isinstance(exc, ModelUnavailable):
        return exc.code != "queue_full"
    return isinstance(exc, (ModelTimeout, StreamBroken))


def _texts(body: Mapping[str, Any]) -> str:
    """All text of a reply's choices, for counting."""
    messages = [choice.get("message") or {} for choice in body.get("choices") or ()]
    calls = [
        call.get("function", {}).get("arguments", "") for m in messages for call in m.get("tool_calls") or ()
    ]
    return "\n".join([*(m.get("content") or "" for m in messages), *calls])
