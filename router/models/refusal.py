"""What an upstream says when it refuses, as an error for the caller: without the gateway's own secrets in it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..errors import UpstreamError
from .retry import parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..settings import CloudModelSettings

# What stands in a secret's place. Shorter values (a header's `1`, `eu`) tell nobody anything, and are found anywhere.
REDACTED = "[redacted]"
_LEAST_SECRET = 8


class Secrets:
    """What the gateway sends to one upstream and nobody else may see: its key, and the values of its headers.

    An upstream may quote them ("Incorrect API key provided: sk-…", a proxy that shows the request that failed). They
    are found as they are, and not where an upstream has changed them (base64, reversed).

    Args:
        settings: Of the model.
    """

    def __init__(self, settings: CloudModelSettings) -> None:
        given = [header.get_secret_value() for header in settings.headers.values()]
        if settings.api_key is not None:
            given.append(settings.api_key.get_secret_value())
        # `Bearer sk-…` is a secret, and what follows the blank alone is one, too.
        words = {word for value in given for word in (value, *value.split())}
        # The longest first: one may be a part of another.
        self._words = sorted((word for word in words if len(word) >= _LEAST_SECRET), key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Secrets({len(self._words)})"

    def without(self, value: Any) -> Any:
        """Return a JSON value with the secrets replaced, in keys and texts at any depth."""
        if isinstance(value, str):
            for word in self._words:
                value = value.replace(word, REDACTED)
            return value
        if isinstance(value, dict):
            return {self.without(key): self.without(each) for key, each in value.items()}
        return [self.without(each) for each in value] if isinstance(value, list) else value


def refusal(name: str, status: int, headers: Mapping[str, str], body: Any, secrets: Secrets) -> UpstreamError:
    """Return the error of an answer that is none.

    Args:
        name: The model's.
        status: Of HTTP; any but 2xx.
        headers: Of the answer, by lower-case names.
        body: What its JSON says; None where it has none.
        secrets: What must not be passed on.
    """
    if 300 <= status <= 399:
        return UpstreamError(
            f"The upstream of model '{name}' answered with a redirect ({status}). None is followed: only the settings "
            "say where requests go. Check its 'base_url'.",
            status=502,
        )
    error = body.get("error") if isinstance(body, dict) else None
    if status in (401, 403):
        # Passed on as it is, this would read as if the caller's own key were wrong.
        words = f"The upstream of model '{name}' refused the gateway's key ({status}); check its 'api_key'."
        error = {"message": words, "code": "upstream_authentication"}
    elif isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        error = None
    shown = {"type": "upstream_error", "param": None, "code": None, **error} if error else None
    try:
        shown = secrets.without(shown)
    except RecursionError:
        shown = None  # nested so deep it tells nobody anything
    return UpstreamError(
        f"The upstream of model '{name}' answered {status}.",
        status=status if 400 <= status <= 599 else 502,
        error=shown,
        retry_after=parse_retry_after(headers, datetime.now(UTC)),
    )
