"""Listening sockets that are about to be closed."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from typing import Final

# Of linux/socket.h and linux/bpf_common.h: "return 0", the program that drops every packet.
_SO_ATTACH_FILTER: Final = 26
_DROP: Final = struct.pack("HBBI", 0x06, 0, 0, 0)


def take_no_more(listening: socket.socket) -> None:
    """Have the system take no more connections into a socket's queue; those in it can still be accepted.

    Closing it at once would reset what waits there, and what comes between the last look and the end. On Linux who
    connects from now on is not answered, asks again a second later, and is refused by then; elsewhere all but one are.
    """
    with contextlib.suppress(OSError):
        listening.listen(0)
        if sys.platform == "linux":
            program = ctypes.create_string_buffer(_DROP)
            listening.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program))
            )
