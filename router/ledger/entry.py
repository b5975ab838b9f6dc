"""What is written down about a request. Never its prompt, never its answer."""

from __future__ import annotations

from typing import Literal

import msgspec

AttemptOutcome = Literal["ok", "discarded", "unused", "error", "timeout", "cancelled", "broken"]
EntryKind = Literal["request", "shadow", "refresh"]


class AttemptRecord(msgspec.Struct, frozen=True):
    """One model that was asked.

    Attributes:
        outcome: `discarded`: it answered, but not well enough; `unused`: it was asked early and not needed, or another
            one began first.
        retries: How often the same model was tried again within the attempt.
        input_tokens, output_tokens: Of all its samples; cached and written ones are among the input, reasoning among
            the output.
        cost_usd: None where the price is unknown.
        error_code: Of a failure; of a discarded answer `unsure`, `disagreed` or `invalid`.
        early: Whether it was asked while the model before it still answered.
        hedge: Whether it was asked as the model before it had not begun to answer in time; it is `early` as well.
        cached_tokens, cache_write_tokens: Read from and written to the provider's prompt cache.
        estimated: The model sent no counts; these are ours.
        service_tier: As the provider names it (`flex`, `batch`, `priority`); None where it said nothing.
        cpu_seconds: Of this machine; None where nothing ran here.
        energy_wh, gco2e: Estimated; None where nothing is known.
    """

    model: str
    tier: Literal["local", "cloud"]
    outcome: AttemptOutcome
    retries: int
    duration_ms: float
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    error_code: str | None = None
    early: bool = False
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    service_tier: str | None = None
    cpu_seconds: float | None = None
    energy_wh: float | None = None
    gco2e: float | None = None
    hedge: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer turned out to be worth. A later one of the same request and source replaces it.

    Attributes:
        source: `feedback` of the caller, or `shadow`: comparison with the baseline's answer.
        recorded_at: Unix seconds.
        score: 0 (wrong) to 1 (right); None where it could not be told.
        loss: Against the baseline, in [-1, 1]; None where it is not known.
        detail: How it came about, as a stable word.
        comment: The caller's; kept only where the settings say so.
    """

    request_id: str
    source: Literal["feedback", "shadow"]
    tenant: str
    recorded_at: float
    policy: str = ""
    model: str | None = None
    score: float | None = None
    loss: float | None = None
    detail: str = ""
    comment: str | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    Attributes:
        kind: `request` of a caller, or one of our own, that costs money like any other, but nobody asked for it:
            `shadow` compares an answer with the baseline's; `refresh` renews or checks an answer of the cache.
        started_at: Unix seconds.
        duration_ms: Until the end of the answer.
        ttft_ms: Until the first chunk of a stream.
        overhead_ms: Time that the gateway itself added before the answer.
        requested_model: As the caller named it.
        route: `none` where nothing answered.
        model: That answered; None where none did.
        reason_code, reason: Why it was routed so.
        scores: P(right) by model.
        known: False where the request was unlike everything that the classifier has seen.
        input_tokens: Cached ones included.
        usage_estimated: Of some attempt the model sent no counts, or not all: these, and so the cost, are ours in part.
        cost_usd: Of all attempts; None where a price is unknown.
        baseline_cost_usd: The same request on the baseline model; None where unknown.
        http_status: What a server answers with; 499 where the caller left.
        cache_write_tokens: Written to the provider's prompt cache; among `input_tokens`.
        service_tier: Of the model that answered; None where it said nothing.
        cpu_seconds: Of this machine, over all attempts; None where nothing ran here.
        energy_wh, gco2e: Over all attempts, estimated; None where one is not known.
        baseline_output_tokens: How many the baseline was predicted to need; None where the answer's own count stands
            for it. Where the baseline answered itself, its own count is in the price, and this tests the predictions.
        key_id: Of the virtual key; None without.
        propensity: P(the tier that was asked first) at the time; 1 where nothing was left to chance, None unknown.
        explored: Whether chance, not the score, chose that tier.
        trace_id: W3C trace context's, in hex; None without.
    """

    request_id: str
    started_at: float
    duration_ms: float
    ttft_ms: float | None = None
    overhead_ms: float = 0.0
    tenant: str = "default"
    agent: str | None = None
    step: str | None = None
    session: str | None = None
    tags: tuple[str, ...] = ()
    requested_model: str = "auto"
    policy: str = ""
    route: Literal["local", "cloud", "cache", "none"] = "none"
    model: str | None = None
    reason_code: str = ""
    reason: str = ""
    task: str | None = None
    difficulty: float | None = None
    scores: dict[str, float] = {}
    known: bool | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    usage_estimated: bool = False
    cost_usd: float | None = None
    baseline_model: str | None = None
    baseline_cost_usd: float | None = None
    cache: str = "off"
    attempts: tuple[AttemptRecord, ...] = ()
    status: Literal["ok", "error", "cancelled"] = "ok"
    error_code: str | None = None
    http_status: int = 200
    stream: bool = False
    kind: EntryKind = "request"
    cache_write_tokens: int = 0
    service_tier: str | None = None
    cpu_seconds: float | None = None
    energy_wh: float | None = None
    gco2e: float | None = None
    baseline_output_tokens: int | None = None
    key_id: str | None = None
    propensity: float | None = None
    explored: bool = False
    trace_id: str | None = None

    @property
    def saved_usd(self) -> float | None:
        """Against the baseline; None where either cost is unknown."""
        if self.cost_usd is None or self.baseline_cost_usd is None:
            return None
        return self.baseline_cost_usd - self.cost_usd
