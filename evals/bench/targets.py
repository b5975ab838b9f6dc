"""The servers that are measured: how each is installed and started.

What is installed goes under one folder (`build/bench`), into environments of their own, once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from .upstream import MODEL

_INSTALLING = 900.0

# Of the environment, all that servers get: no key, proxy or setting of whoever runs this changes what is measured.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT")

Tell = Callable[[str], None]


class NotInstalled(Exception):
    """A server cannot be installed here; says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs, and what is behind it.

    Attributes:
        work: What is installed for the benchmark, kept from run to run.
        scratch: Files of this run alone.
        upstream: The pretended model, up to `/v1`.
        port: To listen on.
    """

    work: Path
    scratch: Path
    upstream: str
    port: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that serves, and in what environment."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """A server to measure.

    Attributes:
        name: As options and results have it.
        title: As tables have it.
        prepare: Installs what is missing, telling what it does; returns the version. Raises `NotInstalled`.
        launch: How it is started.
        model: What is asked of it.
        headers: That each request carries, but for the upstream's address.
        peer: Whether it is somebody else's gateway.
        usual: Whether it is measured unless it is named.
    """

    name: str
    title: str
    prepare: Callable[[Path, Tell], str]
    launch: Callable[[Place], Launch]
    model: str = MODEL
    headers: Callable[[str], Mapping[str, str]] = field(default=lambda upstream: {})
    peer: bool = False
    usual: bool = True


def environment(**more: str) -> dict[str, str]:
    """Return a server's whole environment."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | more


def targets() -> tuple[Target, ...]:
    """Return all, in the order in which tables have them."""
    return (
        Target("smallfirst", "smallfirst", _nothing, _smallfirst, model="auto"),
        Target("floor", "bare pass-through, aiohttp", _nothing, _floor("aiohttp")),
        Target(
            "floor-httpx",
            "bare pass-through, httpx over aiohttp",
            _added("httpx_aiohttp"),
            _floor("httpx"),
            usual=False,
        ),
        Target(
            "floor-pyreqwest",
            "bare pass-through, pyreqwest",
            _added("pyreqwest"),
            _floor("pyreqwest"),
            usual=False,
        ),
        Target(
            "floor-granian",
            "bare pass-through, aiohttp, on granian",
            _added("granian"),
            _floor("aiohttp", "granian"),
            usual=False,
        ),
        Target("litellm", "LiteLLM proxy", _prepare_litellm, _litellm, headers=_bearer, peer=True),
        Target("portkey", "Portkey gateway", _prepare_portkey, _portkey, headers=_to_portkey, peer=True),
    )


# --- smallfirst -----------------------------------------------------------------------------------------------


def _nothing(work: Path, tell: Tell) -> str:
    return importlib.metadata.version("smallfirst")


def _smallfirst(place: Place) -> Launch:
    """Two cloud models, so that there is something to decide: scoring, ledger and log as by default; no cache."""
    file = place.scratch / "smallfirst.yaml"
    models = [
        {"name": name, "kind": "openai", "base_url": place.upstream, "api_key": "sk-bench"}
        for name in (MODEL, "gpt-4.1")
    ]
    settings = {
        "models": models,
        "cache": {"enabled": False},
        "ledger": {"path": str(place.scratch / "ledger.db")},
    }
    file.write_bytes(msgspec.json.encode(settings))  # JSON is YAML
    start = "from smallfirst.router.cli import main; main()"
    options = ("--config", str(file), "serve", "--port", str(place.port))
    return Launch((sys.executable, "-c", start, *options), environment())


# --- bare pass-throughs ---------------------------------------------------------------------------------------


def _floor(client: str, server: str = "uvicorn") -> Callable[[Place], Launch]:
    def launch(place: Place) -> Launch:
        options = {
            "--upstream": place.upstream,
            "--port": str(place.port),
            "--client": client,
            "--server": server,
        }
        words = [word for pair in options.items() for word in pair]
        argv = (sys.executable, "-m", "smallfirst.evals.bench.floors", *words)
        return Launch(argv, environment(PYTHONPATH=str((place.work / "added").resolve())))

    return launch


def _added(package: str) -> Callable[[Path, Tell], str]:
    """Install a package that only the benchmark needs, unless this environment has it."""

    def prepare(work: Path, tell: Tell) -> str:
        if importlib.util.find_spec(package) is not None:
            return importlib.metadata.version(package)
        folder = work / "added"
        if not (folder / package).exists():
            tell(f"{package}: installing into {folder}")
            _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), package])
        found = importlib.metadata.distributions(name=package, path=[str(folder)])
        return next((one.version for one in found), "?")

    return prepare


# --- other gateways -------------------------------------------------------------------------------------------


def _prepare_litellm(work: Path, tell: Tell) -> str:
    folder = work / "litellm"
    python = folder / "bin" / "python"
    if not (folder / "bin" / "litellm").exists():
        tell(f"LiteLLM: installing into {folder} (a minute or two)")
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "litellm[proxy]"])
    ask = "import importlib.metadata as m; print(m.version('litellm'))"
    return _run([str(python), "-c", ask])


def _litellm(place: Place) -> Launch:
    """As its documentation has it for production: no debug output, and one worker."""
    file = place.scratch / "litellm.yaml"
    upstream = {"model": f"openai/{MODEL}", "api_base": place.upstream, "api_key": "sk-bench"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": upstream}],
        "litellm_settings": {"set_verbose": False, "json_logs": True},
    }
    file.write_bytes(msgspec.json.encode(config))
    command = str((place.work / "litellm" / "bin" / "litellm").absolute())
    options = ("--config", str(file), "--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1")
    # Without a local price list it fetches one at its start; without keys it wants to be told so.
    quiet = environment(
        LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
        LITELLM_LOG="ERROR",
        LITELLM_MODE="PRODUCTION",
        LITELLM_TELEMETRY="False",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )
    return Launch((command, *options, "--telemetry", "False"), quiet)


def _bearer(upstream: str) -> Mapping[str, str]:
    return {"authorization": "Bearer sk-bench"}


_PORTKEY = Path("node_modules/@portkey-ai/gateway")


def _prepare_portkey(work: Path, tell: Tell) -> str:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotInstalled("it needs node and npm")
    folder = work / "portkey"
    package = folder / _PORTKEY / "package.json"
    if not package.exists():
        tell(f"Portkey: installing into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        # With the newest server library that it allows (1.19.19), Portkey 1.15.2 answers every stream with 500.
        wanted = {
            "private": True,
            "dependencies": {"@portkey-ai/gateway": "^1"},
            "overrides": {"@hono/node-server": "1.13.8"},
        }
        (folder / "package.json").write_bytes(msgspec.json.encode(wanted))
        _run(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund"])
    version: str = msgspec.json.decode(package.read_bytes())["version"]
    return version


def _portkey(place: Place) -> Launch:
    start = (place.work / "portkey" / _PORTKEY / "build" / "start-server.js").absolute()
    argv = ("node", str(start), f"--port={place.port}", "--headless")
    return Launch(argv, environment(NODE_ENV="production"))


def _to_portkey(upstream: str) -> Mapping[str, str]:
    return {
        "authorization": "Bearer sk-bench",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": upstream,
    }


def _run(argv: list[str]) -> str:
    """Run a command to its end, and return what it printed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALLING, check=True)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotInstalled(str(exc)) from exc
    except subprocess.CalledProcessError as exc:
        lines = [line for line in exc.stderr.splitlines() if line.strip()]
        raise NotInstalled(lines[-1][:300] if lines else f"{argv[0]} ended with {exc.returncode}") from exc
    return done.stdout.strip()
