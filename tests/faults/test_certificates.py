"""Upstreams whose certificate does not say who they should be: nothing is sent to them, and nothing is tried again."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from fixtures.faulty_upstream import FaultyUpstream, OpenHouse, Seen, target

from smallfirst.router.settings import CloudModelSettings

PAST, FUTURE = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Whom the gateway trusts."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return made


def upstream_of(signer: trustme.CA, *names: str, **fields: Any) -> tuple[FaultyUpstream, list[str]]:
    """Return an upstream with a certificate for these names, and where it notes each connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    signer.issue_cert(*names, **fields).configure_cert(context)
    greeted: list[str] = []
    context.sni_callback = lambda *_: greeted.append("hello")
    return FaultyUpstream(tls=context), greeted


@asynccontextmanager
async def listening(upstream: FaultyUpstream, **fields: Any) -> AsyncIterator[CloudModelSettings]:
    """Give the settings of the model that it serves; a call would be tried again twice."""
    async with upstream.listening():
        base_url = f"https://127.0.0.1:{upstream.port}/v1"
        retries = {"max": 2, "base_delay": 0}
        yield target(upstream, name="signed", base_url=base_url, retries=retries, **fields)


async def test_one_that_is_who_it_should_be_is_asked(open_house: OpenHouse, authority: trustme.CA) -> None:
    upstream, greeted = upstream_of(authority, "127.0.0.1")
    async with listening(upstream) as model, open_house(model) as house:
        assert await house.ask(model="signed") == Seen(200, None, "Paris is the answer.")
    assert len(greeted) == len(upstream.calls) == 1


async def refused(open_house: OpenHouse, upstream: FaultyUpstream, greeted: list[str], stream: bool) -> str:
    """Ask, see that it is refused at once and that the breaker opens; returns the words."""
    async with listening(upstream, breaker={"failures": 1, "rest": 60}) as model, open_house(model) as house:
        body = {"model": "signed", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        response = await house.client.post("/chat/completions", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (503, "upstream_untrusted")
        assert not house.gateway.health.available("signed")
        (entry,) = await house.entries(1)
    assert (entry.status, entry.error_code, entry.cost_usd) == ("error", "upstream_untrusted", 0)
    assert [(a.outcome, a.retries) for a in entry.attempts] == [("error", 0)]
    assert (len(greeted), upstream.calls) == (1, [])
    words: str = error["message"]
    return words


FORMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@FORMS
async def test_one_that_nobody_trusted_has_signed_is_refused(
    open_house: OpenHouse, authority: trustme.CA, stream: bool
) -> None:
    upstream, greeted = upstream_of(trustme.CA(), "127.0.0.1")
    words = await refused(open_house, upstream, greeted, stream)
    assert words == "The certificate of the upstream of model 'signed' is signed by nobody that is trusted."


@FORMS
async def test_one_for_another_name_is_refused(
    open_house: OpenHouse, authority: trustme.CA, stream: bool
) -> None:
    upstream, greeted = upstream_of(authority, "upstream.example")
    words = await refused(open_house, upstream, greeted, stream)
    assert words == "The certificate of the upstream of model 'signed' is for another address."


@FORMS
async def test_one_that_has_expired_is_refused(
    open_house: OpenHouse, authority: trustme.CA, stream: bool
) -> None:
    upstream, greeted = upstream_of(
        authority, "127.0.0.1", not_before=PAST - timedelta(days=9), not_after=PAST
    )
    words = await refused(open_house, upstream, greeted, stream)
    assert words == "The certificate of the upstream of model 'signed' has expired."


async def test_one_that_is_not_valid_yet_is_refused(open_house: OpenHouse, authority: trustme.CA) -> None:
    upstream, greeted = upstream_of(authority, "127.0.0.1", not_before=FUTURE)
    words = await refused(open_house, upstream, greeted, stream=False)
    assert words == "The certificate of the upstream of model 'signed' is not valid yet."


@FORMS
async def test_another_target_answers_in_its_place(
    open_house: OpenHouse, authority: trustme.CA, stream: bool
) -> None:
    upstream, _ = upstream_of(trustme.CA(), "127.0.0.1")
    spare = FaultyUpstream()
    async with listening(upstream) as model, spare.listening():
        models = model, target(spare, name="spare")
        async with open_house(*models, name="unused", tier="local") as house:
            seen = await house.ask(model="auto/quality", stream=stream)
            (entry,) = await house.entries(1)
    assert (seen.status, seen.done) == (200, True)
    assert [(a.model, a.outcome) for a in entry.attempts] == [("signed", "error"), ("spare", "ok")]
    assert (len(spare.calls), upstream.calls) == (1, [])
