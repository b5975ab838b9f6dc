"""A serving process that does nothing any more, though it is there."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.processes import children, cloud_model, command, wait_until

from smallfirst.router.processes.parent import Parent
from smallfirst.router.processes.sockets import listening
from smallfirst.router.processes.source import Given, Options


def workers() -> list[int]:
    return [pid for pid in children(os.getpid()) if "processes.worker" in command(pid)]


async def test_it_is_killed_and_another_one_serves(cloud: LoopbackCloud, tmp_path: Path) -> None:
    ledger = f"{{path: {tmp_path / 'ledger.db'}}}"
    model = cloud_model("big", cloud.base_url)
    given = Given(str(tmp_path / "none.yaml"), f"models: [{model}]\nledger: {ledger}\n", Options(workers=2))
    places = listening("127.0.0.1", 0, 2)
    port = places[0][0].getsockname()[1]
    parent = Parent(given, given.settings(), lambda: given, places, patience=5)
    running = asyncio.create_task(parent.run())
    try:
        async with httpx.AsyncClient(verify=False, timeout=30, headers={"connection": "close"}) as http:
            for _ in range(8):
                assert (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200
            first = await asyncio.to_thread(workers)
            os.kill(first[0], signal.SIGSTOP)
            await asyncio.to_thread(
                wait_until, lambda: first[0] not in workers() and len(workers()) == 2, seconds=30
            )
            for _ in range(8):
                assert (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200
    finally:
        parent.stop()
        assert await running == 0
    assert workers() == []
