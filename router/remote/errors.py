"""What a proxy's answer says went wrong, as the error that a gateway in this process would have raised."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec

from ..errors import (
    CannotServe,
    InvalidRequest,
    ModelResting,
    ModelTimeout,
    ModelUnavailable,
    RequestError,
    StreamBroken,
    UpstreamError,
)
from ..models.retry import RETRIED_STATUSES, parse_retry_after

# By which a policy refuses a request that no model may or can serve.
_CANNOT_SERVE = frozenset({"privacy_local_only", "context_length_exceeded", "unsupported_capability"})
# The types by which this gateway's own errors are told from those that it passes on.
_OWN_TYPES = frozenset({"invalid_request_error", "authentication_error", "permission_error", "server_error"})


def error_of(response: httpx.Response) -> RequestError:
    """Return the proxy's error as one of ours, by its status, type and code.

    What a cloud behind the proxy answered is an `UpstreamError` as well, but where its error looks like one of ours
    (`invalid_request_error`): then it is that one, with the cloud's status.
    """
    status = response.status_code
    error = _error_object(response)
    if error is None:
        error = {"message": f"The proxy answered {status}."}
        failure = _own(status, error) if status not in RETRIED_STATUSES else None
    else:
        failure = _of_a_model(status, error, response) or (
            _own(status, error) if error.get("type") in _OWN_TYPES else None
        )
    if failure is None:
        failure = UpstreamError(
            str(error.get("message") or ""), status=status, error=error, retry_after=_retry_after(response)
        )
    kind = error.get("type")
    failure.type = kind if isinstance(kind, str) else failure.type
    return failure


def stream_error(event: bytes) -> StreamBroken:
    """Return the error event of a stream as one of ours."""
    error = msgspec.json.decode(event)["error"]
    if not isinstance(error, dict):
        error = {"message": str(error)}
    return StreamBroken(error.get("message") or "The proxy reported an error.", code=error.get("code"))


def _error_object(response: httpx.Response) -> dict[str, Any] | None:
    """Return OpenAI's error object; None where the answer has none: then it is some other server's."""
    try:
        error = msgspec.json.decode(response.content)["error"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None
    return error if isinstance(error, dict) else None


def _of_a_model(status: int, error: dict[str, Any], response: httpx.Response) -> RequestError | None:
    """Return the error of a model that was asked, or was to be; None where it is another, or a cloud's own."""
    message, code = str(error.get("message") or ""), error.get("code")
    if error.get("type") != ModelUnavailable.type or not isinstance(code, str):
        return None
    if code == ModelResting.code:
        return ModelResting(message, retry_after=_retry_after(response) or 1.0, status=status)
    if status == ModelUnavailable.status:
        return ModelUnavailable(message, retry_after=_retry_after(response), code=code)
    if (status, code) == (ModelTimeout.status, ModelTimeout.code):
        return ModelTimeout(message)
    return StreamBroken(message) if code == StreamBroken.code else None


def _own(status: int, error: dict[str, Any]) -> RequestError | None:
    """Return an error of the gateway itself; None where a model or an upstream failed."""
    message, param, code = str(error.get("message") or ""), error.get("param"), error.get("code")
    # Those of the tree that are known by their code, and take a message, a parameter and a code as all do.
    by_code: dict[tuple[int, Any], type[RequestError]] = {
        (kind.status, kind.code): kind
        for kind in RequestError.__subclasses__()
        if kind.code is not None and kind.__init__ is RequestError.__init__
    }
    if (status, code) in by_code:
        return by_code[status, code](message, param=param, code=code)
    if status in RETRIED_STATUSES:
        return None
    kind: type[RequestError] = RequestError
    if status == InvalidRequest.status and error.get("type") == InvalidRequest.type:
        kind = CannotServe if code in _CANNOT_SERVE else InvalidRequest
    failure = kind(message, param=param, code=code)
    failure.status = status
    return failure


def _retry_after(response: httpx.Response) -> float | None:
    return parse_retry_after(response.headers, datetime.now(UTC))
