"""Fixtures that several rooms share; each stands in a module of its own."""

from importlib.util import find_spec

# These need a client of the extra `clients`, which `make test-clients` installs.
_HEAVY = ("dspy", "pydantic_ai", "smolagents", "llm")
collect_ignore = [f"clients/test_client_{name}.py" for name in _HEAVY if find_spec(name) is None]

pytest_plugins = [
    "fixtures.loopback_cloud",
    "fixtures.serving",
    "fixtures.faulty_upstream",
    "fixtures.hedged",
    "fixtures.bounded_server",
    "fixtures.loopback_web",
    "fixtures.sensible_cloud",
    "fixtures.redis_server",
    "fixtures.postgres_server",
    "fixtures.local_model",
    "fixtures.native_model",
    "fixtures.door",
    "fixtures.fuzz_house",
    "fixtures.wired",
    "fixtures.clients",
    "fixtures.chromium",
    "fixtures.trap",
    "fixtures.real_server",
]
