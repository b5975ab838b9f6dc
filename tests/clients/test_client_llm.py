"""The `llm` command, run as a user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.clients import ASK_CITY, ASK_WEATHER, GREETED, GREETING, KEY, NO_MODEL, PARIS, TOLD
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD

CLIENT, PACKAGE = "llm (command)", "llm"
pytestmark = pytest.mark.clients
MODELS = """
- model_id: {name}
  model_name: {name}
  api_base: {url}
  supports_tools: true
  supports_schema: true
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def llm(gateway_url: str, tmp_path: Path) -> Run:
    text = "".join(MODELS.format(name=name, url=gateway_url) for name in (CLOUD, NO_MODEL))
    (tmp_path / "extra-openai-models.yaml").write_text(text)
    environ = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": KEY}

    def run(*arguments: str, model: str = CLOUD) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).with_name("llm")), "prompt", "-m", model, *arguments]
        return subprocess.run(
            command,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


def test_plain_text(llm: Run, cloud: LoopbackCloud) -> None:
    assert llm("--no-stream", GREETING).stdout.strip() == GREETED
    assert not cloud.requests[-1].body.get("stream")


def test_streamed_text(llm: Run, cloud: LoopbackCloud) -> None:
    assert llm(GREETING).stdout.strip() == GREETED
    assert cloud.requests[-1].body["stream"] is True


def test_tools_are_called_and_their_results_answered(llm: Run) -> None:
    function = 'def weather(city: str) -> str:\n    return f"sunny in {city}"\n'
    assert llm("--functions", function, ASK_WEATHER).stdout.strip() == TOLD


def test_structured_output_fits_the_schema(llm: Run) -> None:
    assert json.loads(llm("--schema", "name, people int", ASK_CITY).stdout) == PARIS.model_dump()


def test_errors_of_unknown_models_end_the_command(llm: Run) -> None:
    done = llm(GREETING, model=NO_MODEL)
    assert done.returncode == 1
    assert NO_MODEL in done.stderr


def test_errors_name_the_field(llm: Run) -> None:
    # The command checks temperatures itself.
    done = llm("-o", "max_tokens", "0", GREETING)
    assert done.returncode == 1
    assert "max_tokens" in done.stderr


def test_errors_of_broken_streams_end_the_command(llm: Run, broken_stream: LoopbackCloud) -> None:
    done = llm(GREETING)
    assert done.returncode == 1
    assert "broke" in done.stderr
