"""Who may ask where no key is needed: programs of this machine, and no web page of another one's.

A page that is open in a browser on this machine can send requests here. It cannot read the answers, as no CORS header
allows that, but each may cost money; and one whose own name was made to point to this machine (DNS rebinding) may read
them, too. Browsers say where a request comes from (`Origin`, Fetch Metadata), and by which name it was sent (`Host`).
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import Forbidden

if TYPE_CHECKING:
    from starlette.datastructures import Headers


def check_origin(headers: Headers, *, method: str, own_name: str) -> None:
    """Check that a request without a key was not sent by another site's page.

    Programs that send neither `Origin` nor `Sec-Fetch-Site` pass, and so do pages of this machine, browser extensions
    and applications with an origin of their own, and links to a page of ours.

    Args:
        headers: Of the request.
        method: Of the request.
        own_name: What the settings say that this server is called by.

    Raises:
        Forbidden: It was, or by a name that is not this machine's.
    """
    host = headers.get("host")
    if host is not None and not _is_here(host, own_name):
        raise Forbidden(
            "No key is configured, so this gateway is asked as localhost or by an address alone.",
            code="unknown_host",
        )
    origin = headers.get("origin")
    if origin is not None:
        foreign = not _is_own(origin, host)
    else:
        link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        foreign = headers.get("sec-fetch-site") == "cross-site" and not link
    if foreign:
        raise Forbidden(
            "No key is configured, so pages of other sites may not ask. Make one with `smallfirst keys create`.",
            code="cross_site",
        )


@lru_cache(maxsize=16)  # the same name over and over
def _is_here(host: str, own_name: str) -> bool:
    """Whether a `Host` cannot be another site's name for this machine: it is our own name, or no name at all."""
    name = _name_of(f"//{host}")
    if name is None:
        return False
    return name == own_name.lower() or _is_localhost(name) or _address(name) is not None


def _is_own(origin: str, host: str | None) -> bool:
    """Whether an `Origin` is this machine's. `null` is that of pages that hide theirs."""
    scheme, _, place = origin.partition("://")
    if scheme not in ("http", "https"):
        # Of extensions and desktop applications; no page can have one.
        return bool(place)
    name = _name_of(origin)
    if name is None:
        return False
    address = _address(name)
    return place == host or _is_localhost(name) or (address is not None and address.is_loopback)


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_localhost(name: str) -> bool:
    return name.rstrip(".") == "localhost" or name.endswith(".localhost")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
