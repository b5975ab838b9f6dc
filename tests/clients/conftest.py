"""Every test of this folder says which client it tested; the matrix in the README is made of that.

A module names its client in `CLIENT` and the package whose version counts in `PACKAGE`. A test's first word says what
was tried: plain, streamed, tools, structured, errors, embeddings.
"""

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec

import pytest

# These come with the extra `clients`, which `make test-clients` installs.
_HEAVY = {
    "test_client_dspy.py": "dspy",
    "test_client_pydantic_ai.py": "pydantic_ai",
    "test_client_smolagents.py": "smolagents",
    "test_client_llm.py": "llm",
}
collect_ignore = [name for name, module in _HEAVY.items() if find_spec(module) is None]


@pytest.fixture(autouse=True)
def _named(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None], quiet: None
) -> None:
    record_property("client", request.module.CLIENT)
    if request.module.PACKAGE:
        record_property("version", version(request.module.PACKAGE))
