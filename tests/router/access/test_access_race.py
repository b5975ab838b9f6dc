"""Many clients at once on one key: never more than its budget, in one process and in two that share a Redis."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.redis_server import RedisServer
from fixtures.serving import CLOUD, MakeSettings, Served

from smallfirst.router.access.keys import NewKey, make_key
from smallfirst.router.access.store import SqliteKeyStore
from smallfirst.router.gateway import Gateway
from smallfirst.router.settings import CacheSettings, KeyRules, Price

CLIENTS = 64
# The loopback cloud counts 5 tokens in every answer: each costs 0.05, which is what `max_tokens: 5` reserves.
PRICE = {"input": 0.0, "output": 10_000.0}
COST = 0.05


async def ask_at_once(base_urls: list[str], key: str, each: int) -> list[int]:
    """Let 64 clients ask some times each, in turn at these gateways; returns the statuses of all answers."""
    body = {"model": CLOUD, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 5}
    headers = {"authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)

    async def client(at: int, http: httpx.AsyncClient) -> list[int]:
        url = base_urls[at % len(base_urls)] + "/chat/completions"
        return [(await http.post(url, json=body, headers=headers)).status_code for _ in range(each)]

    async with httpx.AsyncClient(timeout=60, limits=limits) as http:
        found = await asyncio.gather(*(client(at, http) for at in range(CLIENTS)))
    return [status for statuses in found for status in statuses]


def limited(**rules: float) -> NewKey:
    return make_key("acme", now=time.time(), rules=KeyRules.model_validate({**rules, "thrifty_at": 1.0}))


@pytest.mark.parametrize(("rules", "most"), [({"requests": 40}, 40), ({"usd_per_day": 30 * COST}, 30)])
async def test_64_clients_of_one_process_get_the_budget_and_no_more(
    rules: dict[str, float],
    most: int,
    serve: Callable[[Gateway], Served],
    make_settings: MakeSettings,
    cloud: LoopbackCloud,
) -> None:
    settings = make_settings(
        local=False, cloud_fields={"price": Price.model_validate(PRICE)}, cache=CacheSettings(enabled=False)
    )
    made = limited(**rules)
    SqliteKeyStore(settings.key_store).add(made.key)
    served = serve(Gateway(settings))
    statuses = await ask_at_once([served.base_url], made.secret, each=2)
    assert (statuses.count(200), statuses.count(429)) == (most, 2 * CLIENTS - most)
    assert len(cloud.requests) == most


class Processes:
    """Two `smallfirst serve` with one key store and one Redis."""

    def __init__(self, folder: Path, cloud: LoopbackCloud, redis: RedisServer) -> None:
        self.folder, self.cloud, self.redis = folder, cloud, redis
        self.keys = SqliteKeyStore(folder / "keys.db")
        self.base_urls: list[str] = []
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for at in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            config = self.folder / f"gateway-{at}.yaml"
            config.write_text(yaml.safe_dump(self._settings(at, port)))
            command = [sys.executable, "-c", "from smallfirst.router.cli import main; main()"]
            self._running.append(subprocess.Popen([*command, "--config", str(config), "serve"]))
            self.base_urls.append(f"http://127.0.0.1:{port}/v1")
        for url in self.base_urls:
            _wait_for(url.removesuffix("/v1") + "/health")

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(20)

    def _settings(self, at: int, port: int) -> dict[str, object]:
        model = {
            "name": CLOUD,
            "kind": "openai",
            "base_url": self.cloud.base_url,
            "api_key": "sk-cloud",
            "price": PRICE,
            "retries": {"max": 0},
        }
        return {
            "models": [model],
            "cache": {"enabled": False},
            "ledger": {"path": str(self.folder / f"ledger-{at}.db")},
            "limits": {"url": self.redis.url, "timeout": 20.0, "when_down": "refuse"},
            "server": {"port": port, "key_store": str(self.keys.path)},
        }


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            if httpx.get(url, timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture
def processes(tmp_path: Path, cloud: LoopbackCloud, redis_server: RedisServer) -> Iterator[Processes]:
    made = Processes(tmp_path, cloud, redis_server)
    try:
        made.start()
        yield made
    finally:
        made.stop()


async def test_64_clients_of_two_processes_get_the_budget_and_no_more(processes: Processes) -> None:
    counted, paid = limited(requests=40), limited(usd_per_month=30 * COST)
    for made in (counted, paid):
        processes.keys.add(made.key)
    # The gateways look at the store every second.
    await asyncio.sleep(2)
    statuses = await ask_at_once(processes.base_urls, counted.secret, each=2)
    assert (statuses.count(200), statuses.count(429)) == (40, 2 * CLIENTS - 40)
    statuses = await ask_at_once(processes.base_urls, paid.secret, each=2)
    assert (statuses.count(200), statuses.count(429)) == (30, 2 * CLIENTS - 30)
    assert len(processes.cloud.requests) == 70
