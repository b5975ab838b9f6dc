"""OpenAI's client for Node, from npm."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.clients import ASK_CITY, ASK_WEATHER, EMBEDDER, GREETED, GREETING, KEY, NO_MODEL, PARIS, TOLD
from fixtures.serving import CLOUD

CLIENT, PACKAGE = "openai (Node)", ""
PINNED = "openai@6.49.0"
PROGRAM = Path(__file__).parent / "openai_node.mjs"
pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node and npm"),
]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client installed."""
    made = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-update-notifier", PINNED]
    subprocess.run(install, cwd=made, check=True, timeout=100)
    shutil.copy(PROGRAM, made)
    return made


@pytest.fixture
def node(folder: Path, gateway_url: str, record_property: Callable[[str, object], None]) -> Run:
    package = json.loads((folder / "node_modules" / "openai" / "package.json").read_text())
    record_property("version", package["version"])

    def run(what: str, text: str, model: str = CLOUD) -> Any:
        command = ["node", PROGRAM.name, what, gateway_url, KEY, model, text]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_plain_text_comes_from_chat_and_responses(node: Run) -> None:
    assert node("plain", GREETING) == [GREETED, GREETED]


def test_streamed_text(node: Run) -> None:
    pieces = node("streamed", GREETING)
    assert len(pieces) > 2
    assert "".join(pieces) == GREETED


def test_tools_results_are_answered(node: Run) -> None:
    assert node("tools", ASK_WEATHER) == TOLD


def test_structured_output_is_parsed(node: Run) -> None:
    assert node("structured", ASK_CITY) == PARIS.model_dump()


def test_errors_are_the_clients_own(node: Run) -> None:
    own, status, message = node("errors", GREETING, NO_MODEL)
    assert (own, status) == (True, 404)
    assert NO_MODEL in message


def test_embeddings_are_vectors(node: Run) -> None:
    assert node("embeddings", "", EMBEDDER) == [576, 576]
