"""Certificates that upstreams show, and what is wrong with them."""

from __future__ import annotations

import ssl
from typing import Final

from ..errors import UpstreamUntrusted

# OpenSSL's verify codes (x509_vfy.h), in words that name no host.
_WORDS: Final = {
    9: "is not valid yet",
    10: "has expired",
    18: "is signed by itself and by nobody that is trusted",
    19: "is signed by nobody that is trusted",
    20: "is signed by nobody that is trusted",
    21: "is signed by nobody that is trusted",
    23: "was revoked",
    62: "is for another name",
    64: "is for another address",
}


def untrusted(name: str, error: Exception) -> UpstreamUntrusted:
    """Return our error for a certificate that was turned down.

    Args:
        name: The model's.
        error: What was wrong; of `ssl`, where it was that.
    """
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    return UpstreamUntrusted(
        f"The certificate of the upstream of model '{name}' {_WORDS.get(code, 'is not trusted')}."
    )
