"""What operators see beside metrics: traces by OpenTelemetry, and structured logs."""
