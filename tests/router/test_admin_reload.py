"""Settings that are read again while the server runs: what goes on, what changes, and what is left as it was."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fixtures.loopback_cloud import Exchange, LoopbackCloud, usual
from fixtures.serving import LOCAL

from smallfirst.router.cli import settings_loader
from smallfirst.router.errors import ModelUnavailable, SettingsError
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.cloud import CloudModel
from smallfirst.router.models.upstream import Upstream
from smallfirst.router.server import make_app
from smallfirst.router.server.reload import Reloading
from smallfirst.router.settings import Settings
from smallfirst.router.settings.file import load_settings
from smallfirst.router.status import readiness
from smallfirst.router.succession import change_of

ADMIN = "an-admin-key-of-some-length"


def cloud_yaml(name: str, base_url: str, **more: Any) -> str:
    lines = [f"  - name: {name}", "    kind: openai", f"    base_url: {base_url}", "    retries: {max: 0}"]
    return "\n".join([*lines, *(f"    {key}: {value}" for key, value in more.items())])


@dataclass
class Running:
    """A server over a settings file that can be rewritten."""

    file: Path
    cloud: LoopbackCloud
    gateway: Gateway
    base_url: str = ""

    def write(self, *models: str, tail: str = "", admin: bool = True) -> None:
        admin_key = f"  admin_key: {ADMIN}\n" if admin else ""
        body = "models:\n" + "\n".join(models or (cloud_yaml("one", self.cloud.base_url),))
        ledger = f"ledger: {{path: {self.file.parent / 'ledger.db'}, flush_interval: 0.05}}"
        keys = self.file.parent / "keys.db"
        self.file.write_text(f"{body}\n{ledger}\nserver:\n  key_store: {keys}\n{admin_key}{tail}\n")

    def read(self) -> Settings:
        return load_settings(self.file, {}).settings

    def reload(self, key: str = ADMIN) -> httpx.Response:
        return httpx.post(
            f"{self.base_url}/admin/reload", headers={"authorization": f"Bearer {key}"}, timeout=30
        )

    def ask(self, text: str = "Hello", model: str = "one", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return httpx.post(f"{self.base_url}/v1/chat/completions", json=body, timeout=30)


class _Server(uvicorn.Server):
    def __init__(self, running: Running) -> None:
        app = make_app(running.gateway, read_settings=running.read)
        super().__init__(uvicorn.Config(app, port=0, access_log=False, log_level="warning", ws="none"))
        self.running, self.ready = running, threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.running.base_url = f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}"
        self.ready.set()


@contextmanager
def serving(running: Running) -> Iterator[Running]:
    server = _Server(running)
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),), name="reloading-gateway")
    thread.start()
    try:
        assert server.ready.wait(30)
        yield running
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def running(cloud: LoopbackCloud, tmp_path: Path) -> Iterator[Running]:
    """A server whose only model is a loopback cloud called `one`."""
    made = Running(tmp_path / "smallfirst.yaml", cloud, None)  # type: ignore[arg-type]
    made.write()
    made.gateway = Gateway(made.read())
    with serving(made):
        yield made


def test_a_reload_adds_a_model_and_says_so(running: Running) -> None:
    assert running.ask(model="two").status_code == 404
    url = running.cloud.base_url
    running.write(cloud_yaml("one", url), cloud_yaml("two", url), tail="policy: thrifty")
    answer = running.reload()
    assert answer.json() == {
        "object": "reload",
        "changed": ["models", "policy"],
        "needs_restart": [],
        "models": {"kept": ["one"], "added": ["two"], "changed": [], "removed": []},
    }
    assert running.ask(model="two").json()["model"] == "two"
    assert running.ask(model="auto").status_code == 200


def test_no_request_fails_while_settings_change_under_load(running: Running) -> None:
    url = running.cloud.base_url
    stop = threading.Event()

    def ask(at: int) -> list[int | str]:
        seen: list[httpx.Response] = []
        while not stop.is_set():
            streamed = {"stream": True} if at % 2 else {}
            seen.append(running.ask(f"Say {at} {len(seen)}", model="auto" if at % 3 else "one", **streamed))
        return [answer.status_code if not answer.is_error else answer.text for answer in seen]

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, at) for at in range(8)]
        try:
            for round_ in range(4):
                names = ["one", *(f"extra-{at}" for at in range(round_))]
                # The first one changes, too: its connections are made anew each time.
                models = [cloud_yaml(name, url, max_connections=100 + round_) for name in names]
                running.write(*models, tail=f"policy: {('thrifty', 'quality')[round_ % 2]}")
                assert running.reload().status_code == 200
                time.sleep(0.2)
        finally:
            stop.set()
    statuses = [status for task in asking for status in task.result()]
    assert len(statuses) > 20
    assert set(statuses) == {200}


def test_a_broken_file_changes_nothing_and_names_the_field(running: Running) -> None:
    running.write(cloud_yaml("one", running.cloud.base_url, context_tokens=-5), tail="policy: thrifty")
    answer = running.reload()
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "settings_error"
    assert "models[0].context_tokens" in answer.json()["error"]["message"]
    assert running.ask().status_code == 200


def test_a_model_that_cannot_be_loaded_changes_nothing(running: Running, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    local = f"  - name: small\n    kind: llama\n    source: file:{broken}"
    running.write(cloud_yaml("one", running.cloud.base_url), local)
    answer = running.reload()
    assert answer.status_code == 400
    assert "models: 'small' cannot be used" in answer.json()["error"]["message"]
    assert '"small"' not in httpx.get(f"{running.base_url}/v1/models").text
    assert running.ask().status_code == 200


def test_what_needs_a_restart_is_named_and_stays_as_it_was(running: Running) -> None:
    running.write(tail="  port: 4999\nmodels_memory: 1000000\ntelemetry: {service_name: other}")
    answer = running.reload().json()
    assert answer["needs_restart"] == ["server.port", "models_memory", "telemetry.service_name"]
    assert answer["changed"] == []


def test_keys_of_the_new_settings_are_asked_for_at_once(running: Running) -> None:
    assert running.ask().status_code == 200
    running.write(tail="  keys: [{key: a-key-that-is-new}]")
    assert running.reload().json()["changed"] == ["server.keys"]
    assert running.ask().status_code == 401


def test_reloading_asks_for_the_admin_key(running: Running) -> None:
    assert running.reload("a guess").status_code == 401
    assert httpx.post(f"{running.base_url}/admin/reload").status_code == 401


def test_without_an_admin_key_there_is_nothing_to_reload_over_http(running: Running) -> None:
    running.write(admin=False)
    assert running.reload().status_code == 200
    answer = running.reload()
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "admin_off"


def test_what_was_counted_goes_on(running: Running) -> None:
    running.ask("What is the first letter?")
    running.write(tail="cache: {ttl: 60}")
    running.reload()
    running.ask("What is the last letter?")
    text = httpx.get(f"{running.base_url}/metrics").text
    assert 'smallfirst_requests_total{model="one",route="cloud",status="ok"} 2.0' in text
    lookups = [line for line in text.splitlines() if line.startswith("smallfirst_cache_lookups_total{")]
    assert sum(float(line.split()[-1]) for line in lookups) == 2


def test_answers_in_the_cache_outlive_a_reload(running: Running) -> None:
    running.ask("What is kept?")
    running.write(tail="cache: {ttl: 60}\npolicy: balanced")
    assert running.reload().json()["changed"] == ["cache.ttl"]
    assert running.ask("What is kept?").headers["x-smallfirst-cache"] == "exact"


def test_a_request_ends_where_it_began(running: Running) -> None:
    """Its model is gone from the settings when it ends; its connection is closed only then."""
    going = threading.Event()

    async def slow(exchange: Exchange) -> bool:
        going.set()
        await asyncio.sleep(1.0)
        return await usual(exchange)

    running.cloud.enqueue(slow)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask)
        assert going.wait(10)
        before = running.gateway.models["one"]
        running.write(cloud_yaml("two", running.cloud.base_url))
        assert running.reload().json()["models"]["removed"] == ["one"]
        assert is_open(before)
        assert asked.result().status_code == 200
    assert running.ask(model="one").status_code == 404
    wait_until(lambda: not is_open(before))


def is_open(model: Any) -> bool:
    assert isinstance(model, CloudModel)
    assert isinstance(model._upstream, Upstream)
    return model._upstream.open


def wait_until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- local models ---------------------------------------------------------------------------------------------


def test_a_local_model_that_did_not_change_is_not_loaded_again(
    cloud: LoopbackCloud, tmp_path: Path, models_dir: Path, model_path: Path
) -> None:
    local = f"  - name: {LOCAL}\n    kind: llama\n    source: file:{model_path}\n    context_tokens: 512"
    made = Running(tmp_path / "smallfirst.yaml", cloud, None)  # type: ignore[arg-type]
    made.write(local)
    made.gateway = Gateway(made.read())
    with serving(made):
        assert made.ask(model=LOCAL, max_tokens=2).status_code == 200
        model = made.gateway.models[LOCAL]
        pid = getattr(model, "pid", None)
        assert pid is not None
        # Another price is a matter of billing, not of the model.
        priced = f"{local}\n    price: {{input: 1, output: 1}}"
        made.write(priced, cloud_yaml("two", cloud.base_url))
        assert made.reload().json()["models"]["kept"] == [LOCAL]
        assert made.ask("Again", model=LOCAL, max_tokens=2).headers["x-smallfirst-cost-usd"] != "0"
        assert getattr(model, "pid", None) == pid
        # Fewer tokens are another context: it is loaded anew, and the old process ends.
        made.write(priced.replace("512", "256"), cloud_yaml("two", cloud.base_url))
        assert made.reload().json()["models"]["changed"] == [LOCAL]
        assert made.ask("Third", model=LOCAL, max_tokens=2).status_code == 200
        wait_until(lambda: not getattr(model, "loaded", True))


# --- what changes ---------------------------------------------------------------------------------------------


def settings(**fields: Any) -> Settings:
    models = ({"name": "one", "kind": "openai"},)
    return Settings.model_validate({"models": models, "ledger": {"path": "l.db"}, **fields})


def test_equal_settings_change_nothing() -> None:
    _, change = change_of(settings(), settings())
    assert (change.changed, change.needs_restart, change.models_kept) == ((), (), ("one",))


def test_a_price_keeps_its_model() -> None:
    priced = ({"name": "one", "kind": "openai", "price": {"input": 1, "output": 2}},)
    _, change = change_of(settings(), settings(models=priced))
    assert (change.models_kept, change.models_changed, change.changed) == (("one",), (), ("models",))


def test_a_ledger_elsewhere_needs_a_restart() -> None:
    effective, change = change_of(settings(), settings(ledger={"path": "other.db"}, policy="quality"))
    assert change.needs_restart == ("ledger.path",)
    assert effective.ledger.path == Path("l.db")
    assert effective.policy == "quality"


def test_what_needs_a_restart_is_named_once() -> None:
    _, change = change_of(settings(), settings(limits={"timeout": 0.5}, server={"key_store": "other.db"}))
    assert change.needs_restart == ("server.key_store", "limits.timeout")


# --- in the middle of something else ----------------------------------------------------------------------------


@pytest.fixture
async def reloading(cloud: LoopbackCloud, tmp_path: Path) -> AsyncIterator[tuple[Running, Reloading]]:
    """What reloads, without a server around it, and its file, with a cloud called `one`."""

    async def app(*_: object) -> None: ...

    made = Running(tmp_path / "smallfirst.yaml", cloud, None)  # type: ignore[arg-type]
    made.write()
    served = Reloading(Gateway(made.read()), lambda _gateway, _reload: app, made.read)
    yield made, served
    await served.aclose()


async def test_a_model_that_is_removed_while_it_loads_is_not_listed_afterwards(
    reloading: tuple[Running, Reloading], model_path: Path
) -> None:
    made, served = reloading
    made.write(cloud_yaml("one", made.cloud.base_url), small(model_path))
    await served.reload()
    first = served.gateway
    made.write()
    loading = asyncio.create_task(first.load_models())
    await asyncio.sleep(0)
    await served.reload()
    await loading
    assert set(readiness(served.gateway)["models"]) == {"one"}


async def test_a_model_that_fails_to_load_says_nothing_of_its_successor(
    reloading: tuple[Running, Reloading], tmp_path: Path
) -> None:
    made, served = reloading
    first, failing = served.gateway, asyncio.Event()

    class Slow(CloudModel):
        async def start(self) -> None:
            await failing.wait()
            raise ModelUnavailable("gone")

    first.models["one"] = first._states_of["one"] = Slow(made.read().models[0])  # type: ignore[arg-type]
    loading = asyncio.create_task(first.load_models())
    await asyncio.sleep(0)
    made.write(cloud_yaml("one", made.cloud.base_url, max_connections=7))
    await served.reload()
    failing.set()
    await loading
    assert readiness(served.gateway)["models"] == {"one": "ready"}


async def test_the_end_waits_for_a_reload_and_leaves_no_model_behind(
    reloading: tuple[Running, Reloading], model_path: Path
) -> None:
    made, served = reloading
    made.write(cloud_yaml("one", made.cloud.base_url), small(model_path))
    again = asyncio.create_task(served.reload())
    while "small" not in served.gateway.models and not again.done():
        await asyncio.sleep(0.01)
        if not served._closed:
            closing = asyncio.create_task(served.aclose())
    await asyncio.gather(again, closing)
    assert not getattr(served.gateway.models["small"], "loaded", True)
    with pytest.raises(SettingsError, match="about to end"):
        await served.reload()


def small(model_path: Path) -> str:
    return f"  - name: small\n    kind: llama\n    source: file:{model_path}\n    context_tokens: 512"


async def test_a_server_without_a_file_has_nothing_to_reload(running: Running) -> None:
    async def app(*_: object) -> None: ...

    served = Reloading(running.gateway, lambda _gateway, _reload: app, None)
    with pytest.raises(SettingsError, match="not started from settings"):
        await served.reload()


# --- the command ----------------------------------------------------------------------------------------------


def test_a_hangup_makes_the_command_read_its_file_again(cloud: LoopbackCloud, tmp_path: Path) -> None:
    made = Running(tmp_path / "smallfirst.yaml", cloud, None)  # type: ignore[arg-type]
    log = "log: {format: json}"
    made.write(tail=log)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made.base_url = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("smallfirst")), "--config", str(made.file), "serve"]
    errors = tmp_path / "stderr"
    with errors.open("wb") as to, subprocess.Popen([*command, "--port", str(port)], stderr=to) as process:
        try:
            wait_until(lambda: answers(f"{made.base_url}/health"), seconds=30)
            made.write(cloud_yaml("one", cloud.base_url), cloud_yaml("two", cloud.base_url), tail=log)
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: made.ask(model="two").status_code == 200)
            made.write(cloud_yaml("one", cloud.base_url, kind="unheard-of"), tail=log)
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "were not read again" in errors.read_text())
            assert made.ask(model="two").status_code == 200
        finally:
            process.terminate()
            process.wait(30)
    events = [json.loads(line) for line in errors.read_text().splitlines() if line.startswith("{")]
    again = next(event for event in events if event["message"] == "the settings were read again")
    assert again["changed"] == ["models"]
    failed = next(event for event in events if "were not read again" in event["message"])
    assert (failed["level"], failed["logger"]) == ("error", "smallfirst.server")
    assert "models[0]" in failed["message"]
    assert {"smallfirst.request", "smallfirst.access"} <= {event["logger"] for event in events}


def test_a_file_that_is_gone_is_an_error_and_not_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would serve everybody: the keys were in the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMALLFIRST_CONFIG", raising=False)
    file = tmp_path / "smallfirst.yaml"
    file.write_text("policy: private\n")
    load = settings_loader(None)
    assert load().policy == "private"
    file.unlink()
    with pytest.raises(SettingsError, match=r"smallfirst\.yaml: cannot be read"):
        load()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.TransportError:
        return False
