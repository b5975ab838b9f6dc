"""Labels that stay few: an upstream may put any word into an error, and a metric must not grow by it."""

from __future__ import annotations

OTHER = "other"

# Every code that this package gives an error itself; a test compares the set with the sources.
CODES = frozenset(
    {
        "admin_off",
        "array_above_max_length",
        "body_too_large",
        "cache_unavailable",
        "context_length_exceeded",
        "cross_site",
        "empty_array",
        "deadline_exceeded",
        "forbidden",
        "header_too_large",
        "images_too_large",
        "insufficient_quota",
        "internal_error",
        "invalid_api_key",
        "invalid_http",
        "invalid_json",
        "invalid_schema",
        "invalid_type",
        "invalid_value",
        "json_too_deep",
        "ledger_unavailable",
        "limits_unavailable",
        "local_model_crashed",
        "local_model_failed",
        "missing_field",
        "model_not_allowed",
        "model_not_found",
        "model_resting",
        "model_unavailable",
        "no_cloud_model",
        "no_keys_configured",
        "no_memory",
        "object_above_max_properties",
        "out_of_range",
        "overloaded",
        "pii_blocked",
        "privacy_local_only",
        "queue_full",
        "rate_limit_exceeded",
        "request_not_found",
        "request_timeout",
        "response_not_found",
        "responses_unavailable",
        "schema_too_large",
        "settings_error",
        "server_stopping",
        "stream_broken",
        "string_above_max_length",
        "template_too_costly",
        "timeout",
        "too_many_viewers",
        "unknown_host",
        "unsupported_content_part",
        "unsupported_encoding",
        "unsupported_parameter",
        "unsupported_schema",
        "unsupported_tool",
        "upstream_authentication",
        "upstream_unreachable",
        "upstream_untrusted",
    }
)


def code_label(code: str | None) -> str:
    """Return an error's code where it is one of ours, else `other`: codes of upstreams are without bound."""
    return code if code in CODES else OTHER
