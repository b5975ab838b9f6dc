"""The listening sockets of a port that several processes serve."""

from __future__ import annotations

import errno
import socket
import sys

from ..errors import SettingsError
from .listeners import take_no_more

# Connections that the system takes ahead of a process; as uvicorn's own.
BACKLOG = 2048

Place = tuple[socket.socket, ...]
"""What one worker listens at: a socket for each address of the host."""


def listening(host: str, port: int, workers: int) -> list[Place]:
    """Return what each of several workers listens at.

    On Linux each has sockets of its own (`SO_REUSEPORT`): the system spreads connections evenly by a hash of their
    addresses. From one socket that all share, whoever wakes first would take all that have come, and with connections
    that are kept that lasts. The parent keeps every socket open: connections that wait in one outlive its worker.

    Raises:
        SettingsError: The address cannot be listened at.
    """
    spread = sys.platform == "linux"
    places: list[Place] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                # Without sharing first: another server at this port would go unnoticed.
                with _bound(family, (address[0], port, *address[2:]), shared=False) as probe:
                    here = probe.getsockname()
            except OSError as exc:
                if exc.errno == errno.EADDRNOTAVAIL:  # `localhost` is ::1, too, even where there is no IPv6
                    continue
                raise
            port = here[1]
            sockets = [_bound(family, here, shared=spread) for _ in range(workers if spread else 1)]
            for each in sockets:
                each.listen(BACKLOG)
            mine = sockets if spread else [*sockets, *(sockets[0].dup() for _ in range(workers - 1))]
            places = [(*place, one) for place, one in zip(places or [()] * workers, mine, strict=True)]
    except OSError as exc:
        raise SettingsError(f"server.host {host}, server.port {port}: {exc.strerror or exc}") from exc
    if not places:
        raise SettingsError(f"server.host {host} is no address of this machine")
    return places


def refuse_more(places: list[Place]) -> None:
    """Have the system take no more connections ahead, and let go of the sockets: workers have what is there."""
    for place in places:
        for each in place:
            take_no_more(each)
            each.close()


def _bound(family: int, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # The other addresses have sockets of their own.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made
