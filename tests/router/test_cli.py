"""The command line as a user runs it: in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import EASY, HARD

Run = Callable[..., subprocess.CompletedProcess[str]]

SMALLFIRST = str(Path(sys.executable).with_name("smallfirst"))


@pytest.fixture
def environ(tmp_path: Path, cloud: LoopbackCloud) -> dict[str, str]:
    """A user's environment with a loopback cloud, and data folders of its own; the model cache is the real one."""
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "SMALLFIRST_CONFIG")
    }
    return {
        **inherited,
        "OPENAI_API_KEY": "sk-cloud",
        "OPENAI_BASE_URL": cloud.base_url,
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }


@pytest.fixture
def run(tmp_path: Path, environ: dict[str, str]) -> Run:
    def command(*arguments: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [SMALLFIRST, *arguments],
            cwd=tmp_path,
            env={**environ, **more},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    return command


def test_help_names_every_command(run: Run) -> None:
    said = run("--help").stdout
    for name in ("serve", "route", "chat", "models", "config", "train", "eval", "report", "bench"):
        assert name in said
        assert run(name, "--help").stdout.startswith("Usage:")


def test_route_says_where_and_why(run: Run) -> None:
    assert run("route", EASY).stdout.startswith("local: smollm2-135m\nwhy: ")
    assert json.loads(run("route", "--json", HARD).stdout)["route"] == "cloud"


def test_route_says_who_would_be_hedged(run: Run, tmp_path: Path, cloud: LoopbackCloud) -> None:
    settings = {
        "models": [{"name": name, "kind": "openai", "base_url": cloud.base_url} for name in ("big", "spare")],
        "policies": {"mine": {"hedge_after": 2, "hedge_whole_after": 20}},
        "policy": "mine",
    }
    (tmp_path / "smallfirst.yaml").write_text(json.dumps(settings))
    said = run("route", HARD).stdout
    assert "hedged: spare, where big has not begun to answer after 20 s\n" in said
    assert said.count("hedged:") == 1
    (tmp_path / "body.json").write_text(
        json.dumps({"messages": [{"role": "user", "content": HARD}], "stream": True})
    )
    assert "after 2 s\n" in run("route", "--body", "body.json").stdout
    settings["policies"] = {"mine": {"hedge_after": 2, "hedge_same_model": True}}
    (tmp_path / "smallfirst.yaml").write_text(json.dumps(settings))
    assert "hedged: spare again, where spare has" in run("route", HARD).stdout


def test_chat_answers_once(run: Run) -> None:
    done = run("chat", EASY)
    assert "Paris" in done.stdout
    assert "[local: smollm2-135m" in done.stderr


def test_chat_that_fails_says_so(run: Run) -> None:
    assert "gpt-9" in run("chat", EASY, "--model", "gpt-9", code=1).stderr


def test_models_are_listed_and_pulled(run: Run) -> None:
    assert "smollm2-135m\tlocal" in run("models", "list").stdout
    assert ".gguf" in run("models", "pull").stdout
    assert "no local model is named 'x'" in run("models", "pull", "x", code=1).stderr


def test_config_check_names_the_line_of_an_error(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "smallfirst.yaml"
    file.write_text("server:\n  port: many\n")
    assert f"{file.name}:2: 'server.port'" in run("config", "check", code=1).stderr
    assert "smallfirst.yaml:2" in run("serve", code=1).stderr
    file.write_text("server:\n  prt: 1\n")
    done = run("config", "check", "--show", OPENAI_API_KEY="sk-hidden")
    assert "did you mean 'port'?" in done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("ok: ")
    assert "sk-hidden" not in done.stdout


def test_serving_others_needs_a_key(run: Run) -> None:
    assert "no key is configured" in run("serve", "--host", "0.0.0.0", code=1).stderr


def test_a_broken_model_file_stops_the_start_with_a_clear_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("not a model")
    (tmp_path / "smallfirst.yaml").write_text(
        f"models:\n  - {{name: m, kind: llama, source: 'file:{tmp_path}/m.gguf'}}\n"
    )
    assert "is no GGUF file" in run("serve", code=1).stderr


def test_a_report_before_the_first_request_says_so(run: Run) -> None:
    assert "nothing is recorded yet" in run("report", code=1).stderr


def test_serve_answers_stops_on_a_signal_and_leaves_its_ledger(
    run: Run, environ: dict[str, str], tmp_path: Path
) -> None:
    port = _free_port()
    process = subprocess.Popen([SMALLFIRST, "serve", "--port", str(port)], cwd=tmp_path, env=environ)
    try:
        root = f"http://127.0.0.1:{port}"
        _wait_for(f"{root}/health")
        body = {"model": "auto", "messages": [{"role": "user", "content": EASY}]}
        reply = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=60)
        assert "Paris" in reply.json()["choices"][0]["message"]["content"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    report = json.loads(run("report", "--json").stdout)
    assert (report["total"]["requests"], report["total"]["local_share"]) == (1, 1.0)
    assert "smollm2-135m" in run("report", "--by", "model").stdout
    assert run("report", "--format", "csv").stdout.startswith("model,route,requests,")
    assert "written" in run("report", "--format", "html", "--output", "r.html").stderr
    assert "<svg" in (tmp_path / "r.html").read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server did not start")
