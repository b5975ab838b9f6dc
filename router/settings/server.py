"""Where the proxy listens, whom it serves, and how much of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from .section import Section


class Limits(Section):
    """Bounds on what clients may send and on what a process takes on, and where the limits of keys are counted."""

    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    max_queue_delay: float = Field(
        default=0.25,
        gt=0,
        description="seconds that work may stand in the process's queue before requests are refused",
    )
    max_in_flight: int = Field(default=2000, ge=1, description="requests being answered at once")
    max_held_bytes: int = Field(
        default=256 * 1024 * 1024, ge=1024, description="bodies of requests being answered, together"
    )
    max_connections: int = Field(default=4096, ge=1, description="of clients at once")
    keep_alive: float = Field(default=75, gt=0, description="seconds that an idle connection is kept")
    header_timeout: float = Field(
        default=10, gt=0, description="seconds in which a request's header must be there"
    )
    slow_client: float = Field(
        default=30, gt=0, description="seconds that a client may send or read more slowly than `min_rate`"
    )
    min_rate: int = Field(
        default=500, ge=1, description="bytes a second in which a body must come and an answer be read"
    )
    max_header_bytes: int = Field(default=64 * 1024, ge=1024, description="URL and headers")
    max_headers: int = Field(default=100, ge=10)
    max_messages: int = Field(
        default=10_000, ge=1, description="of a conversation, parts of messages included"
    )
    max_images: int = Field(default=500, ge=0, description="and sounds and files of a request")
    max_image_bytes: int = Field(
        default=32 * 1024 * 1024, ge=0, description="of these together, as they come (base64)"
    )
    max_tools: int = Field(default=512, ge=0)
    max_schema_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="`tools` together, and the schema of an answer"
    )
    url: SecretStr | None = Field(
        default=None, description="redis://…, shared by replicas; default: `cache.url`, else in this process"
    )
    timeout: float = Field(
        default=0.25, gt=0, description="seconds that Redis may take before it counts as down"
    )
    when_down: Literal["local", "refuse"] = Field(
        default="local",
        description="while Redis is down: `local`: each process enforces its share; `refuse`: 503 for keys with limits",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        description="gateways, each with all its workers; while Redis is down, each takes this part of what is left",
    )


class KeyRules(Section):
    """What a key may do, and how much of it. None: no limit. Days and months are UTC's."""

    models: tuple[str, ...] | None = Field(default=None, description="that may answer; default: all")
    policies: tuple[str, ...] | None = Field(
        default=None,
        description="that may decide; default: all. `auto` follows the first where the default one is not among them",
    )
    rpm: int | None = Field(default=None, ge=1, description="requests a minute")
    tpm: int | None = Field(default=None, ge=1, description="tokens a minute, prompts and answers")
    requests: int | None = Field(default=None, ge=0, description="in the key's whole life")
    requests_per_day: int | None = Field(default=None, ge=0)
    usd_per_day: float | None = Field(default=None, ge=0, le=1e6)
    usd_per_month: float | None = Field(default=None, ge=0, le=1e6)
    max_concurrent: int | None = Field(default=None, ge=1, description="requests at the same time")
    thrifty_at: float = Field(
        default=0.8, gt=0, le=1, description="share of a budget in US dollars from which on `thrifty` decides"
    )
    admin: bool = Field(default=False, description="may see what concerns all tenants, such as `/metrics`")

    @property
    def limited(self) -> bool:
        """Whether anything is counted."""
        counted = (self.rpm, self.tpm, self.requests, self.requests_per_day, self.max_concurrent)
        return self.in_usd or any(limit is not None for limit in counted)

    @property
    def in_usd(self) -> bool:
        """Whether money is counted."""
        return self.usd_per_day is not None or self.usd_per_month is not None


class Key(KeyRules):
    """A bearer key that stands in the settings, and whose it is."""

    key: SecretStr
    tenant: str = Field(default="default", min_length=1, max_length=200)
    name: str | None = Field(
        default=None, pattern=r"^[\w.@-]{1,64}$", description="under which it is counted and reported"
    )
    admin: bool = True

    @field_validator("key")
    @classmethod
    def _fits_into_a_header(cls, key: SecretStr) -> SecretStr:
        if re.fullmatch(r"[!-~]+", key.get_secret_value()) is None:
            raise ValueError("expected a key of visible ASCII characters without spaces")
        return key

    @model_validator(mode="after")
    def _limited_by_name(self) -> Key:
        if self.limited and self.name is None:
            raise ValueError("a key with limits needs a 'name': what it has used is kept under it")
        return self


class ServerSettings(Section):
    """Where the proxy listens, and whom it serves."""

    host: str = "127.0.0.1"
    port: int = Field(default=4100, ge=0, le=65535)
    keys: tuple[Key, ...] = ()
    key_store: Path | None = Field(
        default=None, description="of `smallfirst keys`; default: `keys.db` beside the ledger"
    )
    admin_key: SecretStr | None = Field(
        default=None, min_length=16, description="opens `/admin/…`; without one these answer 404"
    )
    workers: int = Field(
        default=1, ge=1, le=256, description="processes that serve; local models are shared by them"
    )
    grace: float = Field(
        default=25.0,
        ge=0,
        le=3600,
        description="seconds that requests under way have after SIGTERM before they are cut",
    )
    insecure_no_keys: bool = Field(
        default=False,
        description="serve other machines without any key: whoever reaches the port spends your money",
    )

    @field_validator("keys")
    @classmethod
    def _names_are_unique(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        names = [key.name for key in keys if key.name is not None]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is given to two keys")
        return keys


def check_rules(rules: KeyRules, models: Sequence[str], policies: Sequence[str]) -> None:
    """Check the names in a key's rules.

    Raises:
        ValueError: One is none of these.
    """
    for what, named, known in (("model", rules.models, models), ("policy", rules.policies, policies)):
        for name in named or ():
            if name not in known:
                raise ValueError(f"a key names the {what} {name!r}; there are {', '.join(known)}")
        if named is not None and not named:
            raise ValueError(f"a key may use no {what} at all; leave the field out to allow all")
