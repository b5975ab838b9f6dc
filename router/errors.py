"""What can go wrong, as one tree. The server translates it to a wire format in one place, by these fields.

SmallfirstError
├── SettingsError           the settings file: names file, line and key; nothing is started
├── LedgerError             the ledger's file cannot be read; requests never fail for it
├── ModelFileError          a local model's file: missing, broken, wrong checksum
└── RequestError            a request was not served; has HTTP status, type, code and param
    ├── InvalidRequest          400: the request itself is wrong; `param` names the field
    ├── AuthenticationFailed    401: no key, or one that is not known
    ├── Forbidden               403: a known caller may not do this; `ModelNotAllowed` names the field
    ├── OverLimit               429: a key's limit (`retry_after`) or budget is used up
    ├── LimitsUnavailable       503: limits cannot be counted now, and the settings say to refuse then
    ├── ModelNotFound           404: no model or policy of that name
    ├── RequestNotFound         404: no request of that id among the caller's own
    ├── ResponseNotFound        404: no stored response of that id among the caller's own
    ├── LedgerUnavailable       503: the ledger was to be read for the caller, and cannot be
    ├── CacheUnavailable        503: the cache was to be emptied, and its store does not answer
    ├── ResponsesUnavailable    503: a stored response was asked for, and its store does not answer
    ├── BodyTooLarge            413: over `limits.max_body_bytes`
    ├── HeaderTooLarge          431: over `limits.max_header_bytes` or `max_headers`
    ├── UnsupportedEncoding     415: a compressed body
    ├── SlowClient              408: the request did not come in time
    ├── Overloaded              503: the process has more to do than it can (`retry_after`)
    ├── ServerStopping          503: the server ends, and the time of what it had begun is over
    ├── CannotServe             no model may or can serve it (privacy, capability, context length)
    └── ModelError              a model was asked and failed
        ├── UpstreamError           the cloud answered with an error: its status and body are passed on
        ├── ModelUnavailable        could not be reached or loaded, or is busy (503, `retry_after`);
        │                           `ModelResting`: is not asked for a while; `UpstreamUntrusted`: wrong certificate
        ├── ModelTimeout            took too long (504); `DeadlineExceeded`: the caller's own limit is reached
        └── StreamBroken            failed after the first chunk: the stream ends with an error event
"""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"[\w.:/\[\]-]{1,100}", re.ASCII)


class SmallfirstError(Exception):
    """Every error that this package raises on purpose."""


class SettingsError(SmallfirstError):
    """The settings cannot be used. The message names file, line and key, and what was expected."""


class LedgerError(SmallfirstError):
    """The ledger's file cannot be read. Requests never fail for it; commands that report do."""


class ModelFileError(SmallfirstError):
    """A local model's file is missing, broken or not the recorded one. The message says what to do."""


class RequestError(SmallfirstError):
    """A request that was not served.

    Args:
        message: What was wrong, for the caller. Never contains prompt text or keys.
        param: The request's field that is to blame, where there is one.
        code: A stable word for programs; by default the class's own.
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a retry makes sense, where that is known."""
        return None

    def body(self) -> dict[str, Any]:
        """Return the error in OpenAI's wire form."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(RequestError):
    """The request itself is wrong; `param` names the field."""

    status, type = 400, "invalid_request_error"


class AuthenticationFailed(RequestError):
    """No key was given, or one that is not known."""

    status, type, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(RequestError):
    """The caller is known, or needs no key, but may not do this."""

    status, type, code = 403, "permission_error", "forbidden"


class ModelNotAllowed(Forbidden):
    """The key does not allow the model or policy."""

    type, code = "invalid_request_error", "model_not_allowed"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model")


class OverLimit(RequestError):
    """A key's limit is reached, or its budget spent.

    Args:
        retry_after: Seconds until there is room again; None: never.
        type: As OpenAI names it: `requests`, `tokens` or `insufficient_quota`.
        code: `rate_limit_exceeded` or `insufficient_quota`.
    """

    status = 429

    def __init__(self, message: str, *, retry_after: float | None, type: str, code: str) -> None:
        super().__init__(message, code=code)
        self.type = type
        self._retry_after = retry_after

    @property
    def retry_after(self) -> float | None:
        """Seconds until there is room again."""
        return self._retry_after


class LimitsUnavailable(RequestError):
    """What keys have used is kept in a store that does not answer, and the settings say to refuse then."""

    status, code = 503, "limits_unavailable"

    @property
    def retry_after(self) -> float | None:
        """A restarted store is back soon."""
        return 5.0


class ModelNotFound(RequestError):
    """No model or policy of that name is configured."""

    status, type, code = 404, "invalid_request_error", "model_not_found"


class RequestNotFound(RequestError):
    """No request of that id is among the caller's own."""

    status, type, code = 404, "invalid_request_error", "request_not_found"


class ResponseNotFound(RequestError):
    """No stored response of that id is among the caller's own (any more)."""

    status, type, code = 404, "invalid_request_error", "response_not_found"


class LedgerUnavailable(RequestError):
    """The ledger was to be read for the caller, and cannot be read now."""

    status, code = 503, "ledger_unavailable"

    @property
    def retry_after(self) -> float | None:
        """A locked file is free again soon."""
        return 5.0


class CacheUnavailable(RequestError):
    """The cache was to be emptied for the caller, and its store does not answer. Requests never fail for it."""

    status, code = 503, "cache_unavailable"

    @property
    def retry_after(self) -> float | None:
        """A restarted store is back soon."""
        return 5.0


class ResponsesUnavailable(RequestError):
    """A stored response was asked for, and their store does not answer: the context is unknown."""

    status, code = 503, "responses_unavailable"

    @property
    def retry_after(self) -> float | None:
        """A restarted store is back soon."""
        return 5.0


class BodyTooLarge(RequestError):
    """The body is over the limit."""

    status, type, code = 413, "invalid_request_error", "body_too_large"


class HeaderTooLarge(RequestError):
    """The request's header is over a limit."""

    status, type, code = 431, "invalid_request_error", "header_too_large"


class UnsupportedEncoding(RequestError):
    """The body is compressed."""

    status, type, code = 415, "invalid_request_error", "unsupported_encoding"


class SlowClient(RequestError):
    """The client did not send its request in time."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class Overloaded(RequestError):
    """The process has more to do than it can; nothing of the request was done.

    Args:
        retry_after: Seconds after which to try again.
    """

    status, code = 503, "overloaded"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self._retry_after = retry_after

    @property
    def retry_after(self) -> float | None:
        """Seconds after which to try again."""
        return self._retry_after


class ServerStopping(RequestError):
    """The server ends, and what it had begun has had its time (`server.grace`). What was made of the answer is lost."""

    status, code = 503, "server_stopping"

    def __init__(self) -> None:
        super().__init__("The server is being stopped; send the request again.")

    @property
    def retry_after(self) -> float | None:
        """Another one serves by then, or this one again."""
        return 1.0


class CannotServe(RequestError):
    """No configured model may or can serve the request; the policy decided so before anything was run."""

    status, type = 400, "invalid_request_error"


class ModelError(RequestError):
    """A model was asked and failed; another attempt may succeed where nothing was shown yet.

    Attributes:
        retries: How often it was tried again.
        billed_tries: Of all tries, those that the provider may bill: it had the prompt, and answered with no error.
    """

    status, type = 502, "upstream_error"
    retries: int = 0
    billed_tries: int = 0


class UpstreamError(ModelError):
    """The cloud answered with an error; its status and its body's error are passed on.

    Args:
        status: The upstream's HTTP status, 400..599.
        error: The `error` object of the upstream's body, or None where it had none in OpenAI's shape.
        retry_after: Seconds from the upstream's `Retry-After`, if it sent one.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        error: dict[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self._retry_after = retry_after
        if error is not None:
            # The caller gets them as they came (`body`); the ledger and logs only what is a name, and no quotation.
            self.code = _name_in(error.get("code"))
            self.param = _name_in(error.get("param"))

    @property
    def retry_after(self) -> float | None:
        """Seconds from the upstream's `Retry-After`, if it sent one."""
        return self._retry_after

    @property
    def transient(self) -> bool:
        """Whether another target may do better: rate limits and server faults, not the caller's own errors."""
        return self.status in (408, 409, 429) or self.status >= 500

    def body(self) -> dict[str, Any]:
        """Return the upstream's own error where it has OpenAI's shape, else one made of the message."""
        return {"error": self.error} if self.error is not None else super().body()


class ModelUnavailable(ModelError):
    """The model could not be reached, could not be loaded, or is too busy."""

    status, type, code = 503, "upstream_error", "model_unavailable"

    def __init__(self, message: str, *, retry_after: float | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self._retry_after = retry_after

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a retry makes sense, where that is known."""
        return self._retry_after


class ModelResting(ModelUnavailable):
    """The model was not asked: it failed too often lately, or its server asked to be left alone for a while.

    Args:
        retry_after: Seconds until it is asked again.
        status: 429 where its server said that.
    """

    code = "model_resting"

    def __init__(self, message: str, *, retry_after: float, status: int = 503) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status = status


class UpstreamUntrusted(ModelUnavailable):
    """The server of the model does not show a certificate that it is who it should be. Nothing was sent to it."""

    code = "upstream_untrusted"


class ModelTimeout(ModelError):
    """The model took longer than its configured limit."""

    status, type, code = 504, "upstream_error", "timeout"
    billed_tries = 1


class DeadlineExceeded(ModelTimeout):
    """The time is over that the caller gave the request (`x-request-timeout`); says nothing of the model."""

    code = "deadline_exceeded"


class StreamBroken(ModelError):
    """A stream failed after its first chunk; what was shown cannot be taken back."""

    code = "stream_broken"
    billed_tries = 1


def _name_in(value: Any) -> str | None:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None
