"""A cookie says who signed in, and nobody else can make one."""

import pytest

from smallfirst.router.dashboard.sessions import LIFETIME, Sessions

DIGEST = b"d" * 32


def test_a_cookie_names_its_key_until_it_is_over() -> None:
    value = Sessions().make("key_1: ü", DIGEST, 1000.0)
    assert Sessions.identity(value, 1000.0) == "key_1: ü"
    assert Sessions.identity(value, 1000.0 + LIFETIME) is None
    assert value.isascii()
    assert not set(value) & set(' ,;"')


def test_only_its_maker_and_its_key_hold_it() -> None:
    sessions = Sessions()
    value = sessions.make("key_1", DIGEST, 1000.0)
    assert sessions.holds(value, DIGEST)
    assert not sessions.holds(value, b"e" * 32)
    assert not Sessions().holds(value, DIGEST)


def test_replicas_share_it_by_the_admin_key() -> None:
    value = Sessions(b"one admin key of many letters").make("admin", DIGEST, 1000.0)
    assert Sessions(b"one admin key of many letters").holds(value, DIGEST)
    assert not Sessions(b"another admin key of letters").holds(value, DIGEST)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_no_part_of_it_can_be_changed(part: int) -> None:
    sessions = Sessions()
    parts = sessions.make("key_1", DIGEST, 1000.0).split(".")
    parts[part] = {0: "99999999999", 1: "YWRtaW4=", 2: "0" * 64}[part]
    assert not sessions.holds(".".join(parts), DIGEST)


@pytest.mark.parametrize(
    "value", ["", ".", "..", "a.b.c", "99999999999.!.x", "9" * 5000 + ".YQ==.x", "99999999999./w==.x"]
)
def test_what_is_no_cookie_of_ours_names_nobody(value: str) -> None:
    assert Sessions.identity(value, 0.0) is None
