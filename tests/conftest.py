"""Fixtures that several rooms share; each stands in a module of its own."""

pytest_plugins = [
    "fixtures.loopback_cloud",
    "fixtures.loopback_web",
    "fixtures.sensible_cloud",
    "fixtures.redis_server",
    "fixtures.local_model",
    "fixtures.native_model",
    "fixtures.serving",
    "fixtures.wired",
    "fixtures.clients",
]
