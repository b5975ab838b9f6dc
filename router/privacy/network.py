"""Addresses of people and machines on networks: e-mail, IP, and of cryptocurrencies."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator

from .kinds import Place, Text

_LOCAL_PART = re.compile(r"[\w.+%'-]{1,64}\Z")
_DOMAIN = re.compile(r"@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")


def emails(read: Text) -> Iterator[Place]:
    """Yield e-mail addresses."""
    text = read.plain
    for match in _DOMAIN.finditer(text):
        local = _LOCAL_PART.search(text, max(0, match.start() - 64), match.start())
        if local is None:
            continue
        start = local.start() + len(local[0]) - len(local[0].lstrip(".'-"))
        if start < match.start():
            yield start, match.end()


# --- IP addresses ---------------------------------------------------------------------------------------------------

# From its first dot on: dots are rarer than digits.
_IPV4 = re.compile(r"\.(?<=\d\.)\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-])(?!\.\d)")
_FIRST = re.compile(r"\d{1,3}\Z")
_IPV6 = re.compile(r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
_VERSION = re.compile(r"(?i)(?:\bversions?|\brelease|\bbuild|\bv)[ :=]{0,3}\Z")


def ips(read: Text) -> Iterator[Place]:
    """Yield public IP addresses; private, loopback and documentation ones say nothing of anybody (RFC 6890)."""
    text = read.plain
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            start = match.start()
            if pattern is _IPV4:
                first = _FIRST.search(text, max(0, start - 3), start)
                start = first.start() if first is not None else start
            before = text[start - 1 : start]
            if (before and (before.isalnum() or before in "._-:")) or _VERSION.search(
                text, max(0, start - 12), start
            ):
                continue
            try:
                address = ipaddress.ip_address(text[start : match.end()])
            except ValueError:
                continue
            if address.is_global and not address.is_multicast:
                yield start, match.end()


# --- cryptocurrencies -----------------------------------------------------------------------------------------------

_BASE58 = re.compile(r"[13LMDT](?<!\w.)[1-9A-HJ-NP-Za-km-z]{25,33}(?!\w)")
_BECH32 = re.compile(r"(?<![A-Za-z0-9])(?:bc|tb|ltc)1[02-9ac-hj-np-z]{8,80}(?!\w)")
_ETHEREUM = re.compile(r"(?<!\w)0x[0-9A-Fa-f]{40}(?!\w)")
_ALPHABET58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ALPHABET32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_CHECKS32 = (1, 0x2BC830A3)


def wallets(read: Text) -> Iterator[Place]:
    """Yield addresses of Bitcoin, Litecoin, Dogecoin and Tron with the right checksum, of Ethereum by their form."""
    text = read.plain
    for match in _BASE58.finditer(text) if read.long_words else ():
        if _base58check(match[0]):
            yield match.span()
    for match in read.matches(_BECH32, ("bc1", "tb1", "ltc1")):
        if _bech32(match[0]):
            yield match.span()
    yield from (match.span() for match in read.matches(_ETHEREUM, ("0x",)))


def _base58check(address: str) -> bool:
    number = 0
    for char in address:
        number = number * 58 + _ALPHABET58.index(char)
    if number.bit_length() > 25 * 8:
        return False
    raw = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]


def _bech32(address: str) -> bool:
    """Check a bech32 or bech32m checksum (BIP 173, BIP 350)."""
    prefix, _, data = address.rpartition("1")
    values = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    check = 1
    for value in [*values, *(_ALPHABET32.index(char) for char in data)]:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for at, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= term if top >> at & 1 else 0
    return check in _CHECKS32
