"""What one model call took: tokens by the kinds that providers price apart, and what of this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

# A count beyond this is none: no call has so many tokens, and the ledger's columns have 64 bits.
MOST_TOKENS = 10**12
_LONGEST_TIER = 40


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one model call.

    Attributes:
        input_tokens: All prompt tokens; cached and written ones are among them, once.
        output_tokens: Generated tokens, reasoning included.
        cached_tokens: Prompt tokens that the model had in its own prefix cache.
        reasoning_tokens: Of the output, tokens that were not shown.
        estimated: Whether some count is our estimate because the model sent none.
        cache_write_tokens: Prompt tokens that the provider wrote to its prompt cache, at a price of its own.
        cache_write_1h_tokens: Of these, what it keeps for an hour, which costs more (Anthropic).
        input_audio_tokens: Of the prompt, heard; neither cached nor written.
        output_audio_tokens: Of the output, spoken.
        service_tier: As the provider names the tier that it served by; None where it said nothing.
        cpu_seconds: Of this machine's processor; None where nothing ran here, or nobody measured it.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    service_tier: str | None = None
    cpu_seconds: float | None = None

    @classmethod
    def from_wire(cls, usage: Mapping[str, Any] | None, *, service_tier: object = None) -> Usage | None:
        """Read a `usage` object; None where there is none, it does not say both prompt and output, or is all zeros.

        Read are OpenAI's fields and those that compatible servers send instead of or beside them (DeepSeek's
        `prompt_cache_hit_tokens`, Anthropic's `cache_read_input_tokens` and `cache_creation_input_tokens`, …). What is
        no count (negative, not finite, text, null, absurdly large) is taken as not sent; a fraction is rounded. Where
        figures contradict each other, the reading is taken under which all of them hold; see docs/money.md.

        Args:
            usage: As decoded.
            service_tier: The reply's, which OpenAI puts beside `usage` and Anthropic into it.
        """
        if not isinstance(usage, Mapping):
            return None
        plain = _plain(usage)
        if plain is not None:
            return cls(*plain, service_tier=tier_name(service_tier))
        return cls._of_any(usage, service_tier)

    @classmethod
    def _of_any(cls, usage: Mapping[str, Any], service_tier: object) -> Usage | None:
        heard = _details(usage, "prompt_tokens_details", "input_tokens_details")
        said = _details(usage, "completion_tokens_details", "output_tokens_details")
        cached = _most(heard, "cached_tokens") or _most(usage, *_CACHED) or 0
        written, written_1h = _written(usage, heard)
        output = _most(usage, "completion_tokens", "output_tokens")
        prompt, total = _prompt(usage, cached + written, output), _most(usage, "total_tokens")
        if output is None and prompt is not None and total is not None and total >= prompt:
            output = total - prompt
        if prompt is None or output is None or not (prompt or output):
            return None
        stored = cached + written
        # Some servers count what is cached apart from the prompt: their figures fit together in no other way.
        if stored and (stored > prompt or total == prompt + output + stored):
            prompt += stored
        output, reasoning = _output(
            output, _most(said, "reasoning_tokens", "thinking_tokens") or _most(usage, "reasoning_tokens"),
            None if total is None else total - prompt,
        )  # fmt: skip
        return cls(
            input_tokens=prompt,
            output_tokens=output,
            cached_tokens=cached,
            reasoning_tokens=reasoning,
            cache_write_tokens=written,
            cache_write_1h_tokens=written_1h,
            input_audio_tokens=min(_most(heard, "audio_tokens") or 0, prompt - stored),
            output_audio_tokens=min(_most(said, "audio_tokens") or 0, output - reasoning),
            service_tier=_tier(usage, service_tier),
        )

    @classmethod
    def of_reply(cls, body: Mapping[str, Any]) -> Usage | None:
        """Read what a `chat.completion` says of itself; None as `from_wire`."""
        return cls.from_wire(body.get("usage"), service_tier=body.get("service_tier"))

    def to_wire(self) -> dict[str, Any]:
        """Return OpenAI's `usage` object; what few servers send is in it only where there is some."""
        heard = {"cached_tokens": self.cached_tokens}
        said = {"reasoning_tokens": self.reasoning_tokens}
        if self.cache_write_tokens:
            heard["cache_write_tokens"] = self.cache_write_tokens
        if self.input_audio_tokens:
            heard["audio_tokens"] = self.input_audio_tokens
        if self.output_audio_tokens:
            said["audio_tokens"] = self.output_audio_tokens
        wire: dict[str, Any] = {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "prompt_tokens_details": heard,
            "completion_tokens_details": said,
        }
        if self.cache_write_1h_tokens:
            wire["cache_creation"] = {"ephemeral_1h_input_tokens": self.cache_write_1h_tokens}
        return wire


def total(*usages: Usage) -> Usage:
    """Return the sum of some usages; it is an estimate where one of them is, and has the tier of the first."""
    seconds = [usage.cpu_seconds for usage in usages if usage.cpu_seconds is not None]
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        estimated=any(usage.estimated for usage in usages),
        cache_write_tokens=sum(usage.cache_write_tokens for usage in usages),
        cache_write_1h_tokens=sum(usage.cache_write_1h_tokens for usage in usages),
        input_audio_tokens=sum(usage.input_audio_tokens for usage in usages),
        output_audio_tokens=sum(usage.output_audio_tokens for usage in usages),
        service_tier=next((usage.service_tier for usage in usages if usage.service_tier), None),
        cpu_seconds=math.fsum(seconds) if seconds else None,
    )


def tier_name(told: object) -> str | None:
    """Return a service tier as it is written down; None where what a reply tells of it is no name."""
    return (told.strip().lower()[:_LONGEST_TIER] or None) if isinstance(told, str) else None


class Meter:
    """Tells what an attempt has taken of this machine so far, whichever way it ends; shared by all its samples.

    A local model reports to the meter of its request while it answers; a model that runs elsewhere does not.

    Attributes:
        cpu_seconds: None until somebody reported.
        input_tokens, cached_tokens, output_tokens: As the engine counted them so far.
        retries, billed_tries: Of a call that may not have ended yet; as a `Reply`'s.
        under_way: Tries that go on: one, and none while the next one is waited for.
    """

    def __init__(self) -> None:
        self.cpu_seconds: float | None = None
        self.input_tokens = self.cached_tokens = self.output_tokens = 0
        self.retries = self.billed_tries = 0
        self.under_way = 1

    def try_failed(self, billed: int) -> None:
        """Take note that a try failed and another one is waited for; `billed`: how many of them may be billed."""
        self.billed_tries += billed
        self.under_way = 0

    def tried_again(self) -> None:
        """Take note that the next try begins."""
        self.retries += 1
        self.under_way = 1

    def add(self, cpu_seconds: float, *, prompt: int = 0, cached: int = 0, output: int = 0) -> None:
        """Take note of what was used since the last report. The reports of one meter come from one thread."""
        self.cpu_seconds = (self.cpu_seconds or 0.0) + cpu_seconds
        self.input_tokens += prompt
        self.cached_tokens += cached
        self.output_tokens += output

    @property
    def counted(self) -> Usage | None:
        """What an engine counted of an answer that was not finished; None where none did.

        It may have been some tokens further by the time it stopped: that makes it an estimate.
        """
        if not self.input_tokens:
            return None
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_tokens=self.cached_tokens,
            estimated=True,
            cpu_seconds=self.cpu_seconds,
        )


# --- what nearly all send -----------------------------------------------------------------------------------------

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class _Heard(msgspec.Struct, forbid_unknown_fields=True):
    cached_tokens: _Tokens = 0
    audio_tokens: Literal[0] = 0


class _Said(msgspec.Struct, forbid_unknown_fields=True):
    reasoning_tokens: _Tokens = 0
    audio_tokens: Literal[0] = 0
    accepted_prediction_tokens: _Tokens = 0
    rejected_prediction_tokens: _Tokens = 0


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """OpenAI's `usage` of a text, and nothing besides."""

    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    total_tokens: _Tokens
    prompt_tokens_details: _Heard | None = None
    completion_tokens_details: _Said | None = None


def _plain(usage: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """Return prompt, output, cached and reasoning tokens where a `usage` can be read in one way only, else None.

    It says the same as reading it field by field, at a tenth of the cost.
    """
    try:
        found = msgspec.convert(usage, _Plain)
    except msgspec.ValidationError:
        return None
    prompt, output = found.prompt_tokens, found.completion_tokens
    cached = 0 if found.prompt_tokens_details is None else found.prompt_tokens_details.cached_tokens
    said = found.completion_tokens_details
    reasoning = 0 if said is None else said.reasoning_tokens
    fits = found.total_tokens == prompt + output > 0 and cached <= prompt and reasoning <= output
    return (prompt, output, cached, reasoning) if fits else None


# --- reading ------------------------------------------------------------------------------------------------------

# DeepSeek, Anthropic, Moonshot.
_CACHED = ("prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens")


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    found = (usage.get(name) for name in names)
    return next((details for details in found if isinstance(details, Mapping)), {})


def _count(value: object) -> int | None:
    """Return a token count, or None where a value is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_TOKENS:
        return None
    return value if isinstance(value, int) else round(value)


def _most(found: Mapping[str, Any], *names: str) -> int | None:
    """Return the largest count by any of these names: servers that send several leave some at 0."""
    counts = [count for name in names if (count := _count(found.get(name))) is not None]
    return max(counts, default=None)


def _written(usage: Mapping[str, Any], heard: Mapping[str, Any]) -> tuple[int, int]:
    """Return what was written to the prompt cache, and what of it is kept for an hour."""
    by_age = [
        details
        for found in (usage.get("cache_creation"), heard.get("cache_creation_token_details"))
        if isinstance(details := found, Mapping)
    ]
    hour = max((_most(details, "ephemeral_1h_input_tokens") or 0 for details in by_age), default=0)
    minutes = max((_most(details, "ephemeral_5m_input_tokens") or 0 for details in by_age), default=0)
    written = _most(heard, "cache_write_tokens", "cache_creation_tokens") or 0
    written = max(written, _most(usage, "cache_creation_input_tokens") or 0, hour + minutes)
    return written, hour


def _prompt(usage: Mapping[str, Any], stored: int, output: int | None) -> int | None:
    """Return the prompt's tokens as they are told."""
    prompt = _most(usage, "prompt_tokens")
    if prompt is not None:
        return prompt
    own = _most(usage, "input_tokens")
    if own is not None:
        # OpenAI's responses count cached tokens in, and say so in details; Anthropic counts them apart.
        return own if "input_tokens_details" in usage else own + stored
    missed = _most(usage, "prompt_cache_miss_tokens")
    if missed is not None:
        return missed + stored
    total = _most(usage, "total_tokens")
    return total - output if total is not None and output is not None and total >= output else None


def _output(output: int, reasoning: int | None, rest: int | None) -> tuple[int, int]:
    """Return the output's tokens and what of them is reasoning.

    Args:
        output: As told.
        reasoning: As told.
        rest: The total less the prompt; None where no total was told.
    """
    reasoning = reasoning or 0
    # xAI counts reasoning apart. Google's compatible endpoint tells it by the total alone.
    if reasoning > output or (reasoning and rest == output + reasoning):
        output += reasoning
    elif not reasoning and rest is not None and rest > output:
        reasoning, output = rest - output, rest
    return output, reasoning


def _tier(usage: Mapping[str, Any], told: object) -> str | None:
    # Anthropic tells its fast mode by `speed`.
    fast = "fast" if usage.get("speed") == "fast" else None
    return fast or tier_name(told) or tier_name(usage.get("service_tier"))
